"""A conditional GAN in a plain PyTorch loop, which the project's own is compared with: recipe C, the experiment that
the project's networks come from, with its learning rates, batch and losses.

Only torch's own layers, Adam and ``torch.rand``, in one process with one thread; it writes no checkpoints and cannot
be resumed.

    python -m benchmarks.gan.reference_gan --shards SET --cpu-seconds 300 --out images.npz
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from benchmarks.gan.reference_nets import Discriminator, Generator, config_of, set_weights
from cxrdist.data.shards.shard_set import ShardSet

BATCH = 20
LAST_RATE = 0.05  # of the learning rate, which falls over the second half
EMA_HALF_LIFE = 4_000  # images
EMA_RAMP = 0.05  # the half-life is at most this fraction of the images seen
TRANSLATION, BRIGHTNESS, CONTRAST = 0.125, 0.1, 0.1
GENERATED_BATCH = 100


@dataclass(frozen=True)
class Rates:
    """Of Adam and R1. The defaults are those of the recipe."""

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.99)
    r1_weight: float = 0.5
    r1_every: int = 4
    """Steps."""


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

    def __init__(
        self, generator: Generator, discriminator: Discriminator, rates: Rates | None = None
    ) -> None:
        self.generator, self.discriminator, self.rates = generator, discriminator, rates or Rates()
        self.adam_g, self.adam_d = (
            torch.optim.Adam(net.parameters(), self.rates.learning_rate, self.rates.betas)
            for net in (generator, discriminator)
        )

    def set_rate(self, factor: float) -> None:
        for adam in (self.adam_g, self.adam_d):
            for group in adam.param_groups:
                group["lr"] = self.rates.learning_rate * factor

    def step(self, number: int, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """D's loss without R1, and G's."""
        labels, (of_real, of_fake, of_g) = inputs.labels, inputs.amounts
        fake = self.generator(inputs.z, labels)
        real = augmented(inputs.real, of_real)
        loss = softplus(-self.discriminator(real, labels)).mean()
        loss = loss + softplus(self.discriminator(augmented(fake.detach(), of_fake), labels)).mean()
        adversarial = loss.detach()
        every = self.rates.r1_every
        if number % every == 0:
            images = real.detach().requires_grad_()
            logits = self.discriminator(images, labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            loss = loss + self.rates.r1_weight / 2 * every * gradient.square().sum((1, 2, 3)).mean()
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
    for one step at least, and the images seen."""
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
        if done >= 1 and seen:
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
