"""Classify a whole split of real images: each rank a part of it, each image once on exactly one rank."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import to_float
from cxrdist.distributed.dist import Dist
from cxrdist.metrics.predictions import Predictions

EVALUATION_BATCH = 256


class SplitEvaluator:
    """Holds this rank's part of a split, decoded (1 byte per pixel), and applies models to the whole split.

    Rank r of R has images r, r + R, r + 2 R, ... of the split. In ``float32``, whatever the precision of training: so
    a loaded model gives the same probabilities.
    """

    def __init__(self, shards: ShardSet, split: str, dist: Dist) -> None:
        self.shards, self.split, self.dist = shards, split, dist
        self.images = [
            (label, number)
            for label, name in enumerate(shards.classes)
            for number in range(shards.samples(split, name, "real"))
        ]
        """Label and number in its stratum of each image of the split."""
        self.readers = {
            label: shards.stratum(split, shards.classes[label], "real") for label, _ in self.images
        }
        mine = self.images[dist.rank :: dist.world_size]
        # Ranks gather equal numbers of rows; ``probabilities`` drops the rows beyond the last image.
        self.per_rank = -(-len(self.images) // dist.world_size)
        size = shards.image_size
        pixels = np.zeros((self.per_rank, 1, size, size), np.uint8)
        for row, (label, number) in enumerate(mine):
            self.readers[label].pixels(number, pixels[row, 0])
        self.pixels = torch.from_numpy(pixels)
        dist.barrier()  # reading may take one rank longer than a collective may wait

    @torch.no_grad()
    def probabilities(self, model: nn.Module) -> np.ndarray:
        """[N, C] float32 of all images of the split, the same on all ranks. Every rank calls this."""
        model.eval()
        logits = [model(to_float(part.to(self.dist.device))) for part in self.pixels.split(EVALUATION_BATCH)]
        if not logits:
            return np.zeros((0, len(self.shards.classes)), np.float32)
        own: Tensor = torch.cat(logits).float().softmax(1)  # [per_rank, C]
        of_ranks = self.dist.gather(own).unflatten(0, (self.dist.world_size, -1))
        in_order = of_ranks.transpose(0, 1).flatten(0, 1)
        return in_order[: len(self.images)].cpu().numpy()

    @cached_property
    def unpredicted(self) -> Predictions:
        """Keys, labels and patients of the split, with probabilities of 0."""
        rows = [self.readers[label].row(number) for label, number in self.images]
        classes = self.shards.classes
        known = Predictions.of(
            np.array([row["key"].decode() for row in rows], str),
            np.array([label for label, _ in self.images], np.int64),
            np.zeros((len(rows), len(classes)), np.float32),
            classes,
        )
        return dataclasses.replace(known, patients=np.array([row["patient"].decode() for row in rows], str))

    def predictions(self, model: nn.Module) -> Predictions:
        """The probabilities with keys, labels and patients, the same on all ranks."""
        return dataclasses.replace(self.unpredicted, probabilities=self.probabilities(model))


def with_attributes(predictions: Predictions, shards: ShardSet, split: str) -> Predictions:
    """The predictions of a split with view, sex and age where the set names them. Reads its tars once."""
    wanted = set(predictions.keys.tolist())
    found = {
        sample.key: sample.meta
        for name in shards.classes
        if shards.samples(split, name, "real")
        for sample in shards.stratum(split, name, "real").all_samples()
        if sample.key in wanted
    }
    metas = [found[key] for key in predictions.keys]
    ages = [age if isinstance(age := meta.get("age"), int | float) else np.nan for meta in metas]
    return dataclasses.replace(
        predictions,
        view=np.array([meta.get("view") or "" for meta in metas], str),
        sex=np.array([meta.get("sex") or "" for meta in metas], str),
        age=np.array(ages, np.float64),
    )
