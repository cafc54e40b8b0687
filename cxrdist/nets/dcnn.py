"""The paper's classifier of radiographs, similar to AlexNet (paper 2.2, Fig. 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DCNNConfig:
    """The shape of the classifier. By default 256x256 -> 4,096 features -> five classes."""

    size: int = 256
    """Side of the square image in pixels."""
    classes: int = 5
    widths: tuple[int, ...] = (32, 64, 128, 128, 64)
    """Feature maps of each convolution stage; every stage halves the side."""
    hidden: int = 1024
    """Units of the MLP's hidden layer (Eq. 5); 0: no hidden layer."""
    kernel: int = 5
    """Side of every convolution's kernel in pixels; odd, so that padding keeps the image's side (Eq. 3)."""
    bias: float = 0.1
    """Initial value of every bias."""

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, but a classifier needs at least two")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}, but it must be one positive number per stage")
        halvings = 2 ** len(self.widths)
        if self.size < halvings or self.size % halvings:
            raise ValueError(
                f"size is {self.size}, but is halved by {len(self.widths)} stages: "
                f"choose a multiple of {halvings}"
            )
        if self.hidden < 0:
            raise ValueError(f"hidden is {self.hidden}, but it must be 0 (no hidden layer) or more")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}, but only an odd kernel keeps the image's side")

    @property
    def features(self) -> int:
        """Length of the flattened vector f; 8 x 8 x 64 = 4,096 at 256."""
        return self.widths[-1] * (self.size >> len(self.widths)) ** 2


class DCNN(nn.Module):
    """Images [B, 1, size, size] -> logits [B, classes]; Eq. 6's softmax is part of the loss."""

    def __init__(self, cfg: DCNNConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.stages = nn.Sequential()
        for before, after in zip((1, *cfg.widths), cfg.widths, strict=False):
            conv = nn.Conv2d(before, after, cfg.kernel, padding=cfg.kernel // 2)
            self.stages.append(nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool2d(2)))
        self.mlp = nn.Sequential()
        if cfg.hidden:
            self.mlp.append(nn.Linear(cfg.features, cfg.hidden)).append(nn.ReLU(inplace=True))
        self.mlp.append(nn.Linear(cfg.hidden or cfg.features, cfg.classes))

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 1, size, size] -> f [B, cfg.features], the flattened last maps (Fig. 2)."""
        return self.stages(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mlp(self.features(images))


def init_weights(module: DCNN, seed: int) -> None:
    """Set every parameter, in place, as a function of ``seed`` alone: normal weights with He's deviation, biases
    cfg.bias."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.fill_(module.cfg.bias)
            else:
                # Drawn on the CPU, so that all kinds of devices start with the same weights.
                std = math.sqrt(2 / parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * std)
