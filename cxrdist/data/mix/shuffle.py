"""A stratum gone through again and again: each cycle takes each of its samples once. Pure functions, no I/O.

A cycle's chunks (neighbouring samples of one shard) stand in a random order of its own. End to end they are the
places 0 ... n - 1 of the cycle, cut into one run for each lane, as long as the lane has draws in the cycle; a lane
takes its run in windows of a few chunks, each window in random order. So a lane reads few chunks at a time and each
of them once, and no sample comes twice before all have come.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cxrdist.data.mix.interleave import Lanes
from cxrdist.seeds import permutation

CHUNKS_PER_WINDOW = 4
# With fewer samples than this for a lane in a cycle, runs are not worth the name: all lanes draw from all samples.
LEAST_RUN_SAMPLES = 64
LEAST_CHUNKS_PER_RUN = 8
# A permutation of so many chunks takes 8 MB and some milliseconds; larger strata have larger chunks.
MOST_CHUNKS = 2**19


class Cycles:
    """The cycles of stratum ``index`` of a mix. ``shard_samples`` [shards]."""

    def __init__(
        self, name: str, shard_samples: np.ndarray, chunk_samples: int, index: int, lanes: Lanes, seed: int
    ) -> None:
        self.name, self.index, self.lanes, self.seed = name, index, lanes, seed
        self.samples = int(shard_samples.sum())
        self.is_dealt = self.samples >= LEAST_RUN_SAMPLES * lanes.count
        self.chunk_samples = (
            chunk_length(self.samples, chunk_samples, lanes.count) if self.is_dealt else chunk_samples
        )
        self._first, self._length = chunks_of(shard_samples, self.chunk_samples)
        self._shuffled = lru_cache(maxsize=32)(self._shuffle)
        self._chunks = lru_cache(maxsize=2)(self._chunk_order)
        self._drawn_before = lru_cache(maxsize=8)(self._drawn_before_cycle)
        self._window = lru_cache(maxsize=8 * lanes.count)(self._shuffled_window)

    def samples_at(self, number: np.ndarray, lane: np.ndarray, number_in_lane: np.ndarray) -> np.ndarray:
        """Draws -> samples [n] int64: draw ``number`` of the stratum, and draw ``number_in_lane`` of ``lane``."""
        cycle, residue = np.divmod(number, self.samples)
        found = np.empty_like(number)
        for c in np.unique(cycle).tolist():
            mine = cycle == c
            if self.is_dealt:
                found[mine] = self._dealt(c, lane[mine], number_in_lane[mine])
            else:
                found[mine] = self._shuffled(c)[residue[mine]]
        return found

    def _shuffle(self, cycle: int) -> np.ndarray:
        return permutation(self.seed, "cycle", self.name, cycle, length=self.samples)

    def _dealt(self, cycle: int, lane: np.ndarray, number_in_lane: np.ndarray) -> np.ndarray:
        before = self._drawn_before(cycle)
        length = self._drawn_before(cycle + 1) - before
        start = np.cumsum(length) - length
        at = number_in_lane - before[lane]
        window_samples = CHUNKS_PER_WINDOW * self.chunk_samples
        # Lanes turn over to their next window one after the other, not all in the same step.
        shift = (self.lanes.phases[:, self.index] * window_samples).astype(np.int64)
        window = (at + shift[lane]) // window_samples
        place = np.empty_like(at)
        _, first, which = np.unique(window * self.lanes.count + lane, return_index=True, return_inverse=True)
        for i, f in enumerate(first.tolist()):
            mine, one, w = which == i, int(lane[f]), int(window[f])
            begin = max(0, w * window_samples - int(shift[one]))
            end = min(int(length[one]), (w + 1) * window_samples - int(shift[one]))
            place[mine] = start[one] + begin + self._window(cycle, one, w, end - begin)[at[mine] - begin]
        chunks, ends = self._chunks(cycle)
        slot = np.searchsorted(ends, place, side="right")
        chunk = chunks[slot]
        return self._first[chunk] + place - (ends[slot] - self._length[chunk])

    def _drawn_before_cycle(self, cycle: int) -> np.ndarray:
        return self.lanes.drawn_before_draw(self.index, cycle * self.samples)

    def _chunk_order(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunks in their order, and where each of them ends: [chunks] both."""
        order = permutation(self.seed, "chunks", self.name, cycle, length=len(self._first)).astype(np.int32)
        return order, np.cumsum(self._length[order], dtype=np.int64)

    def _shuffled_window(self, cycle: int, lane: int, window: int, samples: int) -> np.ndarray:
        words = ("window", self.name, cycle, lane, window)
        return permutation(self.seed, *words, length=samples).astype(np.int32)


def chunk_length(samples: int, most: int, lanes: int) -> int:
    """Samples of a chunk: ``most``; fewer so that a lane's run has several; more where there would be too many."""
    fewer = max(1, min(most, samples // (LEAST_CHUNKS_PER_RUN * lanes)))
    return max(fewer, -(-samples // MOST_CHUNKS))


def chunks_of(shard_samples: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First sample [chunks] int64 and number of samples [chunks] int32 of each chunk: rows [g length, (g + 1) length)
    of a shard, the last one of a shard perhaps shorter."""
    counts = -(-shard_samples // length)
    shard = np.repeat(np.arange(len(shard_samples)), counts)
    number = np.arange(counts.sum()) - (np.cumsum(counts) - counts)[shard]
    first = (np.cumsum(shard_samples) - shard_samples)[shard] + number * length
    return first, np.minimum(length, shard_samples[shard] - number * length).astype(np.int32)
