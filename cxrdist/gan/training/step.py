"""One training step of a GAN: D, then G, each with the other frozen (paper 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cxrdist import counter_rng
from cxrdist.data.loading.stream import Batch
from cxrdist.data.mix.order import check_parts
from cxrdist.data.transforms import AUGMENT_AMOUNTS, augment, to_float
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import Engine
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diffaugment import AMOUNTS, diffaugment
from cxrdist.gan.training.losses import d_loss, g_loss, r1_penalty
from cxrdist.models import z_of
from cxrdist.seeds import derive

ENGINES = ("generator", "discriminator")
PURPOSES = ("real", "fake", "g")
"""Augmentations of real images, and of generated ones in D's and in G's update, which are independent."""
STATS = ("loss_d", "loss_g", "d_real", "d_fake", "d_accuracy", "grad_d", "grad_g")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The input of one forward and backward pass, on the device."""

    real: Tensor  # [b, 1, H, W] float32 in [-1, 1]
    labels: Tensor  # [b] int64: of the real images, and of the generated ones at the same positions
    z: Tensor  # [b, z_dim] float32
    amounts: dict[str, Tensor]  # of the augmentation of each of PURPOSES, [b, AMOUNTS] float32
    last: bool


class GANStep:
    """Updates D, then G, on this rank's share of a global batch, which is on the device, in ``config.accumulate``
    parts.

    ``strengths``: [labels] float32, the factor of the amounts of ``config.augment`` for each label. z and
    augmentations are functions of (seed, position), drawn on the device, so the step does not depend on how the batch
    is split, except for BatchNorm, which sees one part at a time.
    """

    def __init__(
        self,
        config: GANConfig,
        generator: Engine,
        discriminator: Engine,
        dist: Dist,
        class_name: str,
        strengths: Tensor | None = None,
    ) -> None:
        check_parts(config.batch, dist.world_size, config.accumulate)
        self.config, self.dist, self.class_name = config, dist, class_name
        self.generator, self.discriminator = generator, discriminator
        self.strengths = None if strengths is None else strengths.to(dist.device)

    def __call__(self, step: int, batch: Batch) -> Tensor:
        """Returns the stats [len(STATS)] float32 on the device: this rank's means, and the norms of the gradients
        averaged over the ranks."""
        parts = self.parts(batch)
        # With one part, both updates use the same generated images and graph. With several, keeping them would take
        # the memory that accumulation saves.
        kept = self.generator(parts[0].z, parts[0].labels) if len(parts) == 1 else None
        of_parts = []
        for part in parts:
            with self.discriminator.part(last=part.last):
                loss, scores = self.discriminate(step, part, kept)
                self.discriminator.backward(loss)
            of_parts.append(scores)
        norm_d = self.discriminator.step()

        # Frozen, D accumulates no gradient of G's loss and has none to sync.
        self.discriminator.module.requires_grad_(False)
        losses_g = []
        for part in parts:
            with self.generator.part(last=part.last):
                fake = kept if kept is not None else self.generator(part.z, part.labels)
                logits = self.discriminator.unsynced(self.augmented(fake, part, "g"), part.labels)
                loss = g_loss(logits, self.config.g_loss)
                self.generator.backward(loss)
            losses_g.append(loss.detach())
        norm_g = self.generator.step()
        self.discriminator.module.requires_grad_(True)

        loss_d, d_real, d_fake, accuracy = torch.stack(of_parts).mean(0)
        loss_g = torch.stack(losses_g).mean()
        return torch.stack([loss_d, loss_g, d_real, d_fake, accuracy, norm_d, norm_g])

    def parts(self, batch: Batch) -> list[Part]:
        """This rank's share of the batch, in equal parts."""
        device, count = self.dist.device, len(batch.positions)
        real, labels = to_float(batch.pixels), batch.labels
        positions = counter_rng.positions_on(batch.positions, device)
        if self.strengths is not None:
            real = self.augmented_real(real, labels, positions)
        z, amounts = self.draw(positions)
        size = count // self.config.accumulate
        slices = [slice(first, first + size) for first in range(0, count, size)]
        return [
            Part(
                real=real[s],
                labels=labels[s],
                z=z[s],
                amounts={purpose: drawn[s] for purpose, drawn in amounts.items()},
                last=s is slices[-1],
            )
            for s in slices
        ]

    def augmented_real(self, real: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        assert self.strengths is not None
        seed = derive(self.config.seed, "augment", self.class_name)
        amounts = counter_rng.uniform(seed, positions, AUGMENT_AMOUNTS)
        amounts = amounts * self.strengths[labels][:, None]
        return augment(real, self.config.augment, amounts, fill="reflection")

    def draw(self, positions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z [b, z_dim], and the amounts of each augmentation [b, AMOUNTS], of positions [b] int64."""
        z_dim = self.config.z_dim
        seed = derive(self.config.seed, "gan step", self.class_name)
        drawn = counter_rng.bits(seed, positions, z_dim + len(PURPOSES) * AMOUNTS)
        z = z_of(self.generator.module, drawn[:, :z_dim])
        amounts = counter_rng.to_uniform(drawn[:, z_dim:]).split(AMOUNTS, dim=1)
        return z, dict(zip(PURPOSES, amounts, strict=True))

    def discriminate(self, step: int, part: Part, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """D's loss, and [4]: the loss without R1, mean D(x), mean D(G(z)), accuracy of D."""
        if kept is None:
            with torch.no_grad():
                kept = self.generator.unsynced(part.z, part.labels)
        real = self.augmented(part.real, part, "real")
        real_logits = self.discriminator(real, part.labels)
        fake_logits = self.discriminator(self.augmented(kept.detach(), part, "fake"), part.labels)
        loss = adversarial = d_loss(real_logits, fake_logits)
        if self.config.regularizer == "r1" and step % self.config.r1_every == 0:
            penalty = r1_penalty(self.discriminator.module, real, part.labels)
            loss = loss + self.config.r1_weight / 2 * self.config.r1_every * penalty
        with torch.no_grad():
            right = torch.cat([real_logits > 0, fake_logits < 0]).float().mean()
            d_real, d_fake = torch.sigmoid(real_logits).mean(), torch.sigmoid(fake_logits).mean()
            return loss, torch.stack([adversarial, d_real, d_fake, right])

    def augmented(self, images: Tensor, part: Part, purpose: str) -> Tensor:
        """The images as D sees them."""
        return diffaugment(images, self.config.diffaugment, part.amounts[purpose])
