"""The shards of an import, each written by a worker process: decode, resize, encode, describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.data.deidentify import AGE_CAP_YEARS, Salt
from cxrdist.data.imaging.codecs import LOSSLESS, encode
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.faults import Fault
from cxrdist.data.imaging.near_duplicates import perceptual_hash
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.imaging.repairs import noting
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.ingest.fingerprints import NO_HASH
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.schema import class_in_metadata
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.writing.write_pool import Outcome, ShardResult, ShardTask, count_image

REPAIRS = "repairs"
"""The metadata field of a sample that was repaired."""


def sample_meta(record: Record, importer: Importer, salt: Salt) -> dict[str, Any]:
    """The metadata of a sample, as its ``.json`` holds it: no name of the source's, only salted hashes."""
    return {
        "patient": salt.patient(record.patient),
        "origin": "real",
        "source": importer.name,
        "phantom": importer.is_phantom,
        "view": record.view,
        "sex": record.sex,
        "age": None if record.age is None else min(record.age, AGE_CAP_YEARS),
        "findings": [*record.findings, *record.uncounted],
    }


def fault_of(record: Record, error: UndecodableImage, key: str) -> Fault:
    return Fault(error.file or record.name, error.reason, key)


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

    def outcomes(self) -> Iterator[Outcome]:
        for record in self.records:
            key = self.salt.key(record.source_id)
            try:
                with noting() as repairs:
                    pixels = self.importer.pixels(record, self.image_size, self.fit)
            except UndecodableImage as error:
                yield Outcome(undecodable=fault_of(record, error, key), image_hash=NO_HASH)
                continue
            image = encode(pixels, self.encoding)
            image_hash = NO_HASH
            if self.makes_hashes:
                # Of the pixels that the set holds, so that a shard that is taken over has the same hashes.
                is_lossless = self.encoding in LOSSLESS
                image_hash = perceptual_hash(pixels if is_lossless else self.decoded(image))
            meta = self.meta_of(record)
            if repairs:
                meta[REPAIRS] = repairs
            faults = [Fault(record.name, what, key) for what in repairs]
            yield Outcome(Sample(key, image, meta), repairs=faults, image_hash=image_hash)

    def meta_of(self, record: Record) -> dict[str, Any]:
        """Without repairs."""
        class_name = class_in_metadata(self.stratum.class_name)
        return sample_meta(record, self.importer, self.salt) | {"class": class_name}

    def decoded(self, image: bytes) -> np.ndarray:
        return decode(image, self.encoding, self.image_size)

    def inspect(self, sample: Sample) -> tuple[dict[str, Any], bytes]:
        return sample.meta, perceptual_hash(self.decoded(sample.image)) if self.makes_hashes else NO_HASH

    def take_over(
        self, row: ShardRow, samples: Mapping[str, tuple[dict[str, Any], bytes]]
    ) -> ShardResult | None:
        undecodable: list[Fault] = []
        repairs: list[Fault] = []
        hashes: list[bytes] = []
        unmatched = dict(samples)
        for record in self.records:
            key = self.salt.key(record.source_id)
            meta, image_hash = unmatched.pop(key, (None, NO_HASH))
            hashes.append(image_hash)
            if meta is None:
                fault = self.why_undecodable(record, key)
                if fault is None:
                    return None  # the image has been repaired since: write the shard again, with it
                undecodable.append(fault)
                continue
            of_image = meta.pop(REPAIRS, [])
            if meta != self.meta_of(record):
                return None
            repairs += [Fault(record.name, what, key) for what in of_image]
        return None if unmatched else ShardResult(row, undecodable, repairs, b"".join(hashes))

    def why_undecodable(self, record: Record, key: str) -> Fault | None:
        """Why the image does not decode; None if it does."""
        try:
            self.importer.pixels(record, self.image_size, self.fit)
        except UndecodableImage as error:
            return fault_of(record, error, key)
        return None


@dataclass(frozen=True)
class HashTask:
    """A run of images, from index ``start`` on, to hash before the split is drawn."""

    start: int
    image_size: int
    fit: str
    importer: Importer
    records: list[Record]


def hash_images(task: HashTask) -> bytes:
    """The perceptual hashes of a task's images, one after the other; ``NO_HASH`` for one that does not decode."""
    hashes = bytearray()
    for record in task.records:
        count_image()
        try:
            hashes += perceptual_hash(task.importer.pixels(record, task.image_size, task.fit))
        except UndecodableImage:
            hashes += NO_HASH
    return bytes(hashes)
