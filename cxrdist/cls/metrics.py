"""Metrics of a classifier from its logits, with torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_auroc, multiclass_confusion_matrix

from cxrdist.distributed.dist import Dist


def metrics_of(logits: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> dict[str, Any]:
    """logits [N, classes] float, labels [N] int64 -> accuracy, balanced accuracy, macro AUROC, recall per
    class, confusion matrix (rows: true class) and images per class.

    The paper's "accuracy" of a class is the fraction of its images that are classified correctly: its recall.
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


class MeanLoss:
    """Mean of the loss over steps, summed on the device, since reading a tensor waits for the GPU."""

    def __init__(self, dist: Dist) -> None:
        self.dist = dist
        self.clear()

    def clear(self) -> None:
        self.sum, self.steps = torch.zeros((), device=self.dist.device), 0

    def add(self, loss: torch.Tensor) -> None:
        self.sum += loss
        self.steps += 1

    def mean(self) -> float:
        """The mean since ``clear``, over all steps and ranks. Every rank calls this at the same step."""
        return float(self.dist.mean(self.sum / self.steps))
