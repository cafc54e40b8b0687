"""Predictions on images that are drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxrdist.metrics.predictions import Predictions


def predicted(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[Sequence[float]] | np.ndarray,
    classes: str,
    patients: Sequence[str] | None = None,
) -> Predictions:
    """Predictions with keys ``i0``, ``i1``, ...; one letter of ``classes`` per class."""
    found = Predictions.of(
        [f"i{image}" for image in range(len(labels))],
        np.array(labels, np.int64),
        np.array(probabilities, np.float32).reshape(len(labels), len(classes)),
        tuple(classes),
    )
    return found if patients is None else replace(found, patients=np.array(patients, str))


def drawn(images: int, classes: str, patients: int, seed: int, step: float = 0.0) -> Predictions:
    """Predictions that are often right. ``step``: probabilities before scaling are multiples of it, so some tie."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(classes), size=images)
    scores = random.uniform(0.1, 1, size=(images, len(classes)))
    scores[np.arange(images), labels] += random.uniform(0, 1, size=images)
    if step:
        scores = np.ceil(scores / step) * step
    names = [f"p{patient}" for patient in random.integers(patients, size=images)]
    return predicted(labels, scores / scores.sum(1, keepdims=True), classes, names)
