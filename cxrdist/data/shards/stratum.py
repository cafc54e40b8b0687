"""The samples of one stratum: any of them by its number, one read at a known offset, hash checked.

A stratum at a URL is read by blocks: block g of a shard has rows [g n, (g + 1) n) of its index, n = ``block_rows``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import IO, Any

import numpy as np
import xxhash

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode, is_external
from cxrdist.data.shards.index import ShardTable, changed, index_name, missing, read_index, read_table
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.removed import Removed, kept, not_in_shard, removed_of, samples_left
from cxrdist.data.shards.schema import (
    MANIFEST,
    REMEDY,
    REMEDY_IN_PLACE,
    Problem,
    ShardSetError,
    class_in_metadata,
    is_key,
)
from cxrdist.data.shards.synthetic_keys import are_truncated, has_truncated_keys, is_long_key, refusal
from cxrdist.data.shards.tar import METADATA_FIELDS, Sample, TarFile, hashed, read_tar
from cxrdist.data.storage.block_reader import BlockReader
from cxrdist.data.storage.blocks import Block, block_of, block_rows_of
from cxrdist.data.storage.single_flight import SingleFlight
from cxrdist.data.storage.store import LocalStore, Store
from cxrdist.errors import UserError

CACHED_INDEXES = 64
"""Indexes of a stratum that are kept in memory, each about a megabyte at most."""


class CorruptSample(UserError):
    """A sample whose bytes do not match their hash, or that is not the image it should be."""


@dataclass
class StratumReader:
    """Samples of one stratum by number, through the indexes; opens a tar when one of its samples is read.

    Pickled without what it has read, so it can be sent to worker processes. Several threads may read at once.
    """

    store: Store
    entry: StratumEntry
    class_index: int
    encoding: str
    image_size: int
    importer: str | None
    """The importer that the manifest names."""
    blocks: BlockReader | None = None
    """Reads the tars of a set that is not local."""
    block_rows: int = 0
    """Samples of a shard that are then fetched together; 0: about 4 MiB of them."""
    index: Callable[[int], np.ndarray] = field(init=False, repr=False, compare=False)
    """index(shard): its samples that belong to this stratum and were not removed, [samples] of ``INDEX_DTYPE``."""

    def __post_init__(self) -> None:
        self.block_rows = self.block_rows or block_rows_of(self.entry.bytes, self.entry.samples)
        # SingleFlight lets one thread read for all; lru_cache returns what was read ten times faster.
        self.index = functools.lru_cache(CACHED_INDEXES)(SingleFlight(self._index, CACHED_INDEXES))

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
        read = ("shards", "removed", "shard_samples", "ends")
        vars(reader).update({name: vars(self)[name] for name in read if name in vars(self)})
        return reader

    @property
    def samples(self) -> int:
        return self.entry.samples

    @cached_property
    def shard_samples(self) -> np.ndarray:
        """[shards] int64: samples of each shard, without those that were removed."""
        return samples_left(self.shards, self.removed)

    @cached_property
    def removed(self) -> Removed:
        """Shard -> keys of the samples that were removed from it."""
        return removed_of(self.store, self.entry, self.shards)

    @property
    def is_external(self) -> bool:
        """True if the tars are external ones, each perhaps with samples of several strata."""
        return is_external(self.encoding)

    @property
    def remedy(self) -> str:
        """What to do if a file is not as it was written."""
        return REMEDY_IN_PLACE if self.is_external else REMEDY

    @cached_property
    def shards(self) -> ShardTable:
        """What the tars hold, removed samples included."""
        shards = read_table(self.store, self.entry)
        if int(shards.samples.sum()) != self.entry.tar_samples:
            problem = Problem("count", self.entry.table, f"not the samples that {MANIFEST} states")
            raise ShardSetError(self.store, problem, self.remedy)
        return shards

    @cached_property
    def ends(self) -> np.ndarray:
        """[shards] int64: samples of the shards up to and including each one."""
        return np.cumsum(self.shard_samples)

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and row of sample ``number``."""
        if not 0 <= number < self.samples:
            raise IndexError(f"sample {number} of {self.samples}")
        shard = int(np.searchsorted(self.ends, number, side="right"))
        before = int(self.ends[shard - 1]) if shard else 0
        return shard, number - before

    def _index(self, shard: int) -> np.ndarray:
        index = self.whole_index(shard)
        if keys := self.removed.get(shard):
            is_left, lacking = kept(index, keys)
            if lacking or int(is_left.sum()) != self.shard_samples[shard]:
                raise self._not_in_shard(shard, lacking or keys)
            index = index[is_left]
        return index

    def _not_in_shard(self, shard: int, keys: Iterable[str]) -> ShardSetError:
        return not_in_shard(self.store, self.entry, self.shards.names[shard], min(keys))

    def whole_index(self, shard: int) -> np.ndarray:
        """The samples of a shard that belong to this stratum, removed ones included, [n] of ``INDEX_DTYPE``."""
        row = self.shards[shard]
        index = read_index(self.store, row, is_external=self.is_external)
        if self.is_external:
            index = index[
                (index["split"] == self.entry.split.encode())
                & (index["class"] == self.class_index)
                & (index["origin"] == self.entry.origin.encode())
            ]
            if len(index) != row.samples:
                problem = Problem("count", index_name(row.name), "not the index of its table")
                raise ShardSetError(self.store, problem, self.remedy)
        elif self.entry.origin == "synthetic" and are_truncated(index["key"]):
            raise refusal(self.store)
        return index

    def row(self, number: int) -> np.void:
        """The row of INDEX_DTYPE of a sample."""
        shard, row = self.locate(number)
        found: np.void = self.index(shard)[row]
        return found

    def key(self, number: int) -> bytes:
        return bytes(self.row(number)["key"])

    def spans(self, shard: int, rows: np.ndarray) -> list[memoryview]:
        """The encoded images of some rows of a shard as they are stored, from a file or a URL: not compared with
        their hashes, and shorter if the file ends early. Raises UserError if the file is missing.

        They may lie in a map of a file: compare the bytes that are used with the hash, not these before or after.
        """
        index, name = self.index(shard), self.shards.names[shard]
        try:
            if self.blocks is not None:
                return read_spans(self, self.blocks, shard, rows)
            places = zip(index["offset_bytes"][rows].tolist(), index["length_bytes"][rows].tolist())
            if isinstance(self.store, LocalStore):
                return self.store.spans(name, places)
            return [memoryview(self.store.read_range(name, start, length)) for start, length in places]
        except FileNotFoundError:
            raise self._missing(name) from None

    def _stored(self, shard: int, row: int) -> bytes:
        """An encoded image, read from the file and not through a map: an error says what is wrong with the file."""
        if self.blocks is not None:
            return bytes(self.spans(shard, np.array([row]))[0])
        entry, name = self.index(shard)[row], self.shards.names[shard]
        try:
            return self.store.read_range(name, int(entry["offset_bytes"]), int(entry["length_bytes"]))
        except FileNotFoundError:
            raise self._missing(name) from None

    def prefetch(self, samples: np.ndarray) -> None:
        """Fetch the blocks of samples [n] int in the background, in this order; does nothing if the set is local.
        What exceeds the limit of blocks in flight is left for a later call."""
        if self.blocks is not None:
            fetch_ahead(self, self.blocks, samples)

    def image_bytes(self, number: int) -> bytes:
        """The encoded image. Raises CorruptSample, naming shard, key and offset, if its hash does not fit."""
        return self._checked(*self.locate(number))

    def _checked(self, shard: int, row: int) -> bytes:
        data = self._stored(shard, row)
        if self.blocks is not None and not self._is_whole(shard, row, data):
            forget(self, self.blocks, shard, row)  # its copy on this machine may be what is wrong
            data = self._stored(shard, row)
        self._check(shard, row, data)
        return data

    def _is_whole(self, shard: int, row: int, data: bytes) -> bool:
        return xxhash.xxh3_64_intdigest(data) == int(self.index(shard)[row]["xxh3_64"])

    def _check(self, shard: int, row: int, data: bytes) -> None:
        if self._is_whole(shard, row, data):
            return
        length = int(self.index(shard)[row]["length_bytes"])
        if len(data) < length:
            why = f"the file ends after {len(data):,} of its {length:,} bytes: it was cut off, or is still copied"
        else:
            why = "its bytes do not match their hash"
        raise self._corrupt(shard, row, why)

    def pixels(self, number: int, out: np.ndarray | None = None) -> np.ndarray:
        """One image, [H, W] uint8, written to ``out`` of that shape if it is given. Raises CorruptSample, naming
        shard, key and offset, for bytes that do not match their hash, or no such image."""
        shard, row = self.locate(number)
        try:
            return decode(self._checked(shard, row), self.encoding, self.image_size, out)
        except UndecodableImage as error:
            raise self._corrupt(shard, row, str(error)) from None

    @cached_property
    def has_truncated_keys(self) -> bool:
        """True if an earlier version wrote it with keys that are longer than the key field of an index."""
        try:
            shards = self.shards
        except UserError:
            return False  # a reader of the stratum meets this error, and verify lists it with all others
        return has_truncated_keys(self.store, self.entry, shards)

    def whole(
        self, shard: int, *, allow_long_keys: bool = False, with_removed: bool = False
    ) -> Iterator[Sample]:
        """The samples of a shard in order, with their metadata, without those that were removed; the SHA-256 of its
        tar is checked before the first one.

        ``allow_long_keys``: also read the long keys of an earlier version, which are refused otherwise.
        ``with_removed``: the samples that were removed, too.
        """
        if self.has_truncated_keys and not allow_long_keys:
            raise refusal(self.store)
        row = self.shards[shard]
        try:
            with self.store.open(row.name) as file:
                if hashed(file)[1] != row.sha256:
                    raise ShardSetError(self.store, changed(row.name), self.remedy)
                if self.is_external:
                    yield from self._external(shard, file)
                    return
                is_valid_key = _is_any_key if self.has_truncated_keys else is_key
                tar = TarFile(self.store, row.name, self.entry.stratum, self.class_index, self.encoding)
                lacking = {*self.removed.get(shard, ())}
                for _, sample in read_tar(file, tar, is_valid_key=is_valid_key):
                    is_removed = sample.key in lacking
                    lacking.discard(sample.key)
                    if with_removed or not is_removed:
                        yield sample
                if lacking:
                    raise self._not_in_shard(shard, lacking)
        except FileNotFoundError:
            raise self._missing(row.name) from None

    def all_samples(self) -> Iterator[Sample]:
        """The samples of all shards, as ``whole`` reads them."""
        for shard in range(len(self.shards)):
            yield from self.whole(shard)

    def decoded(self, sample: Sample, tar: str) -> np.ndarray:
        """The image of a sample of ``whole``, [H, W] uint8. Raises UserError, naming tar and key, if it is none."""
        try:
            return decode(sample.image, self.encoding, self.image_size)
        except UndecodableImage as error:
            problem = Problem("image", tar, f"sample {sample.key}: {error}")
            raise ShardSetError(self.store, problem, self.remedy) from None

    def _external(self, shard: int, file: IO[bytes]) -> Iterator[Sample]:
        """Samples of an external tar, with the metadata that the import kept in the shard table."""
        row = self.shards[shard]
        metadata = row.metadata or [{}] * row.samples
        for number, (entry, of_sample) in enumerate(zip(self.index(shard), metadata)):
            meta = {
                "patient": entry["patient"].decode(),
                "origin": self.entry.origin,
                "class": class_in_metadata(self.entry.class_name),
                "source": self.importer,
                "phantom": False,
                **{name: of_sample.get(name, [] if name == "findings" else None) for name in METADATA_FIELDS},
            }
            file.seek(int(entry["offset_bytes"]))
            data = file.read(int(entry["length_bytes"]))
            self._check(shard, number, data)
            yield Sample(entry["key"].decode(), data, meta)

    def _missing(self, name: str) -> ShardSetError:
        return ShardSetError(self.store, missing(name), self.remedy)

    def _corrupt(self, shard: int, row: int, why: str) -> CorruptSample:
        entry = self.index(shard)[row]
        return CorruptSample(
            f"{self.store}/{self.shards.names[shard]}: sample {entry['key'].decode()} at byte "
            f"{int(entry['offset_bytes'])}: {why}; `cxrdist shards verify {self.store}` lists all problems of the set"
        )


