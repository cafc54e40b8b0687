"""The order in which the samples of a mix come. Pure functions, no I/O.

    (strata, seed)  --Order-->  position -> (stratum, sample)

The order is one endless sequence of positions. Global batch k is positions [k B, (k + 1) B), epoch e is
positions [e N, (e + 1) N), and rank r of R reads the r-th of R equal parts of a batch: so the number of ranks
changes who reads a sample, never which samples a batch holds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.errors import UserError
from cxrdist.seeds import philox


@dataclass(frozen=True)
class StratumQuota:
    """What the order needs to know of one class of one origin."""

    name: str
    samples: int
    quota: int


@dataclass(frozen=True)
class Order:
    """The endless sequence of samples of a mix. Equal for equal (strata, seed), on any number of ranks."""

    strata: tuple[StratumQuota, ...]
    seed: int

    def __post_init__(self) -> None:
        for stratum in self.strata:
            if stratum.quota and not stratum.samples:
                raise UserError(
                    f"the mix asks for {stratum.quota:,} samples of {stratum.name}, which has none"
                )
        if not self.epoch_images:
            raise UserError("the mix is empty: no class has a sample")

    @property
    def epoch_images(self) -> int:
        return sum(s.quota for s in self.strata)

    def at(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions [start, stop) -> stratum [n] int64 and sample within the stratum [n] int64."""
        epoch, place = np.divmod(np.arange(start, stop, dtype=np.int64), self.epoch_images)
        stratum, turn = interleave(tuple(s.quota for s in self.strata))
        which, turn = stratum[place], turn[place]
        sample = np.empty_like(which)
        for i, source in enumerate(self.strata):
            mine = which == i
            if not mine.any():
                continue
            # A stratum is gone through in cycles: each of its samples once, in a new random order each time.
            cycle, residue = np.divmod(epoch[mine] * source.quota + turn[mine], source.samples)
            found = np.empty_like(residue)
            for c in np.unique(cycle):
                found[cycle == c] = shuffled(self.seed, source.name, int(c), source.samples)[
                    residue[cycle == c]
                ]
            sample[mine] = found
        return which, sample


@functools.lru_cache(maxsize=8)
def interleave(quota: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Spread strata evenly over an epoch: the j-th of q draws of a stratum stands at (2 j + 1) / (2 q).

    Returns, per place in the epoch, the stratum [N] int64 and which of its draws it is [N] int64. This is
    Webster's (Sainte-Laguë's) apportionment taken seat by seat.
    """
    which = np.repeat(np.arange(len(quota)), quota)
    turn = np.concatenate([np.arange(q) for q in quota])
    when = np.concatenate([(2 * np.arange(q) + 1) / (2 * max(q, 1)) for q in quota])
    order = np.lexsort((which, when))
    return which[order], turn[order]


@functools.lru_cache(maxsize=32)
def shuffled(seed: int, name: str, cycle: int, samples: int) -> np.ndarray:
    """The order [samples] int64 in which a stratum's cycle goes through its samples."""
    return np.random.Generator(philox(seed, "cycle", name, cycle)).permutation(samples)


def part_of_batch(batch: int, rank: int, world_size: int) -> slice:
    """Which of a global batch's positions rank ``rank`` reads. Raises UserError where they do not divide."""
    check_divides(batch, world_size)
    size = batch // world_size
    return slice(rank * size, (rank + 1) * size)


def check_divides(batch: int, world_size: int) -> None:
    if batch % world_size:
        below = batch // world_size * world_size
        fitting: Sequence[int] = [b for b in (below, below + world_size) if b > 0]
        raise UserError(
            f"a global batch of {batch} does not divide among {world_size} processes: take --batch "
            + " or ".join(map(str, fitting))
        )
