"""Figures of a classifier from its logits, through torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_auroc, multiclass_confusion_matrix


def metrics_of(logits: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> dict[str, Any]:
    """logits [N, classes] float, labels [N] int64 -> accuracy, balanced accuracy, macro AUROC, recall per
    class, confusion matrix (rows: true class) and images per class.

    The paper's "accuracy" of a class is the share of its images that are classified right: its recall.
    """
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(classes)).to(torch.int64)
    images = confusion.sum(1)
    recall = confusion.diagonal() / images.clamp(min=1)
    auroc = multiclass_auroc(logits.softmax(1), labels, num_classes=len(classes), average="macro")
    return {
        "accuracy": round(float(confusion.diagonal().sum() / images.sum()), 6),
        "balanced_accuracy": round(float(recall.mean()), 6),
        "macro_auroc": round(float(auroc), 6),
        "per_class": {name: round(float(r), 6) for name, r in zip(classes, recall, strict=True)},
        "confusion": confusion.tolist(),
        "n": {name: int(n) for name, n in zip(classes, images, strict=True)},
    }
