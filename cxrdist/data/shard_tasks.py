"""The shards of an import, each written by a worker process: decode, resize, encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.data.fingerprints import NO_HASH
from cxrdist.data.images import LOSSLESS, UndecodableImage, decode, encode
from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.near_duplicates import perceptual_hash
from cxrdist.data.privacy import OLDEST_TOLD_YEARS, Salt
from cxrdist.data.shard_pool import ShardResult, ShardTask, count_image
from cxrdist.data.shards import Sample


@dataclass(frozen=True)
class ImportTask(ShardTask):
    """One shard of an import."""

    image_size: int
    fit: str
    importer: Importer
    salt: Salt
    records: list[Record]
    makes_hashes: bool

    @property
    def images(self) -> int:
        return len(self.records)

    def samples(self, result: ShardResult) -> Iterator[Sample]:
        for record in self.records:
            count_image()
            try:
                pixels = self.importer.pixels(record, self.image_size, self.fit)
            except UndecodableImage as error:
                result.undecodable.append(str(error))
                result.hashes += NO_HASH
                continue
            image = encode(pixels, self.encoding)
            if self.makes_hashes:
                # Of what the set holds, so that a shard taken over from a killed job gives the same.
                is_lossless = self.encoding in LOSSLESS
                result.hashes += perceptual_hash(pixels if is_lossless else self.decoded(image))
            meta = sample_meta(record, self.importer, self.salt)
            yield Sample(self.salt.key(record.source_id), image, meta)

    def decoded(self, image: bytes) -> np.ndarray:
        return decode(image, self.encoding, self.image_size)

    def look(self, sample: Sample) -> tuple[dict[str, Any], bytes]:
        return sample.meta, perceptual_hash(self.decoded(sample.image)) if self.makes_hashes else NO_HASH

    def take_over(
        self, row: dict[str, Any], samples: dict[str, tuple[dict[str, Any], bytes]]
    ) -> ShardResult | None:
        result = ShardResult(row)
        left = dict(samples)
        for record in self.records:
            meta, image_hash = left.pop(self.salt.key(record.source_id), (None, NO_HASH))
            result.hashes += image_hash
            if meta is None:
                reason = self.why_undecodable(record)
                if reason is None:
                    return None  # repaired since: the shard is written again, with it
                result.undecodable.append(reason)
            elif meta != sample_meta(record, self.importer, self.salt):
                return None
        return None if left else result

    def why_undecodable(self, record: Record) -> str | None:
        try:
            self.importer.pixels(record, self.image_size, self.fit)
        except UndecodableImage as error:
            return str(error)
        return None


@dataclass(frozen=True)
class HashTask:
    """Some images whose perceptual hashes are wanted before the split is drawn."""

    start: int
    image_size: int
    fit: str
    importer: Importer
    records: list[Record]


def hash_images(task: HashTask) -> bytes:
    """The hashes of a task's images, one after the other; ``NO_HASH`` where one does not decode."""
    hashes = bytearray()
    for record in task.records:
        count_image()
        try:
            hashes += perceptual_hash(task.importer.pixels(record, task.image_size, task.fit))
        except UndecodableImage:
            hashes += NO_HASH
    return bytes(hashes)


def patient_of(record: Record) -> str:
    """The source's name of the patient; an image of nobody known is its own patient."""
    return record.patient_id or record.source_id


def sample_meta(record: Record, importer: Importer, salt: Salt) -> dict[str, Any]:
    """What a sample's ``.json`` says of it."""
    return {
        "patient": salt.patient(patient_of(record)),
        "origin": "real",
        "source": importer.name,
        "phantom": importer.is_phantom,
        "view": record.view,
        "sex": record.sex,
        "age": None if record.age is None else min(record.age, OLDEST_TOLD_YEARS),
        "findings": [*record.findings, *record.uncounted],
    }
