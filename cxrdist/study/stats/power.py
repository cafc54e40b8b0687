"""The smallest difference between two arms that a planned study can show, and what it takes to show a given one.

An arm's recall varies with the test patients (binomially: a patient of the class counts as one trial) and between
runs. Of K folds with S seeds each, and n test patients of the class in all folds together, the difference of two arms
with correlated results has the variance

    V = 2 (1 - correlation) (recall (1 - recall) / n + fold_sd^2 / K + seed_sd^2 / (K S))

The first term is that of two proportions on the same patients (Connor 1987, Sample Size for Testing Differences in
Proportions for the Paired-Sample Design, Biometrics 43), with equal recalls. Balanced accuracy is the mean recall of
C classes, whose test patients are independent: its first term is the sum over the classes, divided by C^2.

The difference is tested as ``differences.compare`` does. Over folds that is the corrected resampled t-test (Nadeau
and Bengio 2003), whose squared standard error is V (1 + K test / train), with K - 1 degrees of freedom. The power is
the chance that a noncentral t exceeds the critical value (Cohen 1988, Statistical Power Analysis for the Behavioral
Sciences). It holds if overlapping train splits correlate the folds as much as the correction assumes, and is higher
if they do so less.

In one fold the test over seeds sees the last term only, with S - 1 degrees of freedom. Here the other terms count,
too, as if they were known, so the smallest difference is one of new patients: the root of the sum of the squares of
what either part alone would need. That is exact where one part is 0, and more seeds or patients never make it larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import optimize, stats

from cxrdist.study.stats.correction import ALPHA

MOST_PATIENTS = 10**7
MOST_SEEDS = 10**4
_NORMAL_FROM = 10**5
"""Degrees of freedom from which a t is computed as a normal one: they differ by less than 1e-4."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A planned study. Raises ValueError for a value out of range."""

    folds: int = 1
    seeds: int = 1
    """In each fold."""
    comparisons: int = 1
    """In the family that is corrected: arms times outcomes times references."""
    alpha: float = ALPHA
    """Of the family; each comparison is tested at alpha / comparisons, two-sided."""
    power: float = 0.8
    """Chance of showing a true difference."""
    correlation: float = 0.5
    """Of two arms' results on the same patients, fold and seed; 0 (unrelated) to below 1."""
    test_to_train: float | None = None
    """Test images divided by train images in a fold; None for 1 / (folds - 2)."""

    def __post_init__(self) -> None:
        if self.folds < 1 or self.seeds < 1 or self.comparisons < 1:
            raise ValueError("folds, seeds and comparisons must be 1 or more")
        if not 0 < self.alpha < self.power < 1:
            raise ValueError("alpha and power must be between 0 and 1, and alpha below power")
        if not 0 <= self.correlation < 1:
            raise ValueError("correlation must be from 0 to below 1")
        if self.folds == 2 and self.test_to_train is None:
            raise ValueError("two folds: test_to_train must be given")

    @property
    def inflation(self) -> float:
        """Factor of the variance: the correction for overlapping train splits."""
        if self.folds == 1:
            return 1.0
        ratio = 1 / (self.folds - 2) if self.test_to_train is None else self.test_to_train
        return 1 + self.folds * ratio


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of the metric of one arm, from a pilot, in the units of the metric."""

    seed_sd: float
    """Between seeds, on the same train and test images."""
    fold_sd: float = 0.0
    """Between folds, beyond what few test patients and few seeds explain."""


def smallest_difference(
    design: Design, recalls: Sequence[float], patients: Sequence[int], spread: Spread
) -> float | None:
    """The smallest true difference that the design shows with its power, in the units of ``recalls`` (0 to 1).

    ``recalls`` and ``patients``: the expected recall and the test patients, in all folds together, of the class; or
    of every class, for the balanced accuracy. None if no difference can be shown, since there is one run.
    """
    if design.folds == design.seeds == 1:
        return None
    fixed, of_seeds = _variances(design, recalls, patients, spread)
    if design.folds > 1:
        standard_error = math.sqrt(design.inflation * (fixed + of_seeds))
        return standard_error * _noncentrality(design, design.folds - 1)
    return math.hypot(
        math.sqrt(fixed) * _noncentrality(design, math.inf),
        math.sqrt(of_seeds) * _noncentrality(design, design.seeds - 1),
    )


def patients_needed(design: Design, recalls: Sequence[float], spread: Spread, margin: float) -> int | None:
    """The fewest test patients of each class, in all folds together, with which the design shows ``margin``.

    None if no number does, since results vary too much between runs.
    """
    return _fewest(
        lambda n: _shows(smallest_difference(design, recalls, [n] * len(recalls), spread), margin),
        MOST_PATIENTS,
    )


def seeds_needed(
    design: Design, recalls: Sequence[float], patients: Sequence[int], spread: Spread, margin: float
) -> int | None:
    """The fewest seeds in each fold with which the design, but for its own seeds, shows ``margin``.

    None if no number does, since there are too few test patients or folds.
    """
    return _fewest(
        lambda n: _shows(smallest_difference(replace(design, seeds=n), recalls, patients, spread), margin),
        MOST_SEEDS,
    )


def _variances(
    design: Design, recalls: Sequence[float], patients: Sequence[int], spread: Spread
) -> tuple[float, float]:
    """V: the part that more seeds do not change, and that of the seeds."""
    if not recalls or len(recalls) != len(patients) or min(patients) < 1:
        raise ValueError("each class needs a recall, and one test patient or more")
    of_pair = 2 * (1 - design.correlation)
    binomial = sum(recall * (1 - recall) / n for recall, n in zip(recalls, patients)) / len(recalls) ** 2
    fixed = of_pair * (binomial + spread.fold_sd**2 / design.folds)
    return fixed, of_pair * spread.seed_sd**2 / (design.folds * design.seeds)


def _noncentrality(design: Design, degrees: float) -> float:
    """The difference, in standard errors, that a two-sided t-test of one comparison finds with the design's power."""
    alpha = design.alpha / design.comparisons
    if degrees >= _NORMAL_FROM:
        return float(stats.norm.isf(alpha / 2) + stats.norm.ppf(design.power))
    critical = float(stats.t.isf(alpha / 2, degrees))

    def missing(noncentrality: float) -> float:
        return design.power - float(stats.nct.sf(critical, degrees, noncentrality))

    above = critical + 1  # where the power is about 1 / 2 or more; it rises to 1
    while missing(above) > 0:
        above *= 2
    return float(optimize.brentq(missing, 0.0, above))


def _shows(smallest: float | None, margin: float) -> bool:
    return smallest is not None and smallest <= margin


def _fewest(is_enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest n from 1 to ``most`` that is enough, if all larger ones are, too; None if none is."""
    if not is_enough(most):
        return None
    short, enough = 0, most
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if is_enough(middle) else (middle, enough)
    return enough
