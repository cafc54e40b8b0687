"""The order of the samples of a mix: exact, equal on any number of ranks, resumable. Pure functions, no I/O.

    (strata, seed, batch)  --Order-->  position -> (stratum, sample)

The order is one endless sequence of positions. Global batch k is positions [k B, (k + 1) B), epoch e is positions
[e N, (e + 1) N), and rank r of R reads the positions p with p mod R = r. So the number of ranks determines which rank
reads a sample, never which samples a batch holds. The sample at a position is calculated from the position alone, in
time and memory that do not grow with the position, and hardly with the size of the set:

    position p ── lane p mod C                       C lanes, C divides B: a rank works in a few of them
      -> epoch e, place u of the lane in the epoch
        -> stratum: in each lane the strata are spread evenly over the epoch (interleave.py)
          -> J, the number of earlier draws of the stratum: cycle J // n, and the lane's draw within the cycle
            -> sample: a cycle's shuffled chunks are cut into one run for each lane, which is read through a small
               shuffled window (shuffle.py)

So every epoch draws exactly the quota of each stratum; before any position the numbers of uses of two samples of a
stratum differ by at most one; and a lane reads whole chunks of a shard, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrdist.data.mix.interleave import StratumInterleave, lane_count
from cxrdist.data.mix.shuffle import StratumShuffle
from cxrdist.errors import OptionError, UserError
from cxrdist.seeds import derive


@dataclass(frozen=True)
class StratumQuota:
    """A stratum of the mix, as the order needs it: its samples, and how many of them an epoch draws."""

    name: str
    shard_samples: np.ndarray  # [shards] int64, in the order of the shard table
    quota: int
    chunk_samples: int = 64
    """How many neighbouring samples of a shard the order keeps together, at most."""

    @property
    def samples(self) -> int:
        return int(self.shard_samples.sum())


class Order:
    """The endless sequence of samples of a mix: a function of (strata, seed, batch), not of the number of ranks.

    ``batch``: global batch size. Raises UserError for a quota of an empty stratum, or if all quotas are 0.
    """

    def __init__(self, strata: tuple[StratumQuota, ...], *, seed: int, batch: int) -> None:
        for stratum in strata:
            if stratum.quota and not stratum.samples:
                raise UserError(
                    f"the mix asks for {stratum.quota:,} samples of {stratum.name}, which has none"
                )
        self.epoch_images = sum(s.quota for s in strata)
        if not self.epoch_images:
            raise UserError("the mix is empty: no class has a sample")
        self.interleave = StratumInterleave(np.array([s.quota for s in strata]), lane_count(batch))
        self.shuffles = [
            StratumShuffle(s.name, s.shard_samples, s.chunk_samples, i, self.interleave, seed)
            for i, s in enumerate(strata)
        ]

    def at(self, positions: range) -> tuple[np.ndarray, np.ndarray]:
        """Stratum [n] int64, and sample within the stratum [n] int64, at each of the positions."""
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
        draws = self.interleave.draws(positions.start, positions[-1] + 1)
        mine = slice(0, None, positions.step)
        which, lane = draws.stratum[mine], draws.lane[mine]
        sample = np.empty(len(positions), np.int64)
        for i, shuffle in enumerate(self.shuffles):
            of_stratum = draws.stratum == i
            if not of_stratum.any():
                continue
            number = draws.before[i] + np.cumsum(of_stratum)[mine] - 1
            is_mine = which == i
            sample[is_mine] = shuffle.samples_at(
                number[is_mine], lane[is_mine], draws.number_in_lane[mine][is_mine]
            )
        return which, sample


def part_of_batch(batch: int, rank: int, world_size: int) -> slice:
    """The positions of a global batch that rank ``rank`` reads. Raises UserError if the batch does not divide evenly
    among the ranks."""
    check_divides(batch, world_size)
    return slice(rank, batch, world_size)


def check_divides(batch: int, world_size: int) -> None:
    """Raises UserError, with the batch sizes that fit, if a global batch does not divide evenly among the ranks."""
    if batch % world_size:
        below = batch // world_size * world_size
        fitting = [b for b in (below, below + world_size) if b > 0]
        raise UserError(
            f"a global batch of {batch} does not divide among {world_size} processes: take --batch "
            + " or ".join(map(str, fitting))
        )


def check_parts(batch: int, world_size: int, accumulate: int) -> None:
    """Raises UserError if the global batch does not divide equally into ranks and parts."""
    check_divides(batch, world_size)
    if batch // world_size % accumulate:
        whole = world_size * accumulate
        below = batch // whole * whole
        fitting = " or ".join(str(b) for b in (below, below + whole) if b > 0)
        raise OptionError(
            "accumulate",
            f"a global batch of {batch} does not divide into {accumulate} equal parts on each of {world_size} "
            f"processes: set --batch {fitting}",
        )


def order_seed(seed: int, stage: int = 0) -> int:
    """The seed of the order in a stage of a classifier training with this seed."""
    return derive(seed, "cls order", *([stage] if stage else []))
