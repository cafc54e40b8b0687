"""Strata spread evenly over an epoch, in lanes: which stratum stands at a position. Pure functions, no I/O.

Position p lies in lane p mod C. An epoch of N positions deals each stratum's quota over the lanes, as cards are
dealt: laid end to end, the quotas number its draws 0 ... N - 1, and draw x goes to lane (x + e N) mod C, which fits
the places that each lane has in epoch e exactly. Within a lane draw j of q of a stratum stands at time
(j + phase) / q of the epoch, and the draws of all strata come in the order of their times (with phase 1/2: Webster's
apportionment, seat by seat). Phases differ by lane and stratum, so that a batch, which is a few places of every lane,
holds its share of each stratum.

All of it is arithmetic on the place asked for: whatever lies before it is counted, not gone through.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

POSITIONS_PER_LANE = 32
# Multiples of the golden ratio and of another irrational number, mod 1: any run of lanes is spread over [0, 1).
LANE_PHASE, STRATUM_PHASE = 0x9E3779B9, 0x6A09E667


def lanes_of(batch: int) -> int:
    """How many lanes: the largest divisor of the global batch that leaves each lane 32 of its positions. Ranks that
    divide it have lanes of their own; more of them share lanes, and read parts of the same chunks."""
    most = max(1, batch // POSITIONS_PER_LANE)
    return next(c for c in range(most, 0, -1) if batch % c == 0)


@dataclass(frozen=True)
class Draws:
    """What stands at positions [start, stop), which lie within one epoch."""

    stratum: np.ndarray  # [n] int64
    lane: np.ndarray  # [n] int64
    number_in_lane: (
        np.ndarray
    )  # [n] int64: how many draws of its stratum its lane had before it, since the beginning
    before: np.ndarray  # [strata] int64: how many draws of each stratum lie before start, since the beginning


class Lanes:
    """``quotas`` [strata] of an epoch, over ``count`` lanes."""

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
        """How many positions before this one each lane has: [lanes, ...]."""
        lanes = np.arange(self.count)
        if isinstance(position, np.ndarray):
            lanes = lanes.reshape(-1, *[1] * (position.ndim - 1))
        return (position - lanes + self.count - 1) // self.count

    def _quotas_of_lanes(self, epoch: int) -> np.ndarray:
        """[lanes, strata]: each lane's part of the quotas in an epoch."""
        first, last = (self.places_before(edges + epoch % self.count * self.epoch) for edges in self._edges)
        return last - first

    def _drawn_before_epoch(self, epoch: int) -> np.ndarray:
        """[lanes, strata]: how many draws of each stratum each lane had in all epochs before this one."""
        offset = self.count - 1 - np.arange(self.count)[:, None]
        first, last = (
            floor_sum(epoch, self.count, self.epoch % self.count, edges + offset) for edges in self._edges
        )
        return last - first

    def drawn_before(self, epoch: int, place: int) -> np.ndarray:
        """[lanes, strata]: how many draws each lane had since the beginning before this place of this epoch."""
        start = epoch * self.epoch
        first = self.places_before(start)
        count = self.places_before(start + place) - first
        return self.drawn_before_epoch(epoch) + self._merge(epoch, count, np.zeros_like(count))[0]

    def drawn_before_draw(self, stratum: int, number: int) -> np.ndarray:
        """[lanes]: how many draws of a stratum each lane had before its draw ``number`` of all lanes."""
        epoch, wanted = divmod(number, int(self.quotas[stratum]))
        if not wanted:
            return self.drawn_before_epoch(epoch)[:, stratum]
        before = epoch * int(self.quotas[stratum])
        low, high = 0, self.epoch  # after ``low`` places it has come too seldom, or just so often
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
        """What stands at positions [start, stop), which lie within one epoch."""
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
        """Each lane's draws [skipped, skipped + wanted) of the epoch ([lanes] both), in the order of their times.

        Returns how many draws of each stratum [lanes, strata] are skipped, and for each draw wanted its lane,
        stratum, number within both, and place in the lane.

        By time t the draws (j + phase) / q < t of all strata are within t Q - S and t Q + S, for S strata and Q
        places in the lane: so those skipped before time (skipped - S) / Q are counted and not looked at.
        """
        quotas = self.quotas_of_lanes(epoch)
        places = np.maximum(quotas.sum(axis=1), 1)
        margin = quotas.shape[1]
        begin = (skipped - margin) / places
        end = (skipped + wanted + margin) / places
        # One draw wider than the bounds on both sides, for the rounding of the times.
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
    """Sum over i in [0, n) of floor((a i + b) / m), for b >= 0 of any shape: the lattice points under a line, by
    Euclid's algorithm, in a number of steps that grows with log m."""
    total = np.zeros_like(b)
    count = np.full_like(b, n)
    while True:
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        reached = a * count + b
        if not (reached >= m).any():
            return total
        count, b = np.divmod(reached, m)
        m, a = a, m
