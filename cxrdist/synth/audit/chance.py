"""What chance alone gives: binomial intervals, near copies among real images, coverage of one distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import beta, betabinom

CONFIDENCE = 0.95


def interval(count: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share, of ``count`` in ``n`` images (Clopper and Pearson 1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(1 - tail, count + 1, n - count))
    return low, high


@dataclass(frozen=True)
class Calibrated:
    """Images whose scores are compared with one threshold."""

    images: int
    rank: int
    """The threshold is the ``rank``-th most extreme score of the validation images."""
    calibrated_on: int
    """Number of validation images."""


def most_by_chance(groups: Sequence[Calibrated], *, comparisons: int) -> int:
    """If all images were like the validation images: the number beyond their thresholds, of all groups together, that
    is exceeded with a probability of at most 5 % over all ``comparisons``.

    The share beyond the k-th of n scores has the distribution Beta(k, n + 1 - k), so the number is beta-binomial:
    with few validation images the threshold itself is uncertain, and a binomial at its expected rate would call too
    many sets suspicious. Groups have thresholds of their own, and their numbers add up.
    """
    chances = np.ones(1)
    for of in groups:
        counts = np.arange(of.images + 1)
        own = betabinom.pmf(counts, of.images, of.rank, of.calibrated_on + 1 - of.rank)
        chances = fftconvolve(chances, own)
    return int(np.searchsorted(np.cumsum(chances), 1 - (1 - CONFIDENCE) / comparisons))


def expected_coverage(generated: int, real: int, neighbours: int) -> float:
    """The expected coverage of ``real`` images by as many ``generated`` ones of the same distribution.

    A real image is not covered if its ``neighbours`` nearest images are all real ones: C(m - 1, k) / C(m - 1 + n, k)
    of all ways to choose them among the m - 1 other real and the n generated images.
    """
    return 1 - exp(_log_choose(real - 1, neighbours) - _log_choose(real - 1 + generated, neighbours))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
