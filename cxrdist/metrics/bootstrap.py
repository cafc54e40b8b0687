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

from collections.abc import Iterator, Sequence
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

    def interval(self, values: np.ndarray, confidence: float = COVERED) -> list[float] | None:
        """[R] -> ``[lower, upper]``, rounded. None if fewer than half of the replicates have a value, or for fewer
        than two patients, whose replicates are all alike."""
        known = values[~np.isnan(values)]
        if len(self.patients) < 2 or len(known) < FEWEST_KNOWN * len(values):
            return None
        tail = (1 - confidence) / 2
        return [round(float(end), DIGITS) for end in np.quantile(known, (tail, 1 - tail))]

    def chunks(self, images: int) -> Iterator[np.ndarray]:
        """The counts of all replicates in order, a few replicates at a time."""
        size = max(1, CHUNK_VALUES // max(1, images, len(self.patients)))
        for first in range(0, self.replicates, size):
            yield self.counts(first, min(first + size, self.replicates))


def replicates(
    predictions: Predictions, resamples: Resamples, *, only_recalls: bool = False
) -> dict[str, np.ndarray]:
    """The metrics in each replicate, float64, NaN if undefined: [R], or [R, classes] for ``weighted.PER_CLASS``.

    ``only_recalls``: only the metrics of ``weighted.RECALLS``. Raises ValueError if a patient is not among those that
    are drawn.
    """
    return resampled([predictions], resamples, only_recalls=only_recalls)[0]


def resampled(
    several: Sequence[Predictions], resamples: Resamples, *, only_recalls: bool = False
) -> list[dict[str, np.ndarray]]:
    """``replicates`` of several predictions, for which the patients of each replicate are drawn once."""
    groups = len(resamples.patients)
    weighted = [
        WeightedMetrics(one, _patient_number(one, resamples), groups, only_recalls=only_recalls)
        for one in several
    ]
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in several]
    for counts in resamples.chunks(max((len(one) for one in several), default=0)):
        by_patient = np.ascontiguousarray(counts.T)
        for metrics, of_one in zip(weighted, parts, strict=True):
            of_one.append(metrics(by_patient))
    return [{name: np.concatenate([part[name] for part in of_one]) for name in of_one[0]} for of_one in parts]


def _patient_number(predictions: Predictions, resamples: Resamples) -> np.ndarray:
    """[N] int64: the position of each image's patient among those that are drawn."""
    names = predictions.patient_of_image()
    group = np.searchsorted(resamples.patients, names)
    is_known = group < len(resamples.patients)
    is_known[is_known] = resamples.patients[group[is_known]] == names[is_known]
    if not is_known.all():
        raise ValueError(f"patient {names[~is_known][0]} is not among those that are drawn")
    return group


def intervals(predictions: Predictions, resamples: Resamples) -> dict[str, Any]:
    """``{metric: [lower, upper]}``, and ``{metric: {class: [lower, upper]}}`` for metrics per class; None as for
    ``Resamples.interval``."""
    return by_name(replicates(predictions, resamples), predictions.classes, resamples.interval)


@dataclass(frozen=True, eq=False)
class Measured:
    """A classifier's predictions with its metrics, and the same in each replicate; shapes as for ``replicates``."""

    predictions: Predictions
    values: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]


def measured(
    several: Sequence[Predictions], resamples: Resamples, *, only_recalls: bool = False
) -> list[Measured]:
    """Each of several predictions with its metrics. Raises ValueError as ``replicates`` does."""
    drawn = resampled(several, resamples, only_recalls=only_recalls)
    return [
        Measured(one, {name: values for name, values in values_of(one).items() if name in found}, found)
        for one, found in zip(several, drawn, strict=True)
    ]


def mean_of_runs(folds: Sequence[Sequence[Measured]]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The mean of each metric over the runs of a fold (one per seed), then over folds; the same in each replicate.

    Of runs and folds that have a value; NaN where none has. Shapes as for ``replicates``, without R for the means.
    """
    of_fold = [
        (_means([run.values for run in fold]), _means([run.replicates for run in fold])) for fold in folds
    ]
    return _means([values for values, _ in of_fold]), _means([drawn for _, drawn in of_fold])


def mean_difference(
    folds: Sequence[Sequence[tuple[Measured, Measured]]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """``mean_of_runs`` of the differences of pairs, the first minus the second.

    ``folds``: for each fold the pairs of runs that were tested on its images. Raises UserError if the images of a
    pair, or their classes or patients, are not the same.
    """
    for a, b in (pair for fold in folds for pair in fold):
        check_same_images(a.predictions, b.predictions)
    return mean_of_runs(
        [
            [
                Measured(a.predictions, _minus(a.values, b.values), _minus(a.replicates, b.replicates))
                for a, b in fold
            ]
            for fold in folds
        ]
    )


def _minus(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a[name] - b[name] for name in a}


def _means(several: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of each metric over those that have a value; NaN where none has."""
    found = {}
    for name in several[0]:
        values = np.stack([one[name] for one in several])
        known = ~np.isnan(values)
        count = known.sum(0)
        total = np.where(known, values, 0).sum(0)
        found[name] = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return found


def paired(a: Predictions, b: Predictions, resamples: Resamples) -> dict[str, Any]:
    """The difference ``a`` minus ``b`` of two classifiers on the same images, each replicate the same for both.

    ``{metric: {"difference": value, "interval": [lower, upper]}}``, and ``{metric: {class: ...}}`` for metrics per
    class. What both find hard cancels out, so the interval is narrower than that of two independent test sets. Raises
    UserError if the images, or their classes or patients, are not the same.
    """
    check_same_images(a, b)
    first, second = measured([a, b], resamples)
    values, drawn = mean_difference([[(first, second)]])
    differences = by_name(values, a.classes, rounded)
    spreads = by_name(drawn, a.classes, resamples.interval)
    return {
        name: {of: _difference(found[of], spreads[name][of]) for of in a.classes}
        if isinstance(found, dict)
        else _difference(found, spreads[name])
        for name, found in differences.items()
    }


def _difference(value: float | None, spread: list[float] | None) -> dict[str, Any]:
    return {"difference": value, "interval": spread}


def check_same_images(a: Predictions, b: Predictions) -> None:
    """Raises UserError if the images of two predictions, or their classes or patients, are not the same."""
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
