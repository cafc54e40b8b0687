"""Charts and tables of a classifier's predictions, from plain arrays, as rows of W&B tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_precision_recall_curve

PR_POINTS = 101
"""Points per class: a table of W&B holds at most 10,000 rows."""


def confusion_rows(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[tuple[str, str, int]]:
    """``(true class, predicted class, images)`` of each pair. ``labels`` [N] int, ``probabilities`` [N, C]."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return [
        (true, predicted, int(counts[row, column]))
        for row, true in enumerate(classes)
        for column, predicted in enumerate(classes)
    ]


def pr_rows(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[tuple[str, float, float]]:
    """``(class, recall, precision)`` at ``PR_POINTS`` recalls, of each class that has images. Precision is the
    highest at this recall or a higher one. ``labels`` [N] int, ``probabilities`` [N, C]."""
    precisions, recalls, _ = multiclass_precision_recall_curve(
        torch.from_numpy(probabilities), torch.from_numpy(labels).long(), num_classes=len(classes)
    )
    grid = np.linspace(0, 1, PR_POINTS)
    rows = []
    for label, name in enumerate(classes):
        if not (labels == label).any():
            continue
        # In the order of falling recall, so the running maximum is over this recall and higher ones.
        recall = recalls[label].numpy()[::-1]
        best = np.maximum.accumulate(precisions[label].numpy())[::-1]
        at = np.searchsorted(recall, grid - 1e-6)
        rows += [(name, round(float(r), 4), round(float(p), 4)) for r, p in zip(grid, best[at])]
    return rows
