"""Means of what training steps report, over steps and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrdist.distributed.dist import Dist


class StepMeans:
    """Means of named stats of many steps, summed on the device, since reading a tensor waits for the GPU."""

    def __init__(self, dist: Dist, names: Sequence[str]) -> None:
        self.dist, self.names = dist, names
        self.clear()

    def clear(self) -> None:
        self.sums, self.steps = torch.zeros(len(self.names), device=self.dist.device), 0

    def add(self, stats: Tensor) -> None:
        """``stats``: [len(names)] float32 of one step, or [] if there is one name."""
        self.sums += stats
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Means since ``clear``, over all steps and ranks. Every rank calls this at the same step."""
        means = self.dist.mean(self.sums / self.steps).tolist()
        return {name: round(mean, 5) for name, mean in zip(self.names, means, strict=True)}