def _is_any_key(key: str) -> bool:
    return is_key(key) or is_long_key(key)


# ---- blocks of strata at URLs


def read_spans(reader: StratumReader, blocks: BlockReader, shard: int, rows: np.ndarray) -> list[memoryview]:
    """The encoded images of rows [n] int of a shard; blocks that are not cached are fetched at the same time."""
    numbers, places = (part.tolist() for part in np.divmod(rows, reader.block_rows))
    _fetch(reader, blocks, ((shard, number) for number in dict.fromkeys(numbers)))
    return [
        blocks.sample(_key(reader, shard, number), partial(_block, reader, shard, number), place)
        for number, place in zip(numbers, places)
    ]


def forget(reader: StratumReader, blocks: BlockReader, shard: int, row: int) -> None:
    """Have the block of a row of a shard read again, from the cache if it is whole there, else from the URL."""
    blocks.forget(_key(reader, shard, row // reader.block_rows))


def fetch_ahead(reader: StratumReader, blocks: BlockReader, samples: np.ndarray) -> None:
    """Have the blocks of samples [n] int fetched, in this order."""
    _fetch(reader, blocks, _blocks_of(reader, samples))


def note_used(reader: StratumReader, blocks: BlockReader, samples: np.ndarray) -> None:
    """Another process has read samples [n] int."""
    for shard, number in _blocks_of(reader, samples):
        blocks.note_used(_key(reader, shard, number))


def _blocks_of(reader: StratumReader, samples: np.ndarray) -> Iterable[tuple[int, int]]:
    """Shard and number of each block, once, in the order of samples [n] int."""
    shards = np.searchsorted(reader.ends, samples, side="right")
    numbers = (samples - np.append(0, reader.ends)[shards]) // reader.block_rows
    return dict.fromkeys(zip(shards.tolist(), numbers.tolist()))


def _fetch(reader: StratumReader, blocks: BlockReader, wanted: Iterable[tuple[int, int]]) -> None:
    for shard, number in wanted:
        if not blocks.prefetch(_key(reader, shard, number), partial(_block, reader, shard, number)):
            break


def _key(reader: StratumReader, shard: int, number: int) -> tuple[str, str | None, int, int, int]:
    return reader.entry.table, reader.entry.removed, reader.block_rows, shard, number


def _block(reader: StratumReader, shard: int, number: int) -> Block:
    first = number * reader.block_rows
    row = reader.shards[shard]
    return block_of(row.name, row.sha256, reader.index(shard)[first : first + reader.block_rows])
