"""Metrics of a classifier on a split, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cxrdist.metrics.predictions import Predictions
from cxrdist.metrics.weighted import PER_CLASS, WeightedMetrics

DIGITS = 6


def metrics_of(predictions: Predictions) -> dict[str, Any]:
    """The metrics of a split, rounded to six digits.

    - ``accuracy``; ``balanced_accuracy``, ``macro_auroc``, ``macro_auprc``, ``macro_f1``: means over classes;
    - ``per_class`` (recall, which the paper calls the accuracy of a class), ``precision``, ``f1``, ``auroc`` and
      ``auprc`` (one class against the rest): ``{class: value}``;
    - ``ece``: expected calibration error of the predicted class, 15 bins of equal width (Guo et al. 2017, On
      Calibration of Modern Neural Networks, eq. 3);
    - ``brier``: squared error of the probabilities, summed over classes (0 to 2), the mean over images (Brier 1950);
    - ``confusion``: images, rows are true classes; ``n``: images per class; ``without_images``: classes without any.

    The predicted class is the most probable one, of equal ones the first. A class without images is null everywhere
    and enters no mean. The AUROC of a class is null if all images are of it, and the precision of a class is null if
    it is never predicted. Without images, everything is null.
    """
    confusion, values = _once(predictions)
    n = confusion.sum(1).tolist()
    return {
        **by_name(values, predictions.classes, rounded),
        "confusion": confusion.tolist(),
        "n": dict(zip(predictions.classes, n)),
        "without_images": [name for name, images in zip(predictions.classes, n) if not images],
    }


def values_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """The metrics as ``metrics_of`` has them, not rounded, NaN for null: [], or [classes] for metrics per class."""
    return _once(predictions)[1]


def _once(predictions: Predictions) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Confusion matrix [true, predicted] int64, and metrics, with each image counted once."""
    groups = max(1, len(predictions))
    weighted = WeightedMetrics(predictions, np.arange(len(predictions)), groups)
    counts = np.ones((groups, 1))
    confusion = (weighted.confusion @ counts).reshape(weighted.classes, weighted.classes)
    return confusion.astype(np.int64), {name: array[0] for name, array in weighted(counts).items()}


def by_name(
    values: Mapping[str, np.ndarray], classes: Sequence[str], shown: Callable[[Any], Any]
) -> dict[str, Any]:
    """``{metric: shown(value)}``; ``{metric: {class: shown(value)}}`` for a metric per class: [..., classes]."""
    return {
        name: {of: shown(array[..., label]) for label, of in enumerate(classes)}
        if name in PER_CLASS
        else shown(array)
        for name, array in values.items()
    }


def rounded(value: float) -> float | None:
    """As a JSON value: null for NaN."""
    return None if math.isnan(value) else round(float(value), DIGITS)
