"""Thresholds from the scores of real validation images.

The threshold of a gate that refuses p percent is the k-th most extreme of the n scores, k = floor(p (n + 1) / 100),
at least 1. Another real image is then beyond it with probability k / (n + 1), at most p percent if n is large enough:
the rank of a new score among n + 1 exchangeable ones is uniform (split conformal prediction; Vovk et al. 2005, Lei et
al. 2018). A percentile that interpolates between scores would refuse more.

That is an average over validation splits. The share that the threshold of one split refuses is beta distributed, with
k and n + 1 - k: at 5 percent of 100 images between 2 and 9 percent. And if k is 1, one unusual image alone makes a
gate blind. So a class for which k is under 5 takes the threshold of all classes together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MIN_IMAGES = 100
MIN_RANK = 5
"""A class with fewer validation images, or a lower k, takes thresholds from the images of all classes together."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Thresholds:
    """Of one gate."""

    refuses_high: bool
    """True: scores above the threshold are refused; False: those below it."""
    of_class: Mapping[str, float]
    real: Mapping[str, np.ndarray]
    """The scores [n] float32 of real validation images that the threshold of a class rests on."""
    pooled: frozenset[str]
    """Classes whose threshold rests on the validation images of all classes."""

    def expected_refusals(self, class_name: str) -> float:
        """The share of other real images that the threshold is expected to refuse: k / (n + 1)."""
        real, limit = self.real[class_name], np.float32(self.of_class[class_name])
        beyond = real >= limit if self.refuses_high else real <= limit
        return int(beyond.sum()) / (len(real) + 1)

    def admit(self, class_name: str, scores: np.ndarray) -> np.ndarray:
        """[n] -> [n] bool. A score that is no finite number is refused."""
        limit = np.float32(self.of_class[class_name])
        return np.isfinite(scores) & (scores <= limit if self.refuses_high else scores >= limit)


def thresholds(
    real: Mapping[str, np.ndarray], percent: float, *, refuses_high: bool, at_least: float | None = None
) -> Thresholds:
    """``real``: the scores [n] float32 of each class's validation images. ``at_least``: a threshold for high scores
    is not below this."""
    everything = np.concatenate(list(real.values()))
    pooled = frozenset(
        name
        for name, scores in real.items()
        if len(scores) < MIN_IMAGES or rank_of(len(scores), percent) < MIN_RANK
    )
    used = {name: everything if name in pooled else scores for name, scores in real.items()}
    limits = {}
    for name, scores in used.items():
        limit = most_extreme(scores, percent, refuses_high=refuses_high)
        limits[name] = limit if at_least is None else max(limit, at_least)
    return Thresholds(refuses_high, limits, used, pooled)


def rank_of(images: int, percent: float) -> int:
    """k = floor(percent (n + 1) / 100), at least 1, at most n."""
    return min(max(1, int(percent * (images + 1) / 100)), images)


def most_extreme(scores: np.ndarray, percent: float, *, refuses_high: bool) -> float:
    """The k-th highest (or lowest) of scores [n], k = floor(percent (n + 1) / 100), at least 1."""
    ordered = np.sort(scores)[::-1] if refuses_high else np.sort(scores)
    return float(ordered[rank_of(len(ordered), percent) - 1])


def quantiles(scores: np.ndarray) -> list[float]:
    """``QUANTILES`` of scores [n], to six digits."""
    return [float(f"{value:.6g}") for value in np.quantile(scores.astype(np.float64), QUANTILES)]
