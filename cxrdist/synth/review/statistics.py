"""The statistics of a reading: shares, agreement, calibration, ranks; each with the reason if it has no value.

Intervals are meant to contain the value of infinitely many images in 95 % of readings; none is over readers.

- Shares: Wilson's score interval (Wilson 1927, JASA 22: 209-212).
- Kappa of two readers: Cohen 1960 (Educ. Psychol. Meas. 20: 37-46), unweighted; of all: Fleiss 1971 (Psychol. Bull.
  76: 378-382). Intervals: percentiles of a bootstrap over images (``REPLICATES``, ``SEED``).
- ROC AUC: Mann and Whitney's statistic, with the score interval of Newcombe 2006 (Statist. Med. 25: 559-573, method
  5), which has a width for an AUC of 0 or 1, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from cxrdist.seeds import philox

CONFIDENCE = 0.95
REPLICATES = 2000
SEED = 0
DIGITS = 6
"""Of a figure in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of ``n`` images with its 95 % interval."""

    n: int
    count: int | None = None
    """Of a share: how many of the ``n`` images."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None
    """Why there is no value or no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles:
    """Linear between the values in order, as ``numpy.quantile``; all None for ``n`` = 0."""

    n: int
    q25: float | None = None
    median: float | None = None
    q75: float | None = None


def as_json(figure: Figure | Quartiles) -> dict[str, Any]:
    return {
        name: rounded(value) if isinstance(value, float) else value for name, value in asdict(figure).items()
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def share(count: int, n: int, of: str = "no such images") -> Figure:
    """``count`` of ``n``; ``of`` says what is missing if ``n`` is 0."""
    if n == 0:
        return Figure(n=0, count=0, why=of)
    ends = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Figure(n=n, count=count, value=count / n, low=float(ends.low), high=float(ends.high))


def quartiles(values: Sequence[float]) -> Quartiles:
    if not values:
        return Quartiles(n=0)
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Quartiles(n=len(values), q25=q25, median=median, q75=q75)


# ---- agreement


_NO_IMAGE = Figure(n=0, why="no image in common")


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> Figure:
    """Of two readers' answers to the same images, in one order."""
    if not first:
        return _NO_IMAGE
    categories = sorted({*first, *second})
    pairs = np.array([(categories.index(a), categories.index(b)) for a, b in zip(first, second, strict=True)])
    patterns, counts = np.unique(pairs, axis=0, return_counts=True)
    chosen = (patterns[:, :, None] == np.arange(len(categories))).astype(float)  # [P, 2, categories]

    def kappa(weights: np.ndarray) -> np.ndarray:
        n = weights.sum(1)
        shares = np.einsum("rp,pkc->rkc", weights, chosen) / n[:, None, None]
        return _beyond_chance(weights @ (patterns[:, 0] == patterns[:, 1]) / n, shares.prod(1).sum(1))

    return _with_bootstrap(kappa, counts)


def fleiss_kappa(answers: Sequence[Sequence[str]]) -> Figure:
    """Of the answers of the same two readers or more to each image: a row per image."""
    if not answers:
        return _NO_IMAGE
    readers = len(answers[0])
    categories = sorted({answer for row in answers for answer in row})
    votes = np.array([[list(row).count(name) for name in categories] for row in answers])
    patterns, counts = np.unique(votes, axis=0, return_counts=True)
    agreeing = (patterns * (patterns - 1)).sum(1) / (readers * (readers - 1))

    def kappa(weights: np.ndarray) -> np.ndarray:
        n = weights.sum(1)
        shares = weights @ patterns / (n[:, None] * readers)
        return _beyond_chance(weights @ agreeing / n, (shares**2).sum(1))

    return _with_bootstrap(kappa, counts)


def _beyond_chance(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """[R] each -> [R]; NaN where chance alone would give full agreement."""
    is_known = chance < 1 - 1e-12
    found: np.ndarray = np.full(len(observed), np.nan)
    found[is_known] = (observed[is_known] - chance[is_known]) / (1 - chance[is_known])
    return found


def _with_bootstrap(kappa: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> Figure:
    """Kappa of all images, with percentiles of resamples of them. ``counts`` [P]: images that have each pattern of
    answers; they are alike, so a resample is a draw of such counts. ``kappa``: [R, P] counts -> [R]."""
    n = int(counts.sum())
    value = float(kappa(counts[None].astype(float))[0])
    if np.isnan(value):
        return Figure(n=n, why="all answers are the same")
    draws = np.random.Generator(philox(SEED, "review: images")).multinomial(n, counts / n, REPLICATES)
    found = kappa(draws.astype(float))
    known = found[~np.isnan(found)]
    if np.ptp(known) < 1e-12:
        return Figure(n=n, value=value, why="no interval: all resamples have the same value")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (tail, 1 - tail)).tolist()
    return Figure(n=n, value=value, low=low, high=high)


# ---- calibration


def stated(confidence: int) -> float:
    """The probability of being right that a confidence of 1 to 5 stands for: 0.5 (a guess between two answers),
    0.625, 0.75, 0.875, 1."""
    return 0.5 + (confidence - 1) / 8


def brier(confidences: Sequence[int], is_right: Sequence[bool]) -> float | None:
    """Mean of (stated probability - 1 if right, else 0)^2; None for no answer. Brier 1950, Mon. Weather Rev. 78: 1-3.

    0: always certain and right; 0.25: always a guess.
    """
    if not confidences:
        return None
    return float(np.mean([(stated(c) - right) ** 2 for c, right in zip(confidences, is_right, strict=True)]))


def calibration_error(confidences: Sequence[int], is_right: Sequence[bool]) -> float | None:
    """Expected calibration error: |share of right answers - stated probability|, mean over the five confidences by
    their number of answers (Naeini et al. 2015, AAAI: 2901-2907); None for no answer."""
    if not confidences:
        return None
    levels = np.array(confidences)
    right = np.array(is_right, float)
    gaps = [
        abs(right[levels == c].sum() - stated(c) * (levels == c).sum()) for c in np.unique(levels).tolist()
    ]
    return float(np.sum(gaps) / len(levels))


# ---- ranks


def roc_auc(positives: Sequence[float], negatives: Sequence[float]) -> Figure:
    """Probability that a positive has a higher score than a negative, ties counted half."""
    m, n = len(positives), len(negatives)
    if not m or not n:
        return Figure(n=m + n, why="none removed" if not m else "none kept")
    ranks = stats.rankdata([*positives, *negatives])
    auc = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    return Figure(n=m + n, value=auc, low=_auc_end(auc, m, n, 0.0), high=_auc_end(auc, m, n, 1.0))


def _auc_end(auc: float, m: int, n: int, limit: float) -> float:
    """The end of the interval between ``auc`` and ``limit``: where ``auc`` is z standard errors away."""
    z, others = stats.norm.ppf((1 + CONFIDENCE) / 2), (m + n) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + others * (1 - t) / (2 - t) + others * t / (1 + t)) / (m * n)
        return float((auc - t) ** 2 - z**2 * variance)

    if auc == limit:
        return limit
    # Not from the value itself: an AUC of 0 or 1 has no variance, and would be an end of its own.
    return float(optimize.brentq(excess, auc + (limit - auc) * 1e-9, limit))
