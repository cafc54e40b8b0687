"""A shard set for reading: any sample of a stratum by its number, one read at a known offset, hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cxrdist.data.images import FOREIGN, UndecodableImage, decode
from cxrdist.data.manifest import (
    MANIFEST,
    REMEDY,
    REMEDY_IN_PLACE,
    Manifest,
    Stratum,
    read_index,
    read_manifest,
    read_table,
)
from cxrdist.data.shards import TOLD, Sample, hashed, index_name, read_tar
from cxrdist.data.store import Store, store_of
from cxrdist.errors import UserError


@dataclass
class StratumReader:
    """Samples of one stratum by number, through the indexes; opens a tar when a sample of it is read."""

    store: Store
    entry: dict[str, Any]
    class_index: int
    encoding: str
    image_size: int
    importer: str | None
    """What the manifest says that the images were imported with."""
    _indexes: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return self.entry["samples"]

    @property
    def is_foreign(self) -> bool:
        """Whether the tars are others' own, each perhaps with samples of several strata."""
        return self.encoding in FOREIGN.values()

    @property
    def remedy(self) -> str:
        """What to do where a file is not as it was written."""
        return REMEDY_IN_PLACE if self.is_foreign else REMEDY

    @cached_property
    def shards(self) -> list[dict[str, Any]]:
        shards = read_table(self.store, self.entry)
        if sum(shard["samples"] for shard in shards) != self.samples:
            raise UserError(
                f"{self.store}/{self.entry['table']}: not the samples that {MANIFEST} tells of; {self.remedy}"
            )
        return shards

    @cached_property
    def ends(self) -> np.ndarray:
        """[shards] int64: how many samples the shards up to each one hold together."""
        return np.cumsum([s["samples"] for s in self.shards])

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and row of sample ``number``."""
        if not 0 <= number < self.samples:
            raise IndexError(f"sample {number} of {self.samples}")
        shard = int(np.searchsorted(self.ends, number, side="right"))
        before = int(self.ends[shard - 1]) if shard else 0
        return shard, number - before

    def index(self, shard: int) -> np.ndarray:
        if shard not in self._indexes:
            row = self.shards[shard]
            index = read_index(self.store, index_name(row["name"]), row, is_foreign=self.is_foreign)
            if self.is_foreign:
                index = index[
                    (index["split"] == self.entry["split"].encode())
                    & (index["class"] == self.class_index)
                    & (index["origin"] == self.entry["origin"].encode())
                ]
                if len(index) != row["samples"]:
                    raise UserError(
                        f"{self.store}/{index_name(row['name'])}: not the index of its table; {self.remedy}"
                    )
            self._indexes[shard] = index
        return self._indexes[shard]

    def key(self, number: int) -> bytes:
        shard, row = self.locate(number)
        return bytes(self.index(shard)[row]["key"])

    def image_bytes(self, number: int) -> bytes:
        """The encoded image. Raises UserError, naming shard, key and offset, where its hash does not fit."""
        shard, row = self.locate(number)
        return self._bytes(shard, self.index(shard)[row])

    def _bytes(self, shard: int, entry: np.void) -> bytes:
        name = self.shards[shard]["name"]
        try:
            data = self.store.read_range(name, int(entry["offset_bytes"]), int(entry["length_bytes"]))
        except FileNotFoundError:
            raise UserError(f"{self.store}/{name}: missing; {self.remedy}", every_rank=True) from None
        if xxhash.xxh3_64_intdigest(data) != int(entry["xxh3_64"]):
            raise self._corrupt(shard, entry, "its bytes are not the ones that were written")
        return data

    def pixels(self, number: int) -> np.ndarray:
        """One image, [H, W] uint8."""
        data = self.image_bytes(number)
        try:
            return decode(data, self.encoding, self.image_size)
        except UndecodableImage as error:
            shard, row = self.locate(number)
            raise self._corrupt(shard, self.index(shard)[row], str(error)) from None

    def whole(self, shard: int) -> Iterator[Sample]:
        """All samples of a shard in order, with their metadata, its SHA-256 checked before the first one."""
        row = self.shards[shard]
        where = f"{self.store}/{row['name']}"
        try:
            with self.store.open(row["name"]) as file:
                if hashed(file)[1] != row["sha256"]:
                    raise UserError(f"{where}: changed since it was written; {self.remedy}")
                if self.is_foreign:
                    yield from self._foreign(shard)
                    return
                for _, sample in read_tar(file, where, self.class_index, self.encoding):
                    yield sample
        except FileNotFoundError:
            raise UserError(f"{where}: missing; {self.remedy}") from None

    def _foreign(self, shard: int) -> Iterator[Sample]:
        """Samples in others' tars, with what the import made of their metadata."""
        row = self.shards[shard]
        for entry, told in zip(self.index(shard), row.get("told") or [{}] * row["samples"]):
            meta = {
                "patient": entry["patient"].decode(),
                "origin": self.entry["origin"],
                "source": self.importer,
                "phantom": False,
                **{name: told.get(name, [] if name == "findings" else None) for name in TOLD},
            }
            yield Sample(entry["key"].decode(), self._bytes(shard, entry), meta)

    def _corrupt(self, shard: int, entry: np.void, why: str) -> UserError:
        return UserError(
            f"{self.store}/{self.shards[shard]['name']}: sample {entry['key'].decode()} at byte "
            f"{int(entry['offset_bytes'])}: {why}; `cxrdist shards verify {self.store}` lists all that is wrong",
            every_rank=True,
        )


