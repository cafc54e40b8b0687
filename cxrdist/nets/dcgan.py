"""DCGAN: a generator and a discriminator for one class of square grey radiographs (paper 2.1, Fig. 1)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cxrdist.nets.strided import Down, Up

BASE = 4  # both nets meet at 4x4, the side of the projected z and of D's last feature maps


class Shape:
    """The shape that all GAN configs share: the number of maps halves each time the side doubles."""

    size: int
    maps: int
    leak: float

    @property
    def stages(self) -> int:
        """Number of stride-2 convolutions between 4x4 and the image; six at 256."""
        return (self.size // BASE).bit_length() - 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps from 4x4 towards the image: 1024, 512, 256, 128, 64, 32 at 256."""
        return tuple(self.maps >> stage for stage in range(self.stages))

    def check_shape(self, kind: str) -> None:
        """Raises ValueError for a size or a number of maps that ``kind`` does not support."""
        if self.size not in (32, 64, 128, 256):
            raise ValueError(f"size is {self.size}, but {kind} makes images of 32, 64, 128 or 256 pixels")
        halvings = 2 ** (self.stages - 1)
        if self.maps < halvings or self.maps % halvings:
            raise ValueError(
                f"maps is {self.maps}, but size {self.size} halves it {self.stages - 1} times: "
                f"choose a multiple of {halvings}"
            )
        if not 0 <= self.leak < 1:
            raise ValueError(f"leak is {self.leak}, but a LeakyReLU's slope must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(Shape):
    """The shape of both nets. The defaults are the paper's 256x256; smaller sizes have fewer stages."""

    z_distribution: ClassVar[Literal["uniform"]] = "uniform"

    size: int = 256
    """Side of the square image in pixels: 32, 64, 128 or 256."""
    z_dim: int = 128
    """Length of the latent vector z, whose values are drawn from U(-1, 1)."""
    maps: int = 1024
    """Feature maps at 4x4; every stage towards the image halves them."""
    kernel: int = 5
    """Side of every convolution's kernel in pixels."""
    norm: Literal["batch", "none"] = "batch"
    """Batch normalisation but at G's output and D's first layer (Radford et al. 2016), or none at all."""
    leak: float = 0.2
    """Negative slope of D's LeakyReLU."""
    init_std: float = 0.02
    """Standard deviation of the initial weights with batch normalisation; without it He's is used."""

    def __post_init__(self) -> None:
        self.check_shape("a DCGAN")
        if self.z_dim < 1:
            raise ValueError(f"z_dim is {self.z_dim}, but z needs at least one dimension")
        if self.kernel < 2:
            raise ValueError(f"kernel is {self.kernel}, but a stride of 2 needs a kernel of at least 2")
        if self.norm not in ("batch", "none"):
            raise ValueError(f"norm is {self.norm!r}, but it must be 'batch' or 'none'")
        if not self.init_std > 0:
            raise ValueError(f"init_std is {self.init_std}, but it must be positive")


class Generator(nn.Module):
    """z [B, z_dim] -> images [B, 1, size, size] in [-1, 1] (paper 2.1; Fig. 1, left)."""

    def __init__(self, cfg: DCGANConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.project = nn.Linear(cfg.z_dim, cfg.maps * BASE * BASE, bias=cfg.norm == "none")
        self.project_norm = _norm(cfg, cfg.maps)
        self.stages = nn.Sequential()
        for wide, narrow in itertools.pairwise(cfg.widths):
            up = Up(wide, narrow, cfg.kernel, bias=cfg.norm == "none")
            self.stages.append(nn.Sequential(up, _norm(cfg, narrow), nn.ReLU(inplace=True)))
        self.stages.append(nn.Sequential(Up(cfg.widths[-1], 1, cfg.kernel, bias=True), nn.Tanh()))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.project(z).unflatten(1, (self.cfg.maps, BASE, BASE))  # [B, maps, 4, 4]
        return self.stages(torch.relu(self.project_norm(maps)))


class Discriminator(nn.Module):
    """Images [B, 1, size, size] -> logits [B], positive for real; Eq. 1's sigmoid is part of the loss."""

    def __init__(self, cfg: DCGANConfig) -> None:
        super().__init__()
        self.cfg = cfg
        widths = (1, *reversed(cfg.widths))
        self.stages = nn.Sequential()
        for stage, (narrow, wide) in enumerate(itertools.pairwise(widths)):
            normed = cfg.norm == "batch" and stage > 0
            down = Down(narrow, wide, cfg.kernel, bias=not normed)
            norm = nn.BatchNorm2d(wide) if normed else nn.Identity()
            self.stages.append(nn.Sequential(down, norm, nn.LeakyReLU(cfg.leak, inplace=True)))
        self.logit = nn.Linear(cfg.maps * BASE * BASE, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logit(self.stages(images).flatten(1)).squeeze(1)


def init_weights(module: Generator | Discriminator, seed: int) -> None:
    """Set every parameter and running statistic, in place, as a function of ``seed`` alone, on any device.

    Weights ~ N(0, init_std), BatchNorm weights ~ N(1, init_std), biases 0 (Radford et al. 2016). Without
    normalisation N(0, 0.02) would reduce the signal tenfold per stage, so weights have He's deviation then.
    """
    rng = torch.Generator().manual_seed(seed)
    cfg = module.cfg
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            mean, std = 1.0, cfg.init_std
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            mean, std = 0.0, cfg.init_std if cfg.norm == "batch" else math.sqrt(2 / _fan_in(layer))
        else:
            continue
        with torch.no_grad():
            # Drawn on the CPU, so that all kinds of devices start with the same weights.
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng) * std + mean)
            if layer.bias is not None:
                layer.bias.zero_()


def _fan_in(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Number of inputs that one output sums over."""
    if isinstance(layer, nn.ConvTranspose2d):
        # With stride 2 there are four times as many outputs, so each sums over a quarter of the inputs.
        return layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    return layer.weight[0].numel()


def _norm(cfg: DCGANConfig, maps: int) -> nn.Module:
    return nn.BatchNorm2d(maps) if cfg.norm == "batch" else nn.Identity()
