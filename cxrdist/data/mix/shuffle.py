"""Shuffles the samples of a stratum, in cycles that use each sample once: which sample a draw is. Pure functions, no
I/O.

Each cycle puts the chunks of the stratum (runs of neighbouring samples of one shard) in a random order. Laid end to
end they are the places 0 ... n - 1 of the cycle, which are cut into one run for each lane, as long as the number of
draws the lane has in the cycle. A lane reads its run in windows of a few chunks, each window in random order. So a
lane reads few chunks at a time and each of them once, and no sample repeats before all samples were used.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cxrdist.data.mix.interleave import StratumInterleave
from cxrdist.seeds import permutation

CHUNKS_PER_WINDOW = 4
# With fewer samples per lane than this, runs would be too short: all lanes draw from all samples instead.
LEAST_RUN_SAMPLES = 64
LEAST_CHUNKS_PER_RUN = 8
# A permutation of this many chunks takes 8 MB and some milliseconds; larger strata get larger chunks.
MOST_CHUNKS = 2**19


class StratumShuffle:
    """The shuffled samples of stratum number ``index`` of a mix, cycle after cycle.

    ``shard_samples`` [shards] int64: number of samples of each shard. ``chunk_samples``: samples of a chunk, at most,
    unless the stratum would have too many chunks.
    """

    def __init__(
        self,
        name: str,
        shard_samples: np.ndarray,
        chunk_samples: int,
        index: int,
        interleave: StratumInterleave,
        seed: int,
    ) -> None:
        self.name, self.index, self.interleave, self.seed = name, index, interleave, seed
        self.samples = int(shard_samples.sum())
        self.uses_chunks = self.samples >= LEAST_RUN_SAMPLES * interleave.count
        self.chunk_samples = (
            chunk_length(self.samples, chunk_samples, interleave.count) if self.uses_chunks else chunk_samples
        )
        self._first, self._length = chunks_of(shard_samples, self.chunk_samples)
        self._permutation = lru_cache(maxsize=32)(self._cycle_permutation)
        self._chunks = lru_cache(maxsize=2)(self._shuffled_chunks)
        self._drawn_before = lru_cache(maxsize=8)(self._drawn_before_cycle)
        self._window = lru_cache(maxsize=8 * interleave.count)(self._shuffled_window)

    def samples_at(self, number: np.ndarray, lane: np.ndarray, number_in_lane: np.ndarray) -> np.ndarray:
        """[n] int64: the sample of each draw. Draw i is draw ``number[i]`` of the stratum, and draw
        ``number_in_lane[i]`` of the stratum in lane ``lane[i]``, since position 0."""
        cycle, residue = np.divmod(number, self.samples)
        found = np.empty_like(number)
        for c in np.unique(cycle).tolist():
            mine = cycle == c
            if self.uses_chunks:
                found[mine] = self._from_chunks(c, lane[mine], number_in_lane[mine])
            else:
                found[mine] = self._permutation(c)[residue[mine]]
        return found

    def _cycle_permutation(self, cycle: int) -> np.ndarray:
        return permutation(self.seed, "cycle", self.name, cycle, length=self.samples)

    def _from_chunks(self, cycle: int, lane: np.ndarray, number_in_lane: np.ndarray) -> np.ndarray:
        before = self._drawn_before(cycle)
        length = self._drawn_before(cycle + 1) - before
        start = np.cumsum(length) - length
        at = number_in_lane - before[lane]
        window_samples = CHUNKS_PER_WINDOW * self.chunk_samples
        # Lanes change windows at different times, so that not all of them open new chunks in the same step.
        shift = (self.interleave.phases[:, self.index] * window_samples).astype(np.int64)
        window = (at + shift[lane]) // window_samples
        place = np.empty_like(at)
        _, first, which = np.unique(
            window * self.interleave.count + lane, return_index=True, return_inverse=True
        )
        for i, f in enumerate(first.tolist()):
            mine, one, w = which == i, int(lane[f]), int(window[f])
            begin = max(0, w * window_samples - int(shift[one]))
            end = min(int(length[one]), (w + 1) * window_samples - int(shift[one]))
            place[mine] = start[one] + begin + self._window(cycle, one, w, end - begin)[at[mine] - begin]
        chunks, ends = self._chunks(cycle)
        slot = np.searchsorted(ends, place, side="right")
        chunk = chunks[slot]
        samples: np.ndarray = self._first[chunk] + place - (ends[slot] - self._length[chunk])
        return samples

    def _drawn_before_cycle(self, cycle: int) -> np.ndarray:
        return self.interleave.drawn_before_draw(self.index, cycle * self.samples)

    def _shuffled_chunks(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunks in the order of a cycle [chunks] int32, and the place where each ends [chunks] int64."""
        order = permutation(self.seed, "chunks", self.name, cycle, length=len(self._first)).astype(np.int32)
        return order, np.cumsum(self._length[order], dtype=np.int64)

    def _shuffled_window(self, cycle: int, lane: int, window: int, samples: int) -> np.ndarray:
        words = ("window", self.name, cycle, lane, window)
        return permutation(self.seed, *words, length=samples).astype(np.int32)


def chunk_length(samples: int, most: int, lanes: int) -> int:
    """Samples of a chunk: ``most``, or fewer so that a lane's run has several chunks, or more so that the stratum has
    at most ``MOST_CHUNKS``."""
    fewer = max(1, min(most, samples // (LEAST_CHUNKS_PER_RUN * lanes)))
    return max(fewer, -(-samples // MOST_CHUNKS))


def chunks_of(shard_samples: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First sample [chunks] int64 and number of samples [chunks] int32 of each chunk. Chunk g of a shard has its rows
    [g length, (g + 1) length); the last chunk of a shard may be shorter."""
    counts = -(-shard_samples // length)
    shard = np.repeat(np.arange(len(shard_samples)), counts)
    number = np.arange(counts.sum()) - (np.cumsum(counts) - counts)[shard]
    first = (np.cumsum(shard_samples) - shard_samples)[shard] + number * length
    return first, np.minimum(length, shard_samples[shard] - number * length).astype(np.int32)
