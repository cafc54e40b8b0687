"""Exponential moving average of G's weights, whose samples vary less over training (Yazici et al. 2019)."""

from __future__ import annotations

import copy

import torch
from torch import nn

# Early weights are poor: the half-life is at most this fraction of the images seen. With StyleGAN2's 0.05, its
# ema_rampup, the average of a run of some 10,000 images still varies almost as much as the weights.
RAMP_UP = 0.3


class EMA:
    """Moving average of a model's weights. The half-life is in images, so it does not depend on the batch size."""

    def __init__(self, model: nn.Module, half_life_images: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.half_life_images = half_life_images

    @torch.no_grad()
    def update(self, model: nn.Module, *, batch: int, images: int) -> None:
        """Call it after a step of ``batch`` images, with the number of images so far. Buffers (BatchNorm statistics)
        are copied, since they are averages already."""
        half_life = min(self.half_life_images, images * RAMP_UP)
        decay = 0.5 ** (batch / half_life)
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
