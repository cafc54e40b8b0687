"""A class-conditional generator and discriminator: DCGAN's shapes without its BatchNorm.

Only the minibatch standard deviation combines several images. Without it both nets train the same on any number of
ranks; with it D compares the images of one pass of one rank.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cxrdist.nets.dcgan import BASE, Shape

KERNEL_DOWN = 4  # twice the stride, so that every pixel counts equally
KERNEL_UP = 3
POWER_ITERATIONS = 15  # before the first step; each training step adds one


@dataclass(frozen=True, kw_only=True)
class ConditionalConfig(Shape):
    """The shape of both nets. The defaults are those of 256x256; smaller sizes have fewer stages."""

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


class ConditionalGenerator(nn.Module):
    """z [B, z_dim], labels [B] int64 -> images [B, 1, size, size] in [-1, 1].

    The 4x4 maps are computed from z and the class's embedding, which also scale and shift the maps of each later
    stage (conditional normalisation, Dumoulin et al. 2017; with z, Chen et al. 2019, "self-modulation").
    """

    def __init__(self, cfg: ConditionalConfig) -> None:
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

    def __init__(self, cfg: ConditionalConfig, maps: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(cfg.z_dim + cfg.embed_dim, 2 * maps)
        self.leak = cfg.leak

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        # In fp32 under autocast too: a mean of squares in bf16 loses small values.
        inverse = torch.rsqrt(maps.float().square().mean(dim=1, keepdim=True) + 1e-8).to(maps.dtype)
        scale, shift = self.modulate(style)[:, :, None, None].to(maps.dtype).chunk(2, dim=1)
        return nn.functional.leaky_relu(maps * inverse * (1 + scale) + shift, self.leak)


class ProjectionDiscriminator(nn.Module):
    """Images [B, 1, size, size], labels [B] int64 -> logits [B], positive for real: w . phi + b + <embed(y), phi>,
    where phi are an image's features (Miyato & Koyama 2018)."""

    def __init__(self, cfg: ConditionalConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.downs = nn.ModuleList(
            nn.Conv2d(narrow, wide, KERNEL_DOWN, stride=2, padding=1)
            for narrow, wide in itertools.pairwise((1, *reversed(cfg.widths)))
        )
        self.project = nn.Linear((cfg.maps + cfg.minibatch_std) * BASE * BASE, cfg.feature_dim)
        self.logit = nn.Linear(cfg.feature_dim, 1)
        self.embed = nn.Embedding(cfg.classes, cfg.feature_dim)
        if cfg.spectral:
            for layer in (*self.downs, self.project, self.logit, self.embed):
                normalise(layer)

    def features(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 1, size, size], labels [B] int64 -> phi [B, feature_dim]. Labels only select the images
        that minibatch standard deviation compares."""
        maps = images
        for down in self.downs:
            maps = nn.functional.leaky_relu(down(maps), self.cfg.leak)
        if self.cfg.minibatch_std:
            maps = torch.cat((maps, minibatch_std(maps, labels).to(maps.dtype)), dim=1)
        return nn.functional.leaky_relu(self.project(maps.flatten(1)), self.cfg.leak)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = self.logit.weight + self.embed(labels)  # [B, feature_dim]
        # Products in fp32 under autocast too: between 2 and 4, bf16 logits have steps of 1/64.
        return (weights * self.features(images, labels).float()).sum(dim=1) + self.logit.bias


def minibatch_std(maps: Tensor, labels: Tensor) -> Tensor:
    """Maps [B, C, H, W], labels [B] int64 -> [B, 1, H, W] float32: standard deviation over the images of each image's
    class in this batch, averaged over maps and pixels.

    Karras et al. (2018) take it over all images. Here it is taken within classes: differences between classes would
    hide that all images that G generates of one class are alike. An image that is the only one of its class gets 0.
    """
    # In float64, which autocast does not change: in bf16 the differences between images of a class would be rounded
    # away.
    same = (labels[:, None] == labels).double()  # [B, B]
    same = same / same.sum(dim=1, keepdim=True)
    flat = maps.double().flatten(1)
    variance = same @ (flat - same @ flat).square()
    # Minus its value at variance 0, so that equal images give 0; the epsilon keeps the gradient there finite.
    deviation = ((variance + 1e-8).sqrt() - 1e-4).mean(dim=1).float()
    return deviation[:, None, None, None].expand(-1, 1, *maps.shape[2:])


class _FullPrecision(nn.Module):
    """A parametrisation without autocast: bf16 would round the estimate of the largest singular value."""

    def __init__(self, parametrization: nn.Module) -> None:
        super().__init__()
        self.parametrization = parametrization

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            normalised: Tensor = self.parametrization(weight)
            return normalised


def normalise(layer: Any) -> None:
    """Divide the layer's weight by its largest singular value (Miyato et al. 2018), by torch's power iteration."""
    spectral_norm(layer)
    layer.parametrizations.weight[0] = _FullPrecision(layer.parametrizations.weight[0])


@torch.no_grad()
def init_weights(module: ConditionalGenerator | ProjectionDiscriminator, seed: int) -> None:
    """Set every parameter, and the vectors of the power iteration, in place, as a function of ``seed`` alone, on any
    device. Weights have He's deviation, rows of embeddings a length of about 1; biases are 0.
    """
    rng = torch.Generator().manual_seed(seed)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
            _draw(_free_weight(layer), rng, _std(name, layer))
            if not isinstance(layer, nn.Embedding) and layer.bias is not None:
                layer.bias.zero_()
            if module.cfg.spectral and isinstance(module, ProjectionDiscriminator):
                _start_power_iteration(layer, rng)


def _draw(tensor: Tensor, rng: torch.Generator, std: float) -> None:
    # Drawn on the CPU, so that all kinds of devices start with the same weights.
    tensor.copy_(torch.randn(tensor.shape, generator=rng) * std)


def _free_weight(layer: Any) -> Tensor:
    """The weight that the optimizer updates: before spectral normalisation."""
    return layer.parametrizations.weight.original if hasattr(layer, "parametrizations") else layer.weight


def _start_power_iteration(layer: Any, rng: torch.Generator) -> None:
    for vector in layer.parametrizations.weight.buffers():
        _draw(vector, rng, 1.0)
        vector.div_(vector.norm())
    training = layer.training
    layer.train()
    for _ in range(POWER_ITERATIONS):
        layer.weight  # noqa: B018 (in training mode, each access runs one iteration)
    layer.train(training)


def _std(name: str, layer: nn.Module) -> float:
    """Standard deviation of a layer's initial weights."""
    if isinstance(layer, nn.Embedding):
        return 1 / math.sqrt(layer.embedding_dim)
    if isinstance(layer, nn.Conv2d):
        he = math.sqrt(2 / (layer.in_channels * math.prod(layer.kernel_size)))
        return he / 4 if name.startswith("image") else he  # else tanh would saturate, with little gradient
    assert isinstance(layer, nn.Linear)
    # No rectifier, which would halve the variance, follows the logit or a modulation.
    gain = 1 if name == "logit" or name.endswith("modulate") else 2
    return math.sqrt(gain / layer.in_features)
