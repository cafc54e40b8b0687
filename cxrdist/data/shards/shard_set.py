"""A shard set for reading: any sample of a stratum by its number, one read at a known offset, hash checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import FOREIGN, decode
from cxrdist.data.shards.manifest import (
    MANIFEST,
    REMEDY,
    REMEDY_IN_PLACE,
    Manifest,
    Stratum,
    read_index,
    read_manifest,
    read_table,
)
from cxrdist.data.shards.schema import is_key
from cxrdist.data.shards.stratum_blocks import fetch_ahead, read_spans
from cxrdist.data.shards.synthetic_keys import are_truncated, has_truncated_keys, is_long_key, refusal
from cxrdist.data.shards.tar import TOLD, Sample, hashed, index_name, read_tar
from cxrdist.data.storage.block_cache import default_cache
from cxrdist.data.storage.block_reader import BlockReader
from cxrdist.data.storage.blocks import block_rows_of
from cxrdist.data.storage.single_flight import SingleFlight
from cxrdist.data.storage.store import LocalStore, Store, store_of
from cxrdist.errors import UserError

INDEXES = 64
"""Indexes of a stratum that are kept in memory, each about a megabyte at most."""


class CorruptSample(UserError):
    """A sample whose bytes are not the ones that were written, or are not the image that they should be."""

    def __init__(self, message: str, *, every_rank: bool = True) -> None:
        super().__init__(message, every_rank=every_rank)


@dataclass
class StratumReader:
    """Samples of one stratum by number, through the indexes; opens a tar when a sample of it is read.

    Travels to worker processes without what it has read. Several threads may read at once.
    """

    store: Store
    entry: dict[str, Any]
    class_index: int
    encoding: str
    image_size: int
    importer: str | None
    """What the manifest says that the images were imported with."""
    blocks: BlockReader | None = None
    """What reads the tars where they are not local."""
    block_rows: int = 0
    """How many samples of a shard are then fetched together: about 4 MiB, unless told."""
    index: Callable[[int], np.ndarray] = field(init=False, repr=False, compare=False)
    """Of a shard: its samples that belong to this stratum, [samples] of ``INDEX_DTYPE``."""

    def __post_init__(self) -> None:
        self.block_rows = self.block_rows or block_rows_of(self.entry["bytes"], self.entry["samples"])
        # SingleFlight has one thread read for all; a result that is cached, lru_cache returns ten times faster.
        self.index = functools.lru_cache(INDEXES)(SingleFlight(self._index, INDEXES))

    def __reduce__(self) -> tuple[Any, ...]:
        return StratumReader, (
            self.store,
            self.entry,
            self.class_index,
            self.encoding,
            self.image_size,
            self.importer,
            self.blocks,
            self.block_rows,
        )

    def with_block_rows(self, rows: int) -> StratumReader:
        """The same stratum, fetched in blocks of ``rows`` samples if its tars are remote."""
        reader = replace(self, block_rows=rows)
        # A table may have 10^6 rows: what was read and checked is not read again.
        vars(reader).update({name: vars(self)[name] for name in ("shards", "ends") if name in vars(self)})
        return reader

    @property
    def samples(self) -> int:
        return self.entry["samples"]

    @property
    def shard_samples(self) -> np.ndarray:
        """[shards] int64."""
        return np.array([shard["samples"] for shard in self.shards], np.int64)

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

    def _index(self, shard: int) -> np.ndarray:
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
        elif self.entry["origin"] == "synthetic" and are_truncated(index["key"]):
            raise refusal(self.store)
        return index

    def key(self, number: int) -> bytes:
        shard, row = self.locate(number)
        return bytes(self.index(shard)[row]["key"])

    def spans(self, shard: int, rows: np.ndarray) -> list[memoryview]:
        """The encoded images of these rows of a shard as they lie there now, from wherever they come: not compared
        with their hashes, and shorter where the file ends before. Raises UserError where it is missing."""
        index, name = self.index(shard), self.shards[shard]["name"]
        try:
            if self.blocks is not None:
                return read_spans(self, self.blocks, shard, rows)
            places = zip(index["offset_bytes"][rows].tolist(), index["length_bytes"][rows].tolist())
            if isinstance(self.store, LocalStore):
                file = self.store.mapped(name)
                return [file[start : start + length] for start, length in places]
            return [memoryview(self.store.read_range(name, start, length)) for start, length in places]
        except FileNotFoundError:
            raise UserError(f"{self.store}/{name}: missing; {self.remedy}", every_rank=True) from None

    def span(self, shard: int, row: int) -> memoryview:
        """One of ``spans``."""
        return self.spans(shard, np.array([row]))[0]

    def prefetch(self, samples: np.ndarray) -> None:
        """Have the blocks of samples [n] int fetched, in this order, while others are read; nothing happens where the
        set is local. What is too much to be on its way at once is left for a later call."""
        if self.blocks is not None:
            fetch_ahead(self, self.blocks, samples)

    def image_bytes(self, number: int) -> bytes:
        """The encoded image. Raises CorruptSample, naming shard, key and offset, where its hash does not fit."""
        return bytes(self._checked(*self.locate(number)))

    def _checked(self, shard: int, row: int) -> memoryview:
        data = self.span(shard, row)
        self._check(shard, row, data)
        return data

    def _check(self, shard: int, row: int, data: bytes | memoryview) -> None:
        if xxhash.xxh3_64_intdigest(data) != int(self.index(shard)[row]["xxh3_64"]):
            raise self._corrupt(shard, row, "its bytes are not the ones that were written")

    def pixels(self, number: int, out: np.ndarray | None = None) -> np.ndarray:
        """One image, [H, W] uint8; ``out``, of that shape, where it is given. Raises CorruptSample, naming shard, key
        and offset, where it is not what was written, or no such image."""
        shard, row = self.locate(number)
        try:
            return decode(self._checked(shard, row), self.encoding, self.image_size, out)
        except UndecodableImage as error:
            raise self._corrupt(shard, row, str(error)) from None

    @cached_property
    def has_truncated_keys(self) -> bool:
        """Whether an earlier version wrote it with keys that no index has room for."""
        try:
            shards = self.shards
        except UserError:
            return False  # whoever reads the stratum meets this error, and verify lists it with all others
        return has_truncated_keys(self.store, self.entry, shards)

    def whole(self, shard: int, *, allows_long_keys: bool = False) -> Iterator[Sample]:
        """All samples of a shard in order, with their metadata, its SHA-256 checked before the first one.

        ``allows_long_keys``: those of an earlier version too, which are refused otherwise.
        """
        if self.has_truncated_keys and not allows_long_keys:
            raise refusal(self.store)
        row = self.shards[shard]
        where = f"{self.store}/{row['name']}"
        try:
            with self.store.open(row["name"]) as file:
                if hashed(file)[1] != row["sha256"]:
                    raise UserError(f"{where}: changed since it was written; {self.remedy}")
                if self.is_foreign:
                    yield from self._foreign(shard, file)
                    return
                is_valid_key = _is_any_key if self.has_truncated_keys else is_key
                for _, sample in read_tar(
                    file, where, self.class_index, self.encoding, is_valid_key=is_valid_key
                ):
                    yield sample
        except FileNotFoundError:
            raise UserError(f"{where}: missing; {self.remedy}") from None

    def _foreign(self, shard: int, file: IO[bytes]) -> Iterator[Sample]:
        """Samples in others' tars, with what the import made of their metadata."""
        row = self.shards[shard]
        tolds = row.get("told") or [{}] * row["samples"]
        for number, (entry, told) in enumerate(zip(self.index(shard), tolds)):
            meta = {
                "patient": entry["patient"].decode(),
                "origin": self.entry["origin"],
                "source": self.importer,
                "phantom": False,
                **{name: told.get(name, [] if name == "findings" else None) for name in TOLD},
            }
            file.seek(int(entry["offset_bytes"]))
            data = file.read(int(entry["length_bytes"]))
            self._check(shard, number, data)
            yield Sample(entry["key"].decode(), data, meta)

    def _corrupt(self, shard: int, row: int, why: str) -> CorruptSample:
        entry = self.index(shard)[row]
        return CorruptSample(
            f"{self.store}/{self.shards[shard]['name']}: sample {entry['key'].decode()} at byte "
            f"{int(entry['offset_bytes'])}: {why}; `cxrdist shards verify {self.store}` lists all that is wrong"
        )


