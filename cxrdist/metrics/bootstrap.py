"""Bootstrap intervals of a classifier's metrics: patients are drawn with replacement, with all their images.

Two films of a patient are not independent: the same anatomy, and often the same finding. Drawing images would count
them as if they were, and give intervals that are too narrow. Each replicate draws as many patients as there are.
Intervals are percentiles of the replicates (Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13).

A replicate in which no image of a class is drawn has no value for this class, and its means are over the other
classes. If n patients of many have the class, that happens in about exp(-n) of the replicates: 37 % for one patient,
5 % for three, 0.7 % for five. An interval is null if fewer than half of the replicates have a value, so up to half of
them may be missing.

A resample is worse calibrated than its split, since it is noisier: the interval of the ECE lies too high, and above
the value itself for a well calibrated classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.errors import UserError
from cxrdist.metrics.classification import DIGITS, by_name, rounded, values_of
from cxrdist.metrics.predictions import Predictions
from cxrdist.metrics.weighted import WeightedMetrics
from cxrdist.seeds import philox

REPLICATES = 1000
COVERED = 0.95
"""Probability that an interval is meant to contain the value of an infinite test set."""
FEWEST_KNOWN = 0.5
"""An interval needs a value in this share of the replicates."""
CHUNK_VALUES = 2**19
"""Replicates are computed together up to this many images times replicates: 4 MB per intermediate array."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each patient is drawn in each replicate: a function of seed and number of patients alone.

    Predictions of several runs on the same images get the same replicates, so differences and means of runs can be
    taken within a replicate.
    """

    patients: np.ndarray  # [P] str, sorted, each once
    seed: int
    replicates: int = REPLICATES

    @staticmethod
    def of(*predictions: Predictions, seed: int, replicates: int = REPLICATES) -> Resamples:
        """Draws among all patients of some predictions, such as those of several folds."""
        names = np.concatenate([one.patient_of_image() for one in predictions])
        return Resamples(np.unique(names), seed, replicates)

    def counts(self, first: int, stop: int) -> np.ndarray:
        """[stop - first, P] float64: how often each patient is drawn in some of the replicates."""
        total = len(self.patients)
        counts = np.empty((stop - first, total))
        for row, replicate in enumerate(range(first, stop)):
            drawn = np.random.Generator(philox(self.seed, "patients", replicate)).integers(total, size=total)
            counts[row] = np.bincount(drawn, minlength=total)
        return counts

    def interval(self, values: np.ndarray) -> list[float] | None:
        """[R] -> ``[lower, upper]`` of 95 %, rounded. None if fewer than half of the replicates have a value, or for
        fewer than two patients, whose replicates are all alike."""
        known = values[~np.isnan(values)]
        if len(self.patients) < 2 or len(known) < FEWEST_KNOWN * len(values):
            return None
        tail = (1 - COVERED) / 2
        return [round(float(end), DIGITS) for end in np.quantile(known, (tail, 1 - tail))]

    def chunks(self, images: int) -> Iterator[np.ndarray]:
        """The counts of all replicates in order, a few replicates at a time."""
        size = max(1, CHUNK_VALUES // max(1, images, len(self.patients)))
        for first in range(0, self.replicates, size):
            yield self.counts(first, min(first + size, self.replicates))


def replicates(predictions: Predictions, resamples: Resamples) -> dict[str, np.ndarray]:
    """The metrics in each replicate, float64, NaN if undefined: [R], or [R, classes] for ``weighted.PER_CLASS``.

    Raises ValueError if a patient is not among those that are drawn.
    """
    names = predictions.patient_of_image()
    group = np.searchsorted(resamples.patients, names)
    is_known = group < len(resamples.patients)
    is_known[is_known] = resamples.patients[group[is_known]] == names[is_known]
    if not is_known.all():
        raise ValueError(f"patient {names[~is_known][0]} is not among those that are drawn")
    weighted = WeightedMetrics(predictions, group, len(resamples.patients))
    parts = [weighted(np.ascontiguousarray(counts.T)) for counts in resamples.chunks(len(predictions))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def intervals(predictions: Predictions, resamples: Resamples) -> dict[str, Any]:
    """``{metric: [lower, upper]}``, and ``{metric: {class: [lower, upper]}}`` for metrics per class; None as for
    ``Resamples.interval``."""
    return by_name(replicates(predictions, resamples), predictions.classes, resamples.interval)


def paired(a: Predictions, b: Predictions, resamples: Resamples) -> dict[str, Any]:
    """The difference ``a`` minus ``b`` of two classifiers on the same images, each replicate the same for both.

    ``{metric: {"difference": value, "interval": [lower, upper]}}``, and ``{metric: {class: ...}}`` for metrics per
    class. What both find hard cancels out, so the interval is narrower than that of two independent test sets. Raises
    UserError if the images, or their classes or patients, are not the same.
    """
    _check_same_images(a, b)
    values_a, values_b = values_of(a), values_of(b)
    replicates_a, replicates_b = replicates(a, resamples), replicates(b, resamples)
    differences = by_name({name: values_a[name] - values_b[name] for name in values_a}, a.classes, rounded)
    spreads = by_name(
        {name: replicates_a[name] - replicates_b[name] for name in replicates_a},
        a.classes,
        resamples.interval,
    )
    return {
        name: {of: _difference(found[of], spreads[name][of]) for of in a.classes}
        if isinstance(found, dict)
        else _difference(found, spreads[name])
        for name, found in differences.items()
    }


def _difference(value: float | None, spread: list[float] | None) -> dict[str, Any]:
    return {"difference": value, "interval": spread}


def _check_same_images(a: Predictions, b: Predictions) -> None:
    if a.classes != b.classes:
        raise UserError(
            f"predictions of {', '.join(a.classes)} and of {', '.join(b.classes)} cannot be compared"
        )
    only = np.setxor1d(a.keys, b.keys)
    if len(only):
        raise UserError(
            f"predictions cannot be compared: {len(only)} images, such as {only[0]}, are in one of the two only"
        )
    for_a, for_b = a.take(np.argsort(a.keys)), b.take(np.argsort(b.keys))
    for what, differ in (
        ("class", for_a.labels != for_b.labels),
        ("patient", for_a.patients != for_b.patients),
    ):
        if differ.any():
            raise UserError(
                f"predictions cannot be compared: image {for_a.keys[differ][0]} has another {what} in one of the two"
            )
