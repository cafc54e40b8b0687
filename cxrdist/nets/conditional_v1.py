"""The conditional generator of exports in format 1, so that they still load: upsampling convolutions up to the side
of the image, z from U(-1, 1). Training no longer builds it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cxrdist.nets.dcgan import BASE, Shape

KERNEL_UP = 3


@dataclass(frozen=True, kw_only=True)
class ConditionalConfigV1(Shape):
    """The config in such an export; some of its fields belonged to D."""

    z_distribution: ClassVar[Literal["uniform"]] = "uniform"

    size: int = 256
    """Side of the square image in pixels: 32, 64, 128 or 256."""
    classes: int = 5
    """Number of classes; labels are 0 to classes - 1."""
    z_dim: int = 128
    """Length of the latent vector z, whose values are drawn from U(-1, 1)."""
    maps: int = 1024
    """Feature maps at 4x4; every stage towards the image halves them."""
    embed_dim: int = 64
    """Length of G's embedding of a class."""
    feature_dim: int = 256
    """Length of D's features of an image, and of its embedding of a class."""
    minibatch_std: bool = False
    """Give D the standard deviation among the images of a class as an additional map at 4x4."""
    spectral: bool = False
    """Spectral normalisation of D's weights."""
    leak: float = 0.2
    """Negative slope of every LeakyReLU."""

    def __post_init__(self) -> None:
        self.check_shape("a conditional GAN")
        for name in ("classes", "z_dim", "embed_dim", "feature_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1")


class ConditionalGeneratorV1(nn.Module):
    """z [B, z_dim], labels [B] int64 -> images [B, 1, size, size] in [-1, 1].

    The 4x4 maps are computed from z and the class's embedding, which also scale and shift the maps of each later
    stage (conditional normalisation, Dumoulin et al. 2017; with z, Chen et al. 2019, "self-modulation").
    """

    def __init__(self, cfg: ConditionalConfigV1) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.classes, cfg.embed_dim)
        self.project = nn.Linear(cfg.z_dim + cfg.embed_dim, cfg.maps * BASE * BASE)
        self.norm = ModulatedNorm(cfg, cfg.maps)
        self.ups, self.norms = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in itertools.pairwise(cfg.widths):
            self.ups.append(_up(wide, narrow))
            self.norms.append(ModulatedNorm(cfg, narrow))
        self.image = _up(cfg.widths[-1], 1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        style = torch.cat((z, self.embed(labels)), dim=1)  # [B, z_dim + embed_dim]
        maps = self.project(style).unflatten(1, (self.cfg.maps, BASE, BASE))  # [B, maps, 4, 4]
        maps = self.norm(maps, style)
        for up, norm in zip(self.ups, self.norms, strict=True):
            maps = norm(up(maps), style)
        return torch.tanh(self.image(maps))


def _up(wide: int, narrow: int) -> nn.Sequential:
    """A stage that doubles the side. Pixels are doubled and then convolved: a transposed convolution causes stripes
    in smooth lungs (Odena et al. 2016)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(wide, narrow, KERNEL_UP, padding=KERNEL_UP // 2),
    )


class ModulatedNorm(nn.Module):
    """Maps [B, C, H, W], style [B, z_dim + embed_dim] -> [B, C, H, W]: normalised over the maps at each pixel
    (pixel norm, Karras et al. 2018), scaled and shifted by the style, rectified."""

    def __init__(self, cfg: ConditionalConfigV1, maps: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(cfg.z_dim + cfg.embed_dim, 2 * maps)
        self.leak = cfg.leak

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        # In fp32 under autocast too: a mean of squares in bf16 loses small values.
        inverse = torch.rsqrt(maps.float().square().mean(dim=1, keepdim=True) + 1e-8).to(maps.dtype)
        scale, shift = self.modulate(style)[:, :, None, None].to(maps.dtype).chunk(2, dim=1)
        return nn.functional.leaky_relu(maps * inverse * (1 + scale) + shift, self.leak)
