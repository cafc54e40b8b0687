"""Reads the samples of a batch from the shards into one array: encoded bytes -> pixels, every hash checked.

    (strata, samples) of a batch
      -> shard and row of each            one search over all shards of all strata
        -> StratumReader.spans            a shard at a time, in the order of the images in the shard
          -> pixels [n, 1, H, W] uint8    npy: copied, then hashed while still in the CPU cache; else hashed, decoded

This is the fast path. A sample that fails any check here is read again by the StratumReader, which raises an error
that says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from cxrdist.data.imaging.codecs import npy_header
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.data.shards.stratum import CorruptSample, StratumReader, note_used
from cxrdist.errors import UserError

OnCorrupt = Literal["raise", "substitute"]


@dataclass(frozen=True, kw_only=True)
class Substitution:
    """A corrupt sample, and the sample of its stratum that replaced it in a batch."""

    row: int
    """Row of the batch."""
    stratum: int
    """Stratum, as a number among the readers."""
    sample: int
    """The corrupt sample of the stratum."""
    instead: int
    """The sample that replaced it."""
    message: str
    """What is wrong with ``sample``."""


class Gather:
    """Fills batches from several strata, all of one image size.

    ``on_corrupt``: "raise" raises CorruptSample for the first corrupt sample of a batch; "substitute" uses the next
    intact sample of its stratum instead, the same one on every rank. ``samples_in_use``: number of samples of each
    stratum that take part, from the first on, by default all; substitutes are chosen among them. A missing shard
    always raises.
    """

    def __init__(
        self,
        readers: Sequence[StratumReader],
        on_corrupt: OnCorrupt = "raise",
        samples_in_use: Sequence[int] | None = None,
    ) -> None:
        self.readers = readers
        self.on_corrupt = on_corrupt
        self.samples_in_use = samples_in_use or [reader.samples for reader in readers]
        self._samples = np.array([reader.samples for reader in readers], np.int64)
        self._first = np.cumsum(self._samples) - self._samples
        """[strata] int64: number of each stratum's first sample if the samples of all strata are numbered in a
        row."""

    @cached_property
    def _shard_ends(self) -> np.ndarray:
        """[shards of all strata] int64: end of each shard in that numbering."""
        return np.concatenate([reader.ends + first for reader, first in zip(self.readers, self._first)])

    @cached_property
    def _first_shard(self) -> np.ndarray:
        """[strata] int64: index of each stratum's first shard among the shards of all strata."""
        shards = np.array([len(reader.shards) for reader in self.readers], np.int64)
        return np.cumsum(shards) - shards

    def keys(self, strata: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """[n] S40: the keys of samples [n]; no image is read."""
        keys = np.empty(len(strata), KEY_DTYPE)
        for reader, shard, rows, places in self._shards(strata, samples):
            keys[places] = reader.index(shard)["key"][rows]
        return keys

    def prefetch(self, strata: np.ndarray, samples: np.ndarray) -> None:
        """Start to fetch the samples [n] that belong to remote sets; see ``StratumReader.prefetch``."""
        for stratum, reader in enumerate(self.readers):
            if reader.blocks is not None:
                reader.prefetch(samples[strata == stratum])

    def note_used(self, strata: np.ndarray, samples: np.ndarray) -> None:
        """Record that another process has read these samples [n], which were prefetched for it."""
        for stratum, reader in enumerate(self.readers):
            if reader.blocks is not None:
                note_used(reader, reader.blocks, samples[strata == stratum])

    def fill(
        self, strata: np.ndarray, samples: np.ndarray, pixels: np.ndarray, keys: np.ndarray
    ) -> list[Substitution]:
        """Read sample ``samples[i]`` of stratum ``strata[i]`` ([n] int64 each) into row i of ``pixels`` ([n, 1, H, W]
        uint8, C-contiguous) and its key into ``keys`` ([n] S40). Returns the substitutions, sorted by row.

        The caller passes the arrays, as for ``readinto``, because a batch is written straight into pinned or shared
        memory that is reused: returning new arrays would copy every batch once more.

        Raises CorruptSample, or UserError for a missing or damaged file of a set.
        """
        n = len(strata)
        assert pixels.flags.c_contiguous and pixels.dtype == np.uint8 and len(samples) == len(keys) == n
        assert pixels.shape == (n, 1, *2 * (self.readers[0].image_size,)), pixels.shape
        self.prefetch(strata, samples)
        failed: list[int] = []
        for reader, shard, rows, places in self._shards(strata, samples):
            keys[places] = reader.index(shard)["key"][rows]
            failed += _fill(reader, shard, rows, places.tolist(), pixels)
        substitutions = []
        for row in sorted(failed):
            substitution = self._read_again(row, int(strata[row]), int(samples[row]), pixels, keys)
            if substitution:
                substitutions.append(substitution)
        return substitutions

    def _shards(
        self, strata: np.ndarray, samples: np.ndarray
    ) -> Iterator[tuple[StratumReader, int, np.ndarray, np.ndarray]]:
        """The shards of a batch: reader, shard, rows [m] of the shard, and their places [m] in the batch."""
        if (samples < 0).any() or (samples >= self._samples[strata]).any():
            raise IndexError("a sample number is out of the range of its stratum")
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

    def _read_again(
        self, row: int, stratum: int, sample: int, pixels: np.ndarray, keys: np.ndarray
    ) -> Substitution | None:
        """Read a sample that failed a check by the slow path; returns the substitution if it was replaced."""
        reader = self.readers[stratum]
        try:
            reader.pixels(sample, pixels[row, 0])
            return None
        except CorruptSample as error:
            if self.on_corrupt == "raise":
                raise
            message = str(error)
        in_use = self.samples_in_use[stratum]
        for step in range(1, in_use):
            instead = (sample + step) % in_use
            try:
                reader.pixels(instead, pixels[row, 0])
            except CorruptSample:
                continue
            keys[row] = reader.key(instead)
            return Substitution(row=row, stratum=stratum, sample=sample, instead=instead, message=message)
        raise UserError(
            f"{reader.store}: none of the {in_use} samples of {reader.entry.table} can be read, so a corrupt one "
            f"cannot be substituted; {reader.remedy}"
        )


def _fill(
    reader: StratumReader, shard: int, rows: np.ndarray, places: list[int], pixels: np.ndarray
) -> list[int]:
    """Read rows [m] of a shard into their places of a batch; returns the places whose sample failed a check."""
    wanted = reader.index(shard)["xxh3_64"][rows].tolist()
    spans = reader.spans(shard, rows)
    if reader.encoding == "npy":
        return _copy(spans, wanted, places, pixels.reshape(len(pixels), -1), reader.image_size)
    failed = []
    for span, digest, place in zip(spans, wanted, places):
        data = bytes(span)  # what is hashed is what is decoded, even if the file changes meanwhile
        try:
            if xxh3_64_intdigest(data) != digest:
                raise UndecodableImage("its hash differs from the index")
            decode(data, reader.encoding, reader.image_size, pixels[place, 0])
        except UndecodableImage:
            failed.append(place)
    return failed


def _copy(
    spans: list[memoryview], wanted: list[int], places: list[int], pixels: np.ndarray, size: int
) -> list[int]:
    """Copy the pixels after the usual npy header into rows of ``pixels`` [n, H * W]; returns the places whose sample
    failed a check."""
    header = npy_header(size)
    before, count = len(header), size * size
    expected = before + count
    failed = []
    for span, digest, place in zip(spans, wanted, places):
        if len(span) == expected:
            row = pixels[place]
            # numpy releases the GIL while the system reads pages that are not in memory.
            row[:] = np.frombuffer(span, np.uint8, count, before)
            # The hash of the copy and not of the span: the file may change between the two.
            hashed = xxh3_64(header)
            hashed.update(row)
            if hashed.intdigest() == digest and span[:before].tobytes() == header:
                continue
        failed.append(place)
    return failed
