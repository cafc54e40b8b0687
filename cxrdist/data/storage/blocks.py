"""Runs of samples that are fetched from an object store together.

    index of a tar   row 0 ... n-1 | row n ... 2n-1 | ...        n = block_rows
    fetched          one range of the tar: from where its first sample starts to where its last one ends
    block            the images in it, end to end

A request to an object store takes tens of milliseconds however little it asks for, so a sample is not asked for
alone, and what lies between two of them is fetched along: the headers and metadata of our own tars, or the samples
of other strata in others' tars. Only where that would take longer than a request does are they ranges of their own.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from cxrdist.files import sha256_bytes

BLOCK_BYTES = 4 * 2**20
LARGEST_BLOCK_BYTES = 256 * 2**20
"""Where samples differ so much that a block would have more, each is read alone."""
LARGEST_GAP_BYTES = 2**19


def block_rows_of(stratum_bytes: int, samples: int) -> int:
    """How many samples of a stratum make a block of about 4 MiB. A function of the manifest alone, so that the order
    may deal in whole blocks and still be the same for everyone."""
    return max(1, BLOCK_BYTES * samples // stratum_bytes)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some samples of a tar: where they lie in it, and where in the bytes of the block."""

    tar: str
    name: str
    """Of a file that holds the block: it tells what the bytes are, whichever set the tar is in."""
    ranges: tuple[tuple[int, int], ...]
    """Of the tar, each start and stop, in order: what is to be fetched."""
    offsets: tuple[int, ...]
    """Of each sample in the tar."""
    places: tuple[tuple[int, int], ...]
    """Start and stop of each sample in the block."""
    xxh3_64: tuple[int, ...]
    """Of each sample."""

    @property
    def length_bytes(self) -> int:
        return self.places[-1][1]

    @property
    def is_large(self) -> bool:
        fetched_bytes = sum(stop - start for start, stop in self.ranges)
        return max(fetched_bytes, self.length_bytes) > LARGEST_BLOCK_BYTES

    def pack(self, parts: Sequence[bytes]) -> bytes:
        """The block, of what was fetched of its ranges. Zeros are for what lies behind the end of the tar."""
        starts = [start for start, _ in self.ranges]
        samples = []
        for offset, (start, stop) in zip(self.offsets, self.places):
            number = bisect.bisect_right(starts, offset) - 1
            at = offset - starts[number]
            samples.append(parts[number][at : at + stop - start].ljust(stop - start, b"\0"))
        return b"".join(samples)

    def is_whole(self, data: bytes | memoryview) -> bool:
        """Whether ``data`` holds every sample as it was written."""
        view = memoryview(data)
        return all(
            xxhash.xxh3_64_intdigest(view[start:stop]) == expected
            for (start, stop), expected in zip(self.places, self.xxh3_64)
        )


def block_of(shard: Mapping[str, Any], rows: np.ndarray) -> Block:
    """The block of some rows [n] of the index of ``shard``, which is its row of the shard table."""
    starts = rows["offset_bytes"].astype(np.int64)
    lengths = rows["length_bytes"].astype(np.int64)
    stops = np.cumsum(lengths)
    what = np.stack([starts, lengths]).astype("<i8").tobytes()
    return Block(
        tar=shard["name"],
        name=f"{shard['sha256']}-{int(starts.min())}-{sha256_bytes(what)[:16]}",
        ranges=_ranges(starts, starts + lengths),
        offsets=tuple(starts.tolist()),
        places=tuple(zip((stops - lengths).tolist(), stops.tolist())),
        xxh3_64=tuple(rows["xxh3_64"].tolist()),
    )


def _ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[tuple[int, int], ...]:
    """What covers the samples from ``starts`` [n] to ``stops`` [n], gaps of up to half a MiB included."""
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    cuts = np.flatnonzero(starts[1:] - stops[:-1] > LARGEST_GAP_BYTES)
    return tuple(
        zip(starts[np.append(0, cuts + 1)].tolist(), stops[np.append(cuts, len(stops) - 1)].tolist())
    )
