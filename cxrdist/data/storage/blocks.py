"""Blocks: runs of samples that are fetched from an object store together.

    index of a tar   row 0 ... n-1 | row n ... 2n-1 | ...        n = block_rows
    fetched          one range of the tar, from the start of its first sample to the end of its last one
    block            the images in it, end to end

A request to an object store takes tens of milliseconds even for a few bytes. So samples are not fetched one by one,
and the bytes between two samples are fetched too: headers and metadata in our own tars, samples of other strata in
external tars. Only a gap that would take longer than a request splits a block into several ranges.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from cxrdist.files import sha256_bytes

BLOCK_BYTES = 4 * 2**20
LARGEST_BLOCK_BYTES = 256 * 2**20
"""If samples differ so much in size that a block would be larger, each sample is read alone."""
LARGEST_GAP_BYTES = 2**19


def block_rows_of(stratum_bytes: int, samples: int) -> int:
    """Number of samples of a stratum in a block of about 4 MiB. A function of the manifest alone, so that an order
    made of whole blocks is the same everywhere."""
    return max(1, BLOCK_BYTES * samples // stratum_bytes)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some samples of a tar: their places in the tar, and in the bytes of the block. All places are in bytes."""

    tar: str
    """File name of the tar."""
    name: str
    """Name of a file with the block's bytes: a function of its content, the same in every set that has the tar."""
    ranges: tuple[tuple[int, int], ...]
    """Start and stop of each range of the tar that must be fetched, sorted."""
    offsets: tuple[int, ...]
    """Start of each sample in the tar."""
    places: tuple[tuple[int, int], ...]
    """Start and stop of each sample in the block."""
    xxh3_64: tuple[int, ...]
    """XXH3-64 of each sample."""

    @property
    def length_bytes(self) -> int:
        return self.places[-1][1]

    @property
    def is_large(self) -> bool:
        fetched_bytes = sum(stop - start for start, stop in self.ranges)
        return max(fetched_bytes, self.length_bytes) > LARGEST_BLOCK_BYTES

    def pack(self, parts: Sequence[bytes]) -> bytes:
        """The bytes of the block, from the bytes of its ranges. A sample that the tar is too short for is filled with
        zeros."""
        starts = [start for start, _ in self.ranges]
        samples = []
        for offset, (start, stop) in zip(self.offsets, self.places):
            number = bisect.bisect_right(starts, offset) - 1
            at = offset - starts[number]
            samples.append(parts[number][at : at + stop - start].ljust(stop - start, b"\0"))
        return b"".join(samples)

    def is_whole(self, data: bytes | memoryview) -> bool:
        """True if every sample of ``data`` has the hash that the index gives."""
        view = memoryview(data)
        return all(
            xxhash.xxh3_64_intdigest(view[start:stop]) == expected
            for (start, stop), expected in zip(self.places, self.xxh3_64)
        )


def block_of(tar: str, tar_sha256: str, rows: np.ndarray) -> Block:
    """The block of rows [n] of the index of a tar."""
    starts = rows["offset_bytes"].astype(np.int64)
    lengths = rows["length_bytes"].astype(np.int64)
    stops = np.cumsum(lengths)
    what = np.stack([starts, lengths]).astype("<i8").tobytes()
    return Block(
        tar=tar,
        name=f"{tar_sha256}-{int(starts.min())}-{sha256_bytes(what)[:16]}",
        ranges=_ranges(starts, starts + lengths),
        offsets=tuple(starts.tolist()),
        places=tuple(zip((stops - lengths).tolist(), stops.tolist())),
        xxh3_64=tuple(rows["xxh3_64"].tolist()),
    )


def _ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The ranges that cover samples from ``starts`` [n] to ``stops`` [n], including gaps of up to half a MiB."""
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    cuts = np.flatnonzero(starts[1:] - stops[:-1] > LARGEST_GAP_BYTES)
    return tuple(
        zip(starts[np.append(0, cuts + 1)].tolist(), stops[np.append(cuts, len(stops) - 1)].tolist())
    )
