"""A mix: classes x origins -> exact quotas. Pure functions, no I/O; ``order.py`` makes an order of them.

counts {class: {origin: n}}  --quotas-->  {class: {origin: q}}     one epoch takes exactly q of each
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cxrdist.data.manifest import ORIGINS
from cxrdist.errors import UserError, nearest

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
