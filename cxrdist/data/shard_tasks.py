"""The shards of an import, each written by a worker process: decode, resize, encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cxrdist.data.images import UndecodableImage, encode
from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.importers.tables import OLDEST_TOLD_YEARS
from cxrdist.data.privacy import Salt
from cxrdist.data.shard_pool import ShardTask, count_image
from cxrdist.data.shards import Sample


@dataclass(frozen=True)
class ImportTask(ShardTask):
    """One shard of an import."""

    image_size: int
    fit: str
    importer: Importer
    salt: Salt
    records: list[Record]

    @property
    def images(self) -> int:
        return len(self.records)

    def samples(self, undecodable: list[str]) -> Iterator[Sample]:
        for record in self.records:
            count_image()
            try:
                pixels = self.importer.pixels(record, self.image_size, self.fit)
            except UndecodableImage as error:
                undecodable.append(str(error))
                continue
            meta = sample_meta(record, self.importer, self.salt)
            image = encode(pixels, self.encoding)
            yield Sample(self.salt.key(record.source_id), image, meta)

    def undecodable_in(self, metas: dict[str, dict[str, Any]]) -> list[str] | None:
        left_out = [record for record in self.records if self.salt.key(record.source_id) not in metas]
        reasons = [self.why_undecodable(record) for record in left_out]
        # Where one has been repaired since, the shard is written again, with it.
        return [reason for reason in reasons if reason] if all(reasons) else None

    def why_undecodable(self, record: Record) -> str | None:
        try:
            self.importer.pixels(record, self.image_size, self.fit)
        except UndecodableImage as error:
            return str(error)
        return None


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
        # From 90 up an age alone may tell who a person is.
        "age": None if record.age is None else min(record.age, OLDEST_TOLD_YEARS),
        "findings": list(record.findings),
    }
