"""The moving average of G's weights, which draws steadier images than G itself (Yazici et al. 2019)."""

from __future__ import annotations

import copy

import torch
from torch import nn

# Early weights are worth nothing: the half-life is at most this part of what was seen (StyleGAN2's ema_rampup).
RAMP_UP = 0.05


class EMA:
    """A copy of a model whose weights follow it; its half-life is counted in images, whatever the batch size."""

    def __init__(self, model: nn.Module, half_life_images: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.half_life_images = half_life_images

    @torch.no_grad()
    def update(self, model: nn.Module, *, batch: int, images: int) -> None:
        """After a step of ``batch`` images, ``images`` in all so far. Buffers (BatchNorm's statistics) are copied:
        they are averages themselves."""
        half_life = min(self.half_life_images, images * RAMP_UP)
        decay = 0.5 ** (batch / half_life)
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
