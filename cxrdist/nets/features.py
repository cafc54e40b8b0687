"""Feature extractor for quality metrics: a fixed, untrained network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, leaky_relu

SEED = 20200623
MAPS = 20
GRID = 2


class RandomFeatures(nn.Module):
    """Images [B, 1, H, W] in [-1, 1] -> features [B, D] of an untrained network.

    Every stage halves the side, down to 4 px, and returns the means of its 20 maps over a 2 x 2 grid of the image: 80
    features per stage, 240 at 32 px, 320 at 64, 480 at 256. The features describe texture at every scale and roughly
    where it is; they contain no knowledge of diagnoses. Naeem et al. (2020, "R64") use random features for images
    that differ much from ImageNet's. The weights are a function of ``SEED`` alone: He's normal weights, so that each
    stage preserves the signal's variance, with random biases, so that maps respond to different grey values.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(SEED)
        self.stages = nn.ModuleList()
        for stage in range(max(1, int(math.log2(size)) - 2)):
            conv = nn.Conv2d(MAPS if stage else 1, MAPS, 4, stride=2, padding=1)
            with torch.no_grad():
                std = math.sqrt(2 / conv.weight[0].numel())
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=rng) * std)
                conv.bias.copy_(torch.randn(MAPS, generator=rng) / 2)  # type: ignore[union-attr]
            self.stages.append(conv)
        self.requires_grad_(False).eval()

    @property
    def dims(self) -> int:
        return len(self.stages) * MAPS * GRID**2

    def forward(self, images: Tensor) -> Tensor:
        pooled, maps = [], images
        for stage in self.stages:
            maps = leaky_relu(stage(maps), 0.2)
            pooled.append(adaptive_avg_pool2d(maps, GRID).flatten(1))
        return torch.cat(pooled, 1)
