"""Metrics by view, sex and age: a classifier that is good on average may be poor for some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cxrdist.metrics.classification import metrics_of
from cxrdist.metrics.predictions import Predictions

KEPT = ("n", "accuracy", "balanced_accuracy", "per_class", "macro_auroc")
"""Metrics of a subgroup."""
AGE_BANDS = {"0-17": 0, "18-39": 18, "40-64": 40, "65+": 65}
"""Youngest age, in years, of each band."""
UNKNOWN = "unknown"


def by_subgroup(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """``{"view": {"PA": {"images": 812, "n": {class: images}, "accuracy": ...}, "unknown": {"images": 5}}, ...}``

    Attributes are ``view``, ``sex`` and ``age``, each only if it is known of some images. Values, each with images,
    are in alphabetical order, ages in the order of ``AGE_BANDS``; ``unknown`` is last.
    """
    found: dict[str, dict[str, Any]] = {}
    attributes = {
        "view": list(_by_value(predictions.view)),
        "sex": list(_by_value(predictions.sex)),
        "age": list(_by_band(predictions.age)),
    }
    for attribute, groups in attributes.items():
        if not groups:
            continue
        found[attribute] = {value: _of_group(predictions.take(images)) for value, images in groups}
        unknown = len(predictions) - sum(int(images.sum()) for _, images in groups)
        if unknown:
            found[attribute][UNKNOWN] = {"images": unknown}
    return found


def _of_group(predictions: Predictions) -> dict[str, Any]:
    metrics = metrics_of(predictions)
    return {"images": len(predictions), **{name: metrics[name] for name in KEPT}}


def _by_value(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each known value and its images, [N] bool."""
    for value in np.unique(values).tolist():
        if value not in ("", UNKNOWN):
            yield value, values == value


def _by_band(ages: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each age band that has images, and these, [N] bool."""
    band = np.searchsorted(list(AGE_BANDS.values()), ages, side="right") - 1
    for number, name in enumerate(AGE_BANDS):
        images = (band == number) & ~np.isnan(ages)
        if images.any():
            yield name, images
