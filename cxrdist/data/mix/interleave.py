"""Interleaves the strata of a mix, in lanes: which stratum is drawn at a position. Pure functions, no I/O.

Position p belongs to lane p mod C. An epoch of N positions deals each stratum's quota to the lanes in turn: laid end
to end, the quotas number the draws of the epoch 0 ... N - 1, and draw x goes to lane (x + e N) mod C, which gives
each lane exactly as many draws as it has positions in epoch e. Within a lane, draw j of the q draws of a stratum has
the time (j + phase) / q of the epoch, and the draws of all strata are sorted by time (with phase 1/2 this is
Webster's apportionment, seat by seat). Phases differ by lane and stratum, so that a batch, which has a few positions
of every lane, holds about its share of each stratum.

Everything is calculated from the position asked for: the draws before it are counted, not iterated over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

POSITIONS_PER_LANE = 32
# Multiples of the golden ratio and of another irrational number, mod 1: the phases of any run of lanes are spread
# over [0, 1).
LANE_PHASE, STRATUM_PHASE = 0x9E3779B9, 0x6A09E667


def lane_count(batch: int) -> int:
    """Number of lanes: the largest divisor of the global batch that gives each lane at least 32 positions of it.

    If the number of ranks divides it, each rank has its own lanes; more ranks share lanes, and read parts of the same
    chunks.
    """
    most = max(1, batch // POSITIONS_PER_LANE)
    return next(c for c in range(most, 0, -1) if batch % c == 0)


@dataclass(frozen=True)
class Draws:
    """The draws at positions [start, stop), which are within one epoch."""

    stratum: np.ndarray  # [n] int64
    lane: np.ndarray  # [n] int64
    number_in_lane: np.ndarray
    """[n] int64: number of earlier draws of the same stratum in the same lane, since position 0."""
    before: np.ndarray
    """[strata] int64: number of draws of each stratum before ``start``, since position 0."""


class StratumInterleave:
    """The order of strata in an epoch that draws ``quotas`` [strata] int, in ``count`` lanes."""

    def __init__(self, quotas: np.ndarray, count: int) -> None:
        self.quotas, self.count = quotas.astype(np.int64), count
        self.epoch = int(quotas.sum())
        ends = np.cumsum(self.quotas)
        self._edges = np.stack([ends - self.quotas, ends])[:, None]  # [2, 1, strata]
        lanes, strata = np.arange(count)[:, None], np.arange(len(quotas))
        phases = (lanes * LANE_PHASE + strata * STRATUM_PHASE + 2**31) % 2**32
        self.phases = phases / 2**32  # [lanes, strata]
        self.quotas_of_lanes = lru_cache(maxsize=64)(self._quotas_of_lanes)
        self.drawn_before_epoch = lru_cache(maxsize=64)(self._drawn_before_epoch)

    def places_before(self, position: int | np.ndarray) -> np.ndarray:
        """[lanes, ...] int64: how many positions before this one belong to each lane."""
        lanes: np.ndarray = np.arange(self.count)
        if isinstance(position, np.ndarray):
            lanes = lanes.reshape(-1, *[1] * (position.ndim - 1))
        places: np.ndarray = (position - lanes + self.count - 1) // self.count
        return places

    def _quotas_of_lanes(self, epoch: int) -> np.ndarray:
        """[lanes, strata] int64: each lane's part of the quotas in an epoch."""
        first, last = (self.places_before(edges + epoch % self.count * self.epoch) for edges in self._edges)
        parts: np.ndarray = last - first
        return parts

    def _drawn_before_epoch(self, epoch: int) -> np.ndarray:
        """[lanes, strata] int64: draws of each stratum in each lane, in all epochs before this one."""
        offset = self.count - 1 - np.arange(self.count)[:, None]
        first, last = (
            floor_sum(epoch, self.count, self.epoch % self.count, edges + offset) for edges in self._edges
        )
        drawn: np.ndarray = last - first
        return drawn

    def drawn_before(self, epoch: int, place: int) -> np.ndarray:
        """[lanes, strata] int64: draws of each stratum in each lane before this place of this epoch, since position
        0."""
        start = epoch * self.epoch
        first = self.places_before(start)
        count = self.places_before(start + place) - first
        in_epoch = self._merge(epoch, count, np.zeros_like(count))[0]
        drawn: np.ndarray = self.drawn_before_epoch(epoch) + in_epoch
        return drawn

    def drawn_before_draw(self, stratum: int, number: int) -> np.ndarray:
        """[lanes] int64: draws of a stratum in each lane before draw ``number`` of that stratum over all lanes."""
        epoch, wanted = divmod(number, int(self.quotas[stratum]))
        if not wanted:
            return self.drawn_before_epoch(epoch)[:, stratum]
        before = epoch * int(self.quotas[stratum])
        low, high = 0, self.epoch  # after ``low`` places at most ``number`` draws were made
        guess = self.epoch * wanted // int(self.quotas[stratum])
        while True:
            drawn = self.drawn_before(epoch, guess)[:, stratum]
            missing = wanted + before - int(drawn.sum())
            if not missing:
                return drawn
            low, high = (guess, high) if missing > 0 else (low, guess)
            guess += missing * self.epoch // int(self.quotas[stratum])
            if not low < guess < high:
                guess = (low + high) // 2

    def draws(self, start: int, stop: int) -> Draws:
        """The draws at positions [start, stop), which must be within one epoch."""
        epoch = start // self.epoch
        first = self.places_before(epoch * self.epoch)
        skipped = self.places_before(start) - first
        wanted = self.places_before(stop) - first - skipped
        drawn, lane, stratum, number, place = self._merge(epoch, skipped, wanted)
        at = (first[lane] + place) * self.count + lane - start
        result = np.empty((3, stop - start), np.int64)
        of_earlier_epochs = self.drawn_before_epoch(epoch)
        result[:, at] = stratum, lane, of_earlier_epochs[lane, stratum] + number
        before = epoch * self.quotas + drawn.sum(axis=0)
        return Draws(result[0], result[1], result[2], before)

    def _merge(
        self, epoch: int, skipped: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Each lane's draws [skipped, skipped + wanted) of the epoch ([lanes] both), sorted by time.

        Returns the number of skipped draws of each stratum [lanes, strata], and for each wanted draw its lane, its
        stratum, its number within both, and its place in the lane.

        Before time t a lane with Q places and S strata has between t Q - S and t Q + S draws. So the draws before
        time (skipped - S) / Q are all skipped: they are counted, and only those after it are sorted.
        """
        quotas = self.quotas_of_lanes(epoch)
        places = np.maximum(quotas.sum(axis=1), 1)
        margin = quotas.shape[1]
        begin = (skipped - margin) / places
        end = (skipped + wanted + margin) / places
        # One draw wider than the bounds on both sides, since the times are rounded.
        least = np.clip(np.floor(begin[:, None] * quotas - self.phases).astype(np.int64) - 1, 0, quotas)
        most = np.clip(np.ceil(end[:, None] * quotas - self.phases).astype(np.int64) + 1, 0, quotas)
        counts = (most - least).ravel()
        row = np.repeat(np.arange(counts.size), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + least.ravel()[row]
        lane, stratum = np.divmod(row, margin)
        time = (number + self.phases.ravel()[row]) / quotas.ravel()[row]
        order = np.lexsort((stratum, time, lane))
        lane, row, number = lane[order], row[order], number[order]
        of_lane = counts.reshape(quotas.shape).sum(axis=1)
        place = np.arange(lane.size) - (np.cumsum(of_lane) - of_lane - least.sum(axis=1))[lane]
        is_skipped = place < skipped[lane]
        drawn = least + np.bincount(row[is_skipped], minlength=counts.size).reshape(quotas.shape)
        chosen = ~is_skipped & (place < (skipped + wanted)[lane])
        return drawn, lane[chosen], row[chosen] % margin, number[chosen], place[chosen]


def floor_sum(n: int, m: int, a: int, b: np.ndarray) -> np.ndarray:
    """Sum over i in [0, n) of floor((a i + b) / m), for int64 ``b`` >= 0 of any shape: the lattice points under a
    line, by Euclid's algorithm in O(log m) steps."""
    total: np.ndarray = np.zeros_like(b)
    count = np.full_like(b, n)
    while True:
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        reached = a * count + b
        if not (reached >= m).any():
            return total
        count, b = np.divmod(reached, m)
        m, a = a, m