def _is_any_key(key: str) -> bool:
    return is_key(key) or is_long_key(key)


class ShardSet:
    """A shard set for reading, in a folder or at a URL. Raises UserError where there is none, or a changed one."""

    def __init__(self, place: str | Path | Store) -> None:
        self.store = store_of(place)
        self.manifest: Manifest = read_manifest(self.store)
        self._readers: dict[Stratum, StratumReader] = {}
        is_local = isinstance(self.store, LocalStore)
        self.blocks = None if is_local else BlockReader(self.store, default_cache())

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

    @property
    def has_truncated_keys(self) -> bool:
        """Whether an earlier version wrote it with keys that its indexes have no room for."""
        return any(
            self.stratum(stratum.split, stratum.class_name, stratum.origin).has_truncated_keys
            for stratum in self.strata
            if stratum.origin == "synthetic"
        )

    def check_keys(self) -> None:
        """Raises UserError, naming the command that mends it, for a set with truncated keys."""
        if self.has_truncated_keys:
            raise refusal(self.store)

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
                        self.blocks,
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
        if self.blocks is not None:
            self.blocks.close()
        self.store.close()


def hash_keys(keys: Iterable[bytes], before: bytes = b"") -> bytes:
    """SHA-256 over ``before`` and then the keys, each ended by a newline."""
    digest = hashlib.sha256(before)
    for key in keys:
        digest.update(key + b"\n")
    return digest.digest()
