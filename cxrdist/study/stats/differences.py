"""Paired differences between the arms of a study, with intervals between runs.

An arm is one way of training a classifier. It is run once per fold and seed; the runs of two arms with the same fold
and seed have the same train and test images, so they are compared in pairs.

Several folds: the differences of a fold's seeds are averaged, since they share train and test images. Counted as
independent, pairs of fold and seed would show a difference at a level of 5 % in up to 19 % of the studies in which
there is none (simulated: 5 folds, 5 seeds, differences that vary between folds alone). The means of the folds are not
independent either, because their train splits overlap. So their variance is multiplied by 1 / folds + test / train,
not by 1 / folds: the corrected resampled t-test of Nadeau and Bengio (2003, Inference for the Generalization Error,
Machine Learning 52), which Bouckaert and Frank (2004, Evaluating the Replicability of Significance Tests for
Comparing Learning Algorithms, PAKDD) recommend for cross-validation, too.

One fold: the ordinary t-test over seeds. Its interval holds for these train and test images, and says nothing of
other patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_EQUAL = 1e-9  # differences of the same metrics, rounded in another order


@dataclass(frozen=True)
class Outcome:
    """What is compared: a metric, of one class or of all."""

    metric: str
    class_name: str | None = None


class Pair(NamedTuple):
    """The runs of two arms with the same fold and seed, by their positions."""

    fold: int
    seed: int
    difference: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm minus its reference, in the units of the metric."""

    outcome: Outcome
    arm: str
    reference: str
    pairs: tuple[Pair, ...]
    mean: float | None
    """Over folds of the mean over seeds; None without pairs."""
    standard_error: float | None = None
    """Of the mean, corrected for folds. None, like all below, if there is a ``reason``."""
    degrees: int | None = None
    """Degrees of freedom of the standard error."""
    p: float | None = None
    """Two-sided, of no difference."""
    reason: str | None = None
    """Why there is no interval."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """The t interval of the mean; None if there is a ``reason``."""
        if self.mean is None or self.standard_error is None or self.degrees is None:
            return None
        reach = float(stats.t.isf((1 - confidence) / 2, self.degrees)) * self.standard_error
        return self.mean - reach, self.mean + reach


def compare(
    outcome: Outcome,
    values: np.ndarray,
    arms: Sequence[str],
    against: Sequence[tuple[str, str]],
    *,
    test_to_train: float | None = None,
) -> list[Comparison]:
    """Compare the arms of each pair of names (arm, reference).

    ``values`` [arms, folds, seeds] float64, in the order of ``arms``, with all folds that the patients were dealt
    into; NaN where a run is missing. ``test_to_train`` is the number of test images divided by that of train images,
    in a fold; by default 1 / (folds - 2), which holds for ``cxrdist import --folds``. Raises ValueError for values of
    another shape, for an unknown arm, and if the ratio must be given.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or len(values) != len(arms):
        raise ValueError(f"values of shape {values.shape}: must be [{len(arms)} arms, folds, seeds]")
    folds = values.shape[1]
    if test_to_train is None and folds == 2:
        raise ValueError("two folds: test_to_train must be given")
    ratio = 1 / (folds - 2) if test_to_train is None and folds > 2 else test_to_train or 0.0
    place = {arm: number for number, arm in enumerate(arms)}
    if unknown := {arm for pair in against for arm in pair} - {*place}:
        raise ValueError(f"unknown arms: {', '.join(sorted(unknown))}")
    return [
        _compared(outcome, arm, reference, values[place[arm]] - values[place[reference]], ratio)
        for arm, reference in against
    ]


def _compared(
    outcome: Outcome, arm: str, reference: str, differences: np.ndarray, ratio: float
) -> Comparison:
    """``differences`` [folds, seeds] float64, NaN where a run is missing."""
    pairs = tuple(
        Pair(int(fold), int(seed), float(differences[fold, seed]))
        for fold, seed in np.argwhere(~np.isnan(differences))
    )
    of_fold = [row[~np.isnan(row)] for row in differences]
    of_fold = [row for row in of_fold if len(row)]
    # The independent observations: folds, or the seeds of the only one.
    observed = of_fold[0] if len(of_fold) == 1 else np.array([row.mean() for row in of_fold])
    factor = 1 / max(1, len(observed)) + (ratio if len(of_fold) > 1 else 0.0)
    mean = float(observed.mean()) if len(observed) else None
    reason = None
    if mean is None:
        reason = "no fold and seed has a run of both arms"
    elif len(observed) == 1:
        reason = "one fold and one seed: nothing shows how much results vary between runs"
    elif np.ptp(observed) < _EQUAL:
        reason = f"all {len(observed)} differences are equal: how much results vary between runs is unknown"
    if mean is None or reason is not None:
        return Comparison(
            outcome=outcome, arm=arm, reference=reference, pairs=pairs, mean=mean, reason=reason
        )
    standard_error = math.sqrt(factor * observed.var(ddof=1))
    degrees = len(observed) - 1
    return Comparison(
        outcome=outcome,
        arm=arm,
        reference=reference,
        pairs=pairs,
        mean=mean,
        standard_error=standard_error,
        degrees=degrees,
        p=float(2 * stats.t.sf(abs(mean) / standard_error, degrees)),
    )
