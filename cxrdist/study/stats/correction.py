"""Correction for many comparisons: among twenty true null hypotheses, one would seem false at a level of 5 %.

Adjusted p values are those of Holm (1979, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian
Journal of Statistics 6). Holm's procedure has no intervals that are as simple, so intervals are Bonferroni's: they
contain all true differences at once with a probability of 1 - alpha or more, and one that excludes 0 has an adjusted
p below alpha.

Several families share alpha: each has a part of it, and the parts sum to 1. Their adjusted p values are those of the
family divided by its part, so that each is still compared with alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.study.stats.differences import Comparison

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A comparison as one of a family."""

    comparison: Comparison
    family: int
    """Number of comparisons in the family."""
    confidence: float
    """Of the interval alone: 1 - part * alpha / family."""
    interval: tuple[float, float] | None
    """Simultaneous over the family; None if the comparison has none."""
    p: float | None
    """Adjusted after Holm, and for the part of alpha; None if the comparison has none."""


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values in the order of the given ones.

    A comparison without p (None) could not be made, but was meant to be: it counts as one of the family.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = highest
    return adjusted


def correct(comparisons: Sequence[Comparison], alpha: float = ALPHA, *, part: float = 1.0) -> list[Corrected]:
    """The comparisons of one family, corrected, in the same order. Hand over all that a claim is chosen from.

    ``part``: of alpha, above 0 to 1, that this family has if there are several.
    """
    family = len(comparisons)
    confidence = 1 - part * alpha / max(1, family)
    return [
        Corrected(
            comparison=comparison,
            family=family,
            confidence=confidence,
            interval=comparison.interval(confidence),
            p=None if p is None else min(1.0, p / part),
        )
        for comparison, p in zip(comparisons, holm([each.p for each in comparisons]))
    ]
