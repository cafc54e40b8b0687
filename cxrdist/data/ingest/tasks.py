"""The shards of an import, each written by a worker process: decode, resize, encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.data.deidentify import Salt
from cxrdist.data.imaging.codecs import LOSSLESS, encode
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.near_duplicates import perceptual_hash
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.ingest.fingerprints import NO_HASH
from cxrdist.data.ingest.provenance import sample_meta
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.write_pool import ShardResult, ShardTask, count_image


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
