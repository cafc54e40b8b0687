"""Evaluate a classifier on a whole split of real images: each rank a part of it, each image exactly once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from cxrdist.cls.metrics import metrics_of
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import to_float
from cxrdist.distributed.dist import Dist

EVALUATION_BATCH = 256
PADDING = -1


class SplitEvaluator:
    """Holds this rank's part of a split, decoded (1 byte per pixel), and evaluates models on the whole split."""

    def __init__(self, shards: ShardSet, split: str, dist: Dist) -> None:
        self.classes, self.dist = shards.classes, dist
        where = [
            (label, number)
            for label, name in enumerate(shards.classes)
            for number in range(shards.samples(split, name, "real"))
        ]
        per_rank = -(-len(where) // dist.world_size)
        mine = where[dist.rank :: dist.world_size]
        size = shards.image_size
        pixels = np.zeros((per_rank, 1, size, size), np.uint8)
        # Ranks gather equal numbers of rows; padded rows are recognized by their label and dropped.
        self.labels = torch.full((per_rank,), PADDING)
        for i, (label, number) in enumerate(mine):
            pixels[i, 0] = shards.stratum(split, shards.classes[label], "real").pixels(number)
            self.labels[i] = label
        self.pixels = torch.from_numpy(pixels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Metrics over the whole split (metrics_of), the same on all ranks."""
        model.eval()
        parts = [
            model(to_float(part.to(self.dist.device))).float() for part in self.pixels.split(EVALUATION_BATCH)
        ]
        model.train()
        logits = self.dist.gather(torch.cat(parts)).cpu()
        labels = self.dist.gather(self.labels.to(self.dist.device)).cpu()
        real = labels != PADDING
        return metrics_of(logits[real], labels[real], self.classes)
