"""The order in which the samples of a mix come: exact, the same for everyone, resumable. Pure functions, no I/O.

    (strata, seed, batch)  --Order-->  position -> (stratum, sample)

The order is one endless sequence of positions. Global batch k is positions [k B, (k + 1) B), epoch e is positions
[e N, (e + 1) N), and rank r of R reads the positions p with p mod R = r: so the number of ranks changes who reads a
sample, never which samples a batch holds. What stands at a position is worked out from its number alone, in a time
and memory that do not grow with the position, and hardly with the set:

    position p ── lane p mod C                       C lanes, a divisor of B: a rank works in a few of them
      -> epoch e, place u of the lane in the epoch
        -> stratum: in each lane the strata are spread evenly over the epoch (lanes.py)
          -> J, how many of the stratum came before it: cycle J // n, and which of the lane's draws in the cycle
            -> sample: a cycle's chunks in random order are cut into one run for each lane, read through a small
               window of random order (cycles.py)

So in each epoch every stratum has exactly its quota; before any position the uses of the samples of a stratum differ
by at most one; and a lane reads whole chunks of a shard, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrdist.data.mix.interleave import Lanes, lanes_of
from cxrdist.data.mix.shuffle import Cycles
from cxrdist.errors import UserError
from cxrdist.seeds import derive


@dataclass(frozen=True)
class StratumQuota:
    """What the order needs to know of one class of one origin."""

    name: str
    shard_samples: np.ndarray  # [shards] int64, in the order of the shard table
    quota: int
    chunk_samples: int = 64
    """How many neighbouring samples of a shard are read together, at most."""

    @property
    def samples(self) -> int:
        return int(self.shard_samples.sum())


class Order:
    """The endless sequence of samples of a mix. Equal for equal (strata, seed, batch), on any number of ranks."""

    def __init__(self, strata: tuple[StratumQuota, ...], *, seed: int, batch: int) -> None:
        for stratum in strata:
            if stratum.quota and not stratum.samples:
                raise UserError(
                    f"the mix asks for {stratum.quota:,} samples of {stratum.name}, which has none"
                )
        self.epoch_images = sum(s.quota for s in strata)
        if not self.epoch_images:
            raise UserError("the mix is empty: no class has a sample")
        self.lanes = Lanes(np.array([s.quota for s in strata]), lanes_of(batch))
        self.cycles = [
            Cycles(s.name, s.shard_samples, s.chunk_samples, i, self.lanes, seed)
            for i, s in enumerate(strata)
        ]

    def at(self, positions: range) -> tuple[np.ndarray, np.ndarray]:
        """Positions -> stratum [n] int64 and sample within the stratum [n] int64."""
        which = np.empty(len(positions), np.int64)
        sample = np.empty(len(positions), np.int64)
        done = 0
        for part in self._by_epoch(positions):
            found = slice(done, done + len(part))
            which[found], sample[found] = self._within_epoch(part)
            done += len(part)
        return which, sample

    def _by_epoch(self, positions: range) -> Iterator[range]:
        start = positions.start
        while start < positions.stop:
            end = (start // self.epoch_images + 1) * self.epoch_images
            part = range(start, min(end, positions.stop), positions.step)
            yield part
            start = part[-1] + positions.step

    def _within_epoch(self, positions: range) -> tuple[np.ndarray, np.ndarray]:
        draws = self.lanes.draws(positions.start, positions[-1] + 1)
        mine = slice(0, None, positions.step)
        which, lane = draws.stratum[mine], draws.lane[mine]
        sample = np.empty(len(positions), np.int64)
        for i, cycles in enumerate(self.cycles):
            of_stratum = draws.stratum == i
            if not of_stratum.any():
                continue
            number = draws.before[i] + np.cumsum(of_stratum)[mine] - 1
            is_mine = which == i
            sample[is_mine] = cycles.samples_at(
                number[is_mine], lane[is_mine], draws.number_in_lane[mine][is_mine]
            )
        return which, sample


def part_of_batch(batch: int, rank: int, world_size: int) -> slice:
    """Which of a global batch's positions rank ``rank`` reads. Raises UserError where they do not divide."""
    check_divides(batch, world_size)
    return slice(rank, batch, world_size)


def check_divides(batch: int, world_size: int) -> None:
    if batch % world_size:
        below = batch // world_size * world_size
        fitting = [b for b in (below, below + world_size) if b > 0]
        raise UserError(
            f"a global batch of {batch} does not divide among {world_size} processes: take --batch "
            + " or ".join(map(str, fitting))
        )


def order_seed(seed: int) -> int:
    """The seed of the order in a training of this seed."""
    return derive(seed, "cls order")