class ShardSet:
    """A shard set for reading, in a folder or at a URL. Raises UserError where there is none, or a changed one."""

    def __init__(self, place: str | Path | Store) -> None:
        self.store = store_of(place)
        self.manifest: Manifest = read_manifest(self.store)
        self._readers: dict[Stratum, StratumReader] = {}

    def __str__(self) -> str:
        return str(self.store)

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def classes(self) -> list[str]:
        return self.manifest["classes"]

    @property
    def image_size(self) -> int:
        return self.manifest["image_size"]

    @property
    def is_foreign(self) -> bool:
        """Whether its tars are others' own, indexed where they lie."""
        return self.manifest["encoding"] in FOREIGN.values()

    @property
    def strata(self) -> list[Stratum]:
        return [Stratum(e["split"], e["class"], e["origin"]) for e in self.manifest["strata"]]

    def samples(self, split: str, class_name: str, origin: str) -> int:
        return self.manifest["counts"].get(split, {}).get(class_name, {}).get(origin, 0)

    def stratum(self, split: str, class_name: str, origin: str) -> StratumReader:
        stratum = Stratum(split, class_name, origin)
        if stratum not in self._readers:
            for entry in self.manifest["strata"]:
                if (entry["split"], entry["class"], entry["origin"]) == (split, class_name, origin):
                    self._readers[stratum] = StratumReader(
                        self.store,
                        entry,
                        self.classes.index(class_name),
                        self.manifest["encoding"],
                        self.image_size,
                        self.manifest["provenance"].get("importer"),
                    )
                    break
            else:
                raise UserError(f"{self.store}: no {origin} images of {class_name} in its {split} split")
        return self._readers[stratum]

    def images(self, split: str, class_name: str, origin: str, count: int) -> np.ndarray:
        """The first ``count`` images of a stratum (fewer where it has fewer), [n, H, W] uint8."""
        reader = self.stratum(split, class_name, origin)
        return np.stack([reader.pixels(i) for i in range(min(count, reader.samples))])

    def close(self) -> None:
        self.store.close()


def hash_keys(keys: Iterable[bytes], before: bytes = b"") -> bytes:
    """SHA-256 over ``before`` and then the keys, each ended by a newline."""
    digest = hashlib.sha256(before)
    for key in keys:
        digest.update(key + b"\n")
    return digest.digest()
