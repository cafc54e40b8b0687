"""A small class-conditional generator and discriminator for square grey radiographs.

    G: z, class -> 4x4 -> ... -> size/2 -> four Haar bands -> image
    D: image -> four Haar bands -> size/2 -> ... -> 4x4 -> features -> logit + projection on the class

Only the minibatch standard deviation combines several images, in groups defined by their positions. ``gather`` gives
it the images of the other ranks, so both nets train the same on any number of ranks.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from cxrdist.nets.dcgan import BASE
from cxrdist.nets.haar import haar, inverse_haar
from cxrdist.nets.strided import Down, Up

BANDS = 4
KERNEL = 4  # twice the stride, so that every pixel counts equally
SIZES = (32, 64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class ConditionalConfig:
    """The shape of both nets. The defaults are those of 256x256."""

    z_distribution: ClassVar[Literal["normal"]] = "normal"

    size: int = 256
    """Side of the square image in pixels: 32, 64, 128, 256 or 512."""
    classes: int = 5
    """Number of classes; labels are 0 to classes - 1."""
    z_dim: int = 64
    """Length of the latent vector z, whose values are drawn from N(0, 1)."""
    widths: tuple[int, ...] = (512, 512, 256, 128, 64, 32)
    """G's feature maps at 4x4, 8x8, ... up to half the image's side."""
    d_widths: tuple[int, ...] = (512, 512, 256, 128, 64, 32)
    """D's feature maps at the same sides."""
    embed_dim: int = 32
    """Length of G's embedding of a class."""
    feature_dim: int = 128
    """Length of D's features of an image, and of its embedding of a class."""
    minibatch_std: bool = True
    """Give D the standard deviation among the images of a class as an additional map at 4x4."""
    group: int = 0
    """Number of consecutive positions whose images minibatch standard deviation compares; 0: all of a batch."""
    leak: float = 0.2
    """Negative slope of D's LeakyReLU."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(
                f"size is {self.size}, but a conditional GAN makes images of {', '.join(map(str, SIZES[:-1]))} or "
                f"{SIZES[-1]} pixels"
            )
        for name in ("widths", "d_widths"):
            widths = getattr(self, name)
            if len(widths) != self.stages:
                raise ValueError(
                    f"{name} has {len(widths)} numbers, but {self.size} pixels take {self.stages}: one each for "
                    f"{', '.join(str(BASE << stage) for stage in range(self.stages))}"
                )
            if min(widths) < 1:
                raise ValueError(f"{name} is {list(widths)}, but every number must be at least 1")
        for name in ("classes", "z_dim", "embed_dim", "feature_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1")
        if self.group < 0:
            raise ValueError(f"group is {self.group}, but it must be 0 or more")
        if not 0 <= self.leak < 1:
            raise ValueError(f"leak is {self.leak}, but a LeakyReLU's slope must lie in [0, 1)")

    @property
    def stages(self) -> int:
        """Number of resolutions from 4x4 to half the image's side; six at 256."""
        return stages_of(self.size)


