"""A conditional GAN in a plain PyTorch loop, which the project's own is compared with: recipe C, the experiment that
the project's networks come from, with its learning rates, batch and losses.

Only torch's own layers, Adam and ``torch.rand``, in one process with one thread; it writes no checkpoints and cannot
be resumed. Parameters have the names and shapes of ``cxrdist.nets.conditional``, so weights can be exchanged.

    python -m benchmarks.gan.reference_gan --shards SET --cpu-seconds 300 --out images.npz
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad, pixel_shuffle, pixel_unshuffle, softplus

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.nets.conditional import ConditionalConfig, stages_of

WIDTHS, D_WIDTHS = (96, 64, 48, 24), (96, 64, 32, 16)  # of G and D at 4x4, 8x8, 16x16, 32x32
BATCH = 20
LEARNING_RATE = 5e-4
LAST_RATE = 0.05  # of the learning rate, which falls over the second half
BETAS = (0.5, 0.99)
R1_WEIGHT = 0.5
R1_EVERY = 4  # steps
EMA_HALF_LIFE = 4_000  # images
EMA_RAMP = 0.05  # the half-life is at most this fraction of the images seen
TRANSLATION, BRIGHTNESS, CONTRAST = 0.125, 0.1, 0.1
GENERATED_BATCH = 100
# The orthonormal Haar transform of 2 x 2 pixels, which is its own inverse.
HAAR = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def config_of(size: int, classes: int) -> ConditionalConfig:
    """The recipe's networks, which are for 64 px; at 32 px without their last stage."""
    stages = stages_of(size)
    return ConditionalConfig(size=size, classes=classes, widths=WIDTHS[:stages], d_widths=D_WIDTHS[:stages])


def haar(images: Tensor) -> Tensor:
    """[B, 1, 2h, 2w] -> bands [B, 4, h, w]."""
    return torch.einsum("kj,bjhw->bkhw", HAAR.to(images), pixel_unshuffle(images, 2))


def inverse_haar(bands: Tensor) -> Tensor:
    """Bands [B, 4, h, w] -> [B, 1, 2h, 2w]."""
    return pixel_shuffle(torch.einsum("kj,bjhw->bkhw", HAAR.to(bands), bands), 2)


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
        self.cfg, self.layout = cfg, layout
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
        return torch.tanh(inverse_haar(self.bands(maps)))


