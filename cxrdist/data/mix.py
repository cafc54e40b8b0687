"""A mix: classes x origins -> exact quotas -> the order in which samples come. Pure functions, no I/O.

    counts {class: {origin: n}}  --quotas-->  {class: {origin: q}}     one epoch takes exactly q of each
    (strata, seed)               --Order-->   position -> (stratum, sample)

The order is one endless sequence of positions. Global batch k is positions [k B, (k + 1) B), epoch e is
positions [e N, (e + 1) N), and rank r of R reads the r-th of R equal parts of a batch: so the number of ranks
changes who reads a sample, never which samples a batch holds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cxrdist.data.manifest import ORIGINS
from cxrdist.errors import UserError, nearest
from cxrdist.seeds import philox

Counts = Mapping[str, Mapping[str, int]]
TARGETS = ("own", "smallest", "largest")


@dataclass(frozen=True, kw_only=True)
class MixRule:
    """A rule over counts, as a YAML in ``configs/mix/`` states it; it holds for any class names."""

    name: str
    images_per_class: str | int
    """``own``: as many as the class has real images; ``smallest``, ``largest``: as many as the smallest or
    largest class has; or a number."""
    times: int | float = 1
    """Multiplies ``images_per_class``."""
    fill: tuple[str, ...] = ("real",)
    """Origins, in the order in which they are used up; the last one gives what the others lack."""

    def __post_init__(self) -> None:
        target = self.images_per_class
        if isinstance(target, str) and target not in TARGETS:
            raise UserError(
                f"mix {self.name}: images_per_class {target!r}: unknown{nearest(target, TARGETS)}"
            )
        if isinstance(target, int) and target < 1:
            raise UserError(f"mix {self.name}: images_per_class {target}: 1 or more")
        if self.times <= 0:
            raise UserError(f"mix {self.name}: times {self.times}: more than 0")
        for origin in self.fill:
            if origin not in ORIGINS:
                raise UserError(f"mix {self.name}: fill {origin!r}: unknown{nearest(origin, ORIGINS)}")
        if not self.fill or len(set(self.fill)) < len(self.fill):
            raise UserError(f"mix {self.name}: fill needs each of its origins once")

    @property
    def needs_synthetic(self) -> bool:
        return "synthetic" in self.fill


def rule_from(values: Mapping[str, Any]) -> MixRule:
    """A rule from the mapping that its YAML holds. Raises UserError for a key or value that is not right."""
    known = MixRule.__dataclass_fields__
    for key in values:
        if key not in known:
            raise UserError(f"mix {values.get('name', '?')}: {key}: unknown{nearest(key, known)}")
    if missing := [k for k in ("name", "images_per_class") if k not in values]:
        raise UserError(f"mix {values.get('name', '?')}: {missing[0]} is missing")
    fill = values.get("fill", ("real",))
    return MixRule(**{**values, "fill": (fill,) if isinstance(fill, str) else tuple(fill)})


def quotas(rule: MixRule, counts: Counts) -> dict[str, dict[str, int]]:
    """How many samples of each class and origin one epoch takes.

    ``counts`` are those of the ``train`` split. All origins but the last of ``fill`` give at most what they
    have; the last one gives the rest, repeating its samples if it has fewer.
    """
    real = {name: origins.get("real", 0) for name, origins in counts.items()}
    present = [n for n in real.values() if n > 0]
    if not present:
        raise UserError(f"mix {rule.name}: no real training image in any class")
    result: dict[str, dict[str, int]] = {}
    for name, origins in counts.items():
        base = {"own": real[name], "smallest": min(present), "largest": max(present)}.get(
            str(rule.images_per_class), rule.images_per_class
        )
        # An empty class stays empty where every class keeps its own number; elsewhere it wants its share.
        rest = round(Fraction(str(rule.times)) * int(base))
        result[name] = {}
        for origin in rule.fill[:-1]:
            result[name][origin] = min(rest, origins.get(origin, 0))
            rest -= result[name][origin]
        result[name][rule.fill[-1]] = rest
    return result


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
