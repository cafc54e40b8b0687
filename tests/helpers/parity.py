"""How far two trainings differ."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The largest difference of a value."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def largest_share(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The largest difference of a value, as a fraction of the largest value of its tensor in ``theirs``."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
