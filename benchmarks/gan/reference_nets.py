"""The networks of ``reference_gan.py``, of torch's own layers alone. Parameters have the names and shapes of
``cxrdist.nets.conditional``, so weights can be exchanged."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pixel_shuffle, pixel_unshuffle

from cxrdist.nets.conditional import ConditionalConfig, stages_of

WIDTHS, D_WIDTHS = (96, 64, 48, 24), (96, 64, 32, 16)  # of G and D at 4x4, 8x8, 16x16, 32x32
# The orthonormal Haar transform of 2 x 2 pixels, which is its own inverse.
HAAR = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def config_of(size: int, classes: int) -> ConditionalConfig:
    """The recipe's networks, which are for 64 px; at 32 px without their last stage."""
    stages = stages_of(size)
    return ConditionalConfig(size=size, classes=classes, widths=WIDTHS[:stages], d_widths=D_WIDTHS[:stages])


class Haar(nn.Module):
    """Images [B, 1, 2h, 2w] -> bands [B, 4, h, w]; ``inverse``: bands -> images."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", HAAR.clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("kj,bjhw->bkhw", self.matrix, pixel_unshuffle(images, 2))

    def inverse(self, bands: Tensor) -> Tensor:
        return pixel_shuffle(torch.einsum("kj,bjhw->bkhw", self.matrix, bands), 2)


class Modulated(nn.Module):
    """Pixel norm, then a scale and shift linear in the style, then ReLU."""

    def __init__(self, style: int, maps: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(style, 2 * maps)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        maps = maps * torch.rsqrt(maps.square().mean(1, keepdim=True) + 1e-8)
        scale, shift = self.modulate(style)[:, :, None, None].chunk(2, 1)
        return torch.relu(torch.addcmul(shift, maps, 1 + scale))


class Generator(nn.Module):
    """z [B, z_dim] ~ N(0, 1), labels [B] -> images [B, 1, size, size] in [-1, 1]."""

    def __init__(self, cfg: ConditionalConfig, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.cfg, self.layout, self.haar = cfg, layout, Haar()
        style, widths = cfg.z_dim + cfg.embed_dim, cfg.widths
        self.embed = nn.Embedding(cfg.classes, cfg.embed_dim)
        self.project = nn.Linear(style, widths[0] * 16, bias=False)
        self.norm = Modulated(style, widths[0])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(Modulated(style, maps) for maps in widths[1:])
        self.bands = nn.Conv2d(widths[-1], 4, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        style = torch.cat((z, self.embed(labels)), 1)
        maps = self.project(style).view(len(z), -1, 4, 4).contiguous(memory_format=self.layout)
        maps = self.norm(maps, style)
        for up, norm in zip(self.ups, self.norms, strict=True):
            maps = norm(up(maps), style)
        return torch.tanh(self.haar.inverse(self.bands(maps)))


class Discriminator(nn.Module):
    """Images [B, 1, size, size], labels [B] -> logits [B]."""

    def __init__(self, cfg: ConditionalConfig, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.cfg, self.layout, self.haar = cfg, layout, Haar()
        widths = cfg.d_widths[::-1]
        self.bands = nn.Conv2d(4, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.project = nn.Linear((widths[-1] + 1) * 16, cfg.feature_dim)
        self.logit = nn.Linear(cfg.feature_dim, 1)
        self.embed = nn.Embedding(cfg.classes, cfg.feature_dim)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = leaky_relu(self.bands(self.haar(images).contiguous(memory_format=self.layout)), 0.2)
        for down in self.downs:
            maps = leaky_relu(down(maps), 0.2)
        maps = torch.cat((maps, spread_within_classes(maps, labels)), 1)
        features = leaky_relu(self.project(maps.flatten(1)), 0.2)
        return self.logit(features)[:, 0] + (features * self.embed(labels)).sum(1)


def spread_within_classes(maps: Tensor, labels: Tensor) -> Tensor:
    """Minibatch standard deviation [B, 1, H, W] of maps [B, C, H, W] over the images of each image's class."""
    same = (labels[:, None] == labels).double()
    same = same / same.sum(1, keepdim=True)
    flat = maps.double().flatten(1)
    variance = same @ (flat - same @ flat).square()
    spread = ((variance + 1e-8).sqrt() - 1e-4).mean(1).float()
    return spread[:, None, None, None].expand(-1, 1, *maps.shape[2:])


@torch.no_grad()
def set_weights(generator: Generator, discriminator: Discriminator) -> None:
    """The recipe's initial weights, from torch's own generator. The other layers keep torch's defaults."""
    for net in (generator, discriminator):
        is_g = net is generator
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith("modulate"):
                _set(layer, 0.2 / math.sqrt(layer.in_features))
            elif isinstance(layer, nn.ConvTranspose2d):  # each output sums over a quarter of the kernel
                _set(layer, 1 / math.sqrt(layer.in_channels * 4))
            elif isinstance(layer, nn.Conv2d):
                inputs = layer.in_channels * math.prod(layer.kernel_size)
                _set(layer, (0.5 if is_g else 1.4) / math.sqrt(inputs))
            elif isinstance(layer, nn.Embedding) and not is_g:
                _set(layer, 1 / math.sqrt(layer.embedding_dim))
    # Its inputs without the map of standard deviations.
    _set(discriminator.project, 1.4 / math.sqrt(discriminator.project.in_features - 16))


def _set(layer: nn.Linear | nn.Embedding | nn.Conv2d | nn.ConvTranspose2d, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    if not isinstance(layer, nn.Embedding) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
