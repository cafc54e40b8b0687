"""The samples of a batch from the shards into one array: encoded bytes -> pixels, every hash checked.

    (strata, samples) of a batch
      -> shard and row of each            one search over all shards of all strata
        -> StratumReader.spans            a shard at a time, in the order in which the images lie in it
          -> pixels [n, 1, H, W] uint8    npy: copied, and hashed while still in the cache; else hashed, decoded

What is not plainly right is read again by the reader, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from xxhash import xxh3_64_intdigest

from cxrdist.data.imaging.codecs import npy_header
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.schema import KEY_DTYPE
from cxrdist.data.shards.shard_set import CorruptSample, StratumReader
from cxrdist.data.shards.stratum_blocks import note_used
from cxrdist.errors import UserError

OnCorrupt = Literal["raise", "substitute"]


@dataclass(frozen=True, kw_only=True)
class Substitution:
    """A corrupt sample whose place in a batch another one of its stratum took."""

    row: int
    """In the batch."""
    stratum: int
    sample: int
    instead: int
    message: str
    """What is wrong with ``sample``."""


class Gather:
    """Fills batches from several strata, all of one image size.

    ``on_corrupt`` "raise" raises CorruptSample for the first corrupt sample of a batch; "substitute" takes the next
    sample of its stratum that is whole, the same one whoever reads it: of the first ``taking[i]`` of stratum i, where
    not all take part. A shard that is missing always raises.
    """

    def __init__(
        self,
        readers: Sequence[StratumReader],
        on_corrupt: OnCorrupt = "raise",
        taking: Sequence[int] | None = None,
    ) -> None:
        self.readers = readers
        self.on_corrupt = on_corrupt
        self.taking = taking or [reader.samples for reader in readers]
        self._samples = np.array([reader.samples for reader in readers], np.int64)
        self._first = np.cumsum(self._samples) - self._samples
        """Where the samples of each stratum begin, if those of all strata are numbered in one go."""

    @cached_property
    def _shard_ends(self) -> np.ndarray:
        """[shards of all strata] int64, in that numbering."""
        return np.concatenate([reader.ends + first for reader, first in zip(self.readers, self._first)])

    @cached_property
    def _first_shard(self) -> np.ndarray:
        """[strata] int64: its place among the shards of all strata."""
        shards = np.array([len(reader.shards) for reader in self.readers], np.int64)
        return np.cumsum(shards) - shards

    def keys(self, strata: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """[n] S40: the keys of samples, their images unread."""
        keys = np.empty(len(strata), KEY_DTYPE)
        for reader, shard, rows, places in self._shards(strata, samples):
            keys[places] = reader.index(shard)["key"][rows]
        return keys

    def prefetch(self, strata: np.ndarray, samples: np.ndarray) -> None:
        """Have what samples need of sets that are not local fetched meanwhile; see ``StratumReader.prefetch``."""
        for stratum, reader in enumerate(self.readers):
            if reader.blocks is not None:
                reader.prefetch(samples[strata == stratum])

    def note_used(self, strata: np.ndarray, samples: np.ndarray) -> None:
        """Another process has read these, for which they were prefetched."""
        for stratum, reader in enumerate(self.readers):
            if reader.blocks is not None:
                note_used(reader, reader.blocks, samples[strata == stratum])

    def fill(
        self, strata: np.ndarray, samples: np.ndarray, pixels: np.ndarray, keys: np.ndarray
    ) -> list[Substitution]:
        """Sample ``samples[i]`` of stratum ``strata[i]`` ([n] int each) into row i of ``pixels`` ([n, 1, H, W] uint8,
        contiguous), its key into ``keys`` ([n] S40); returns what was substituted, by row.

        Raises CorruptSample, or UserError for what is wrong with the files of a set as a whole.
        """
        n = len(strata)
        assert pixels.flags.c_contiguous and pixels.dtype == np.uint8 and len(samples) == len(keys) == n
        assert pixels.shape == (n, 1, *2 * (self.readers[0].image_size,)), pixels.shape
        self.prefetch(strata, samples)
        doubtful: list[int] = []
        for reader, shard, rows, places in self._shards(strata, samples):
            keys[places] = reader.index(shard)["key"][rows]
            doubtful += _fill(reader, shard, rows, places.tolist(), pixels)
        substitutions = []
        for row in sorted(doubtful):
            substitution = self._settle(row, int(strata[row]), int(samples[row]), pixels, keys)
            if substitution:
                substitutions.append(substitution)
        return substitutions

    def _shards(
        self, strata: np.ndarray, samples: np.ndarray
    ) -> Iterator[tuple[StratumReader, int, np.ndarray, np.ndarray]]:
        """The shards of a batch: reader and shard, the rows in it, and the places of these in the batch."""
        if (samples < 0).any() or (samples >= self._samples[strata]).any():
            raise IndexError("a sample that its stratum does not have")
        numbers = self._first[strata] + samples
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        shards = np.searchsorted(self._shard_ends, numbers, side="right")
        rows = numbers - np.where(shards > 0, self._shard_ends[shards - 1], 0)
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        stratum_of = strata[order[starts]]
        shard_of = shards[starts] - self._first_shard[stratum_of]
        bounds = [*starts.tolist(), len(order)]
        for i, (stratum, shard) in enumerate(zip(stratum_of.tolist(), shard_of.tolist())):
            here = slice(bounds[i], bounds[i + 1])
            yield self.readers[stratum], shard, rows[here], order[here]

    def _settle(
        self, row: int, stratum: int, sample: int, pixels: np.ndarray, keys: np.ndarray
    ) -> Substitution | None:
        reader = self.readers[stratum]
        try:
            reader.pixels(sample, pixels[row, 0])
            return None
        except CorruptSample as error:
            if self.on_corrupt == "raise":
                raise
            message = str(error)
        for step in range(1, self.taking[stratum]):
            instead = (sample + step) % self.taking[stratum]
            try:
                reader.pixels(instead, pixels[row, 0])
            except CorruptSample:
                continue
            keys[row] = reader.key(instead)
            return Substitution(row=row, stratum=stratum, sample=sample, instead=instead, message=message)
        raise UserError(
            f"{reader.store}: not one of the {self.taking[stratum]} samples of {reader.entry['table']} can be read, "
            f"so none can take the place of another; {reader.remedy}",
            every_rank=True,
        )


def _fill(
    reader: StratumReader, shard: int, rows: np.ndarray, places: list[int], pixels: np.ndarray
) -> list[int]:
    """Some rows of a shard into their places of a batch; returns the places where something is not as usual."""
    wanted = reader.index(shard)["xxh3_64"][rows].tolist()
    spans = reader.spans(shard, rows)
    if reader.encoding == "npy":
        return _copy(spans, wanted, places, pixels.reshape(len(pixels), -1), reader.image_size)
    doubtful = []
    for span, digest, place in zip(spans, wanted, places):
        try:
            if xxh3_64_intdigest(span) != digest:
                raise UndecodableImage("not what was written")
            decode(span, reader.encoding, reader.image_size, pixels[place, 0])
        except UndecodableImage:
            doubtful.append(place)
    return doubtful


def _copy(
    spans: list[memoryview], wanted: list[int], places: list[int], pixels: np.ndarray, size: int
) -> list[int]:
    """The pixels behind the usual header of an npy into rows of ``pixels`` [n, H * W]."""
    header = npy_header(size)
    before, count = len(header), size * size
    whole = before + count
    doubtful = []
    for span, digest, place in zip(spans, wanted, places):
        if len(span) == whole:
            # Copied first, by numpy, which lets other threads run while the system fetches what is not in memory yet.
            pixels[place] = np.frombuffer(span, np.uint8, count, before)
            if xxh3_64_intdigest(span) == digest and span[:before].tobytes() == header:
                continue
        doubtful.append(place)
    return doubtful