def stages_of(size: int) -> int:
    """Number of resolutions, each twice the one before, from 4x4 to half of ``size``."""
    return (size // 2 // BASE).bit_length()


class ConditionalGenerator(nn.Module):
    """z [B, z_dim] ~ N(0, 1), labels [B] int64 -> images [B, 1, size, size] in [-1, 1].

    The 4x4 maps are computed from z and the class's embedding, which also scale and shift the maps of each later
    stage (conditional normalisation, Dumoulin et al. 2017; with z, Chen et al. 2019, "self-modulation").
    """

    def __init__(self, cfg: ConditionalConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.classes, cfg.embed_dim)
        style = cfg.z_dim + cfg.embed_dim
        self.project = nn.Linear(style, cfg.widths[0] * BASE * BASE, bias=False)
        self.norm = ModulatedNorm(style, cfg.widths[0])
        self.ups, self.norms = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in itertools.pairwise(cfg.widths):
            self.ups.append(Up(wide, narrow, KERNEL, bias=False))
            self.norms.append(ModulatedNorm(style, narrow))
        self.bands = nn.Conv2d(cfg.widths[-1], BANDS, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        style = torch.cat((z, self.embed(labels)), dim=1)  # [B, z_dim + embed_dim]
        maps = self.project(style).unflatten(1, (self.cfg.widths[0], BASE, BASE))  # [B, widths[0], 4, 4]
        maps = self.norm(maps.contiguous(memory_format=torch.channels_last), style)
        for up, norm in zip(self.ups, self.norms, strict=True):
            maps = norm(up(maps), style)
        # In fp32 under autocast too: bf16 has fewer grey values than an image.
        return torch.tanh(inverse_haar(self.bands(maps).float()))


class ModulatedNorm(nn.Module):
    """Maps [B, C, H, W], style [B, S] -> [B, C, H, W]: normalised over the maps at each pixel (pixel norm, Karras et
    al. 2018), scaled and shifted by the style, rectified."""

    def __init__(self, style: int, maps: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(style, 2 * maps)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        # In fp32 under autocast too: a mean of squares in bf16 loses small values.
        inverse = torch.rsqrt(maps.float().square().mean(dim=1, keepdim=True) + 1e-8).to(maps.dtype)
        scale, shift = self.modulate(style)[:, :, None, None].to(maps.dtype).chunk(2, dim=1)
        return torch.relu(torch.addcmul(shift, maps * inverse, 1 + scale))


class Gather(Protocol):
    """Combines the images of a global batch, or of a part of it, over the ranks."""

    def __call__(self, rows: Tensor) -> Tensor:
        """[b, ...] on each rank -> [world_size b, ...] in the order of positions, differentiably."""
        ...

    def own(self, rows: Tensor) -> Tensor:
        """The inverse: this rank's [b, ...] of [world_size b, ...]."""
        ...


class ProjectionDiscriminator(nn.Module):
    """Images [B, 1, size, size], labels [B] int64 -> logits [B], positive for real: w . phi + b + <embed(y), phi>,
    where phi are an image's features (Miyato & Koyama 2018).

    Images are in the order of their positions. ``gather`` is set if other ranks hold part of them.
    """

    def __init__(self, cfg: ConditionalConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.gather: Gather | None = None
        widths = tuple(reversed(cfg.d_widths))
        self.bands = nn.Conv2d(BANDS, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(
            Down(narrow, wide, KERNEL, bias=True) for narrow, wide in itertools.pairwise(widths)
        )
        self.project = nn.Linear((widths[-1] + cfg.minibatch_std) * BASE * BASE, cfg.feature_dim)
        self.logit = nn.Linear(cfg.feature_dim, 1)
        self.embed = nn.Embedding(cfg.classes, cfg.feature_dim)

    def features(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 1, size, size], labels [B] int64 -> phi [B, feature_dim]. Labels only select the images
        that minibatch standard deviation compares."""
        leak = self.cfg.leak
        bands = haar(images).contiguous(
            memory_format=torch.channels_last
        )  # in which convolutions are fastest
        maps = nn.functional.leaky_relu(self.bands(bands), leak)
        for down in self.downs:
            maps = nn.functional.leaky_relu(down(maps), leak)
        if self.cfg.minibatch_std:
            maps = torch.cat((maps, self.spread(maps, labels).to(maps.dtype)), dim=1)
        return nn.functional.leaky_relu(self.project(maps.flatten(1)), leak)

    def spread(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Minibatch standard deviation [B, 1, 4, 4] of this rank's images within the groups of all ranks."""
        if self.gather is None:
            return minibatch_std(maps, labels, self.cfg.group)
        return self.gather.own(minibatch_std(self.gather(maps), self.gather(labels), self.cfg.group))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = self.logit.weight + self.embed(labels)  # [B, feature_dim]
        # Products in fp32 under autocast too: between 2 and 4, bf16 logits have steps of 1/64.
        return (weights * self.features(images, labels).float()).sum(dim=1) + self.logit.bias


def minibatch_std(maps: Tensor, labels: Tensor, group: int = 0) -> Tensor:
    """Maps [B, C, H, W], labels [B] int64 -> [B, 1, H, W] float32: standard deviation over the images of each image's
    class in its group, averaged over maps and pixels. A group is ``group`` consecutive images; 0: all of them.

    Karras et al. (2018) take it over all images. Here it is taken within classes: differences between classes would
    hide that all images that G generates of one class are alike. An image that is the only one of its class gets 0.
    """
    # In float64, which autocast does not change: in bf16 the differences between images of a class would be rounded
    # away.
    same = labels[:, None] == labels  # [B, B]
    if group:
        groups = torch.arange(len(labels), device=labels.device) // group
        same = same & (groups[:, None] == groups)
    shares = same.double()
    shares = shares / shares.sum(dim=1, keepdim=True)
    flat = maps.double().flatten(1)
    variance = shares @ (flat - shares @ flat).square()
    # Minus its value at variance 0, so that equal images give 0; the epsilon keeps the gradient there finite.
    deviation = ((variance + 1e-8).sqrt() - 1e-4).mean(dim=1).float()
    return deviation[:, None, None, None].expand(-1, 1, *maps.shape[2:])


@torch.no_grad()
def init_weights(module: ConditionalGenerator | ProjectionDiscriminator, seed: int) -> None:
    """Set every parameter in place, as a function of ``seed`` alone, on any device. Biases are 0."""
    rng = torch.Generator().manual_seed(seed)
    of_g = isinstance(module, ConditionalGenerator)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            # Drawn on the CPU, so that all kinds of devices start with the same weights.
            std = _latent_std(module.cfg.embed_dim) if of_g and name == "embed" else _std(name, layer)
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng) * std)
            if not isinstance(layer, nn.Embedding) and layer.bias is not None:
                layer.bias.zero_()


def _latent_std(embed_dim: int) -> float:
    """G's embedding joins z ~ N(0, 1); a short one starts smaller, so that the classes share more."""
    return min(1.0, math.sqrt(embed_dim / 16))


def _std(name: str, layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding) -> float:
    """Standard deviation of a layer's initial weights: He's, but for those that no rectifier follows."""
    if isinstance(layer, nn.Embedding):
        return 1 / math.sqrt(layer.embedding_dim)
    if isinstance(layer, nn.ConvTranspose2d):
        # Each output sums over a quarter of the kernel; a normalisation follows, so only the order matters.
        return math.sqrt(KERNEL / (layer.in_channels * math.prod(layer.kernel_size)))
    if isinstance(layer, nn.Conv2d):
        inputs = layer.in_channels * math.prod(layer.kernel_size)
        # G's bands: else tanh would saturate, with little gradient.
        return math.sqrt((0.25 if layer.out_channels == BANDS else 2) / inputs)
    if name.endswith("modulate"):
        return 0.2 / math.sqrt(layer.in_features)
    return math.sqrt((1 if name == "logit" else 2) / layer.in_features)
