"""Geometry of the score charts: quantiles of synthetic beside real images, a panel per gate and a row per class.

The template draws them as SVG. Positions are from 0 (left) to 100; what lies outside is drawn at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

TICKS = 4
WIDEST = 2.0
"""The axis ends at this many times the width of what real images and thresholds span, however far synthetic ones
lie."""


@dataclass(frozen=True)
class Row:
    """A class: positions of the threshold and of five quantiles each."""

    name: str
    threshold: float | None
    synthetic: Sequence[float]
    real: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """A gate."""

    gate: str
    rows: Sequence[Row]
    ticks: Sequence[tuple[float, str]]
    """Position and label."""
    is_cut: bool
    """Whether something lies outside."""


def panel(
    gate: str, scores: Mapping[str, Mapping[str, Sequence[float]]], thresholds: Mapping[str, float]
) -> Panel:
    """``scores``: by class the quantiles of ``synthetic`` and ``real`` images; ``thresholds`` by class, where they
    are known."""
    fixed = [value for of in scores.values() for value in of["real"]] + list(thresholds.values())
    every = fixed + [value for of in scores.values() for value in of["synthetic"]]
    low, high = min(fixed), max(fixed)
    width = (high - low) or 1.0
    start, end = max(min(every), high - WIDEST * width), min(max(every), low + WIDEST * width)
    start, end = start - 0.03 * width, end + 0.03 * width

    def at(value: float) -> float:
        return round(min(100.0, max(0.0, 100 * (value - start) / (end - start))), 2)

    rows = [
        Row(
            name,
            at(thresholds[name]) if name in thresholds else None,
            [at(value) for value in of["synthetic"]],
            [at(value) for value in of["real"]],
        )
        for name, of in scores.items()
    ]
    ticks = [float(tick) for tick in MaxNLocator(TICKS).tick_values(start, end) if start <= tick <= end]
    is_cut = min(every) < start or max(every) > end
    return Panel(gate, rows, [(at(tick), f"{tick:g}") for tick in ticks], is_cut)