class Discriminator(nn.Module):
    """Images [B, 1, size, size], labels [B] -> logits [B]."""

    def __init__(self, cfg: ConditionalConfig, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.cfg, self.layout = cfg, layout
        widths = cfg.d_widths[::-1]
        self.bands = nn.Conv2d(4, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.project = nn.Linear((widths[-1] + 1) * 16, cfg.feature_dim)
        self.logit = nn.Linear(cfg.feature_dim, 1)
        self.embed = nn.Embedding(cfg.classes, cfg.feature_dim)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = leaky_relu(self.bands(haar(images).contiguous(memory_format=self.layout)), 0.2)
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


@dataclass(frozen=True)
class Amounts:
    """An augmentation of each of B images: [B] each."""

    contrast: Tensor
    """Relative change."""
    brightness: Tensor
    """Offset of grey values in [-1, 1]."""
    right_px: Tensor
    down_px: Tensor
    """int64."""

    @staticmethod
    def drawn(count: int, size: int) -> Amounts:
        most = round(TRANSLATION * size)
        right, down = torch.randint(-most, most + 1, (2, count))
        return Amounts(
            CONTRAST * (2 * torch.rand(count) - 1), 2 * BRIGHTNESS * (2 * torch.rand(count) - 1), right, down
        )


def augmented(images: Tensor, amounts: Amounts) -> Tensor:
    """[B, 1, H, W] with other contrast and brightness, shifted, and filled with black."""
    count, _, height, width = images.shape
    images = images * (1 + amounts.contrast[:, None, None, None]) + amounts.brightness[:, None, None, None]
    most = round(TRANSLATION * width)
    padded = pad(images, (most, most, most, most), value=-1.0)
    rows = most - amounts.down_px[:, None] + torch.arange(height, device=images.device)
    columns = most - amounts.right_px[:, None] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]


@dataclass(frozen=True)
class Inputs:
    """The input of one step."""

    real: Tensor
    """[B, 1, H, W] in [-1, 1]."""
    labels: Tensor
    z: Tensor
    amounts: tuple[Amounts, Amounts, Amounts]
    """Of real images, of generated ones in D's half, and in G's."""


class Trainer:
    """Both networks with their Adams."""

    def __init__(self, generator: Generator, discriminator: Discriminator) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.adam_g, self.adam_d = (
            torch.optim.Adam(net.parameters(), LEARNING_RATE, BETAS) for net in (generator, discriminator)
        )

    def set_rate(self, factor: float) -> None:
        for adam in (self.adam_g, self.adam_d):
            for group in adam.param_groups:
                group["lr"] = LEARNING_RATE * factor

    def step(self, number: int, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """D's loss without R1, and G's."""
        labels, (of_real, of_fake, of_g) = inputs.labels, inputs.amounts
        fake = self.generator(inputs.z, labels)
        real = augmented(inputs.real, of_real)
        loss = softplus(-self.discriminator(real, labels)).mean()
        loss = loss + softplus(self.discriminator(augmented(fake.detach(), of_fake), labels)).mean()
        adversarial = loss.detach()
        if number % R1_EVERY == 0:
            images = real.detach().requires_grad_()
            logits = self.discriminator(images, labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            loss = loss + R1_WEIGHT / 2 * R1_EVERY * gradient.square().sum((1, 2, 3)).mean()
        self.adam_d.zero_grad()
        loss.backward()
        self.adam_d.step()

        self.discriminator.requires_grad_(False)
        self.adam_g.zero_grad()
        loss_g = softplus(-self.discriminator(augmented(fake, of_g), labels)).mean()
        loss_g.backward()
        self.adam_g.step()
        self.discriminator.requires_grad_(True)
        return adversarial, loss_g.detach()


def batches(images: list[Tensor], rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [BATCH, 1, H, W] and labels, the classes in turn, each class's images in a new order on every pass.
    ``images``: [n, 1, H, W] of each class."""
    left: list[list[int]] = [[] for _ in images]
    seen = 0
    while True:
        labels = [(seen + i) % len(images) for i in range(BATCH)]
        chosen = []
        for label in labels:
            left[label] = left[label] or list(rng.permutation(len(images[label])))
            chosen.append(images[label][left[label].pop()])
        yield torch.stack(chosen), torch.tensor(labels)
        seen += BATCH


def train(images: list[Tensor], cpu_seconds: float, seed: int) -> tuple[Generator, int]:
    """The moving average of a generator that was trained until this process has used ``cpu_seconds`` since its start,
    and the images seen."""
    torch.manual_seed(seed)
    size = images[0].shape[-1]
    cfg = config_of(size, len(images))
    # The layout in which CPUs compute convolutions fastest.
    layout = torch.channels_last
    generator, discriminator = Generator(cfg, layout), Discriminator(cfg, layout)
    set_weights(generator, discriminator)
    generator, discriminator = (net.to(memory_format=layout) for net in (generator, discriminator))
    trainer, average = Trainer(generator, discriminator), copy.deepcopy(generator).requires_grad_(False)
    seen = 0
    began = time.process_time()
    for number, (real, labels) in enumerate(batches(images, np.random.default_rng(seed))):
        done = (time.process_time() - began) / max(cpu_seconds - began, 1e-9)
        if done >= 1:
            break
        trainer.set_rate(min(1.0, max(LAST_RATE, 2 * (1 - done))))
        drawn = (Amounts.drawn(BATCH, size), Amounts.drawn(BATCH, size), Amounts.drawn(BATCH, size))
        trainer.step(number, Inputs(real, labels, torch.randn(BATCH, cfg.z_dim), drawn))
        seen += BATCH
        share = 1 - 0.5 ** (BATCH / min(EMA_HALF_LIFE, max(1.0, seen * EMA_RAMP)))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), share)
    return average, seen


@torch.no_grad()
def generated(generator: Generator, label: int, count: int) -> np.ndarray:
    """[count, H, W] uint8."""
    parts = []
    for first in range(0, count, GENERATED_BATCH):
        size = min(GENERATED_BATCH, count - first)
        z = torch.randn(size, generator.cfg.z_dim)
        parts.append(generator(z, torch.full((size,), label))[:, 0])
    return ((torch.cat(parts) + 1) * 127.5).round().byte().numpy()


def main() -> None:
    options = argparse.ArgumentParser(description="Train the reference GAN, and draw images of each class.")
    options.add_argument(
        "--shards", required=True, help="shard set, of which it learns the real train images"
    )
    options.add_argument("--cpu-seconds", type=float, required=True, help="since the start of the process")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--images", type=int, default=500, help="drawn of each class")
    options.add_argument(
        "--out", type=Path, required=True, help=".npz: images [classes, n, H, W], images_seen"
    )
    chosen = options.parse_args()
    torch.set_num_threads(1)
    shards = ShardSet(chosen.shards)
    counts = [shards.samples("train", name, "real") for name in shards.classes]
    pixels = [shards.images("train", name, "real", n) for name, n in zip(shards.classes, counts, strict=True)]
    images = [torch.from_numpy(some)[:, None].float() / 127.5 - 1 for some in pixels]
    generator, seen = train(images, chosen.cpu_seconds, chosen.seed)
    cpu_seconds = time.process_time()
    torch.manual_seed(chosen.seed)
    drawn = np.stack([generated(generator, label, chosen.images) for label in range(len(images))])
    partial = chosen.out.with_suffix(".partial.npz")
    np.savez(partial, images=drawn, images_seen=seen, cpu_seconds=cpu_seconds)
    partial.rename(chosen.out)


if __name__ == "__main__":
    main()
