"""One training step of the classifier: augmentation, targets, loss, Adam."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cxrdist import counter_rng
from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.stages import StagePlan
from cxrdist.cls.training.targets import Mixup, SoftLabels, class_weights, smoothed
from cxrdist.data.loading.stream import Batch
from cxrdist.data.mix.order import check_parts
from cxrdist.data.transforms import AUGMENT_AMOUNTS, augment, to_float
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import Engine


class ClsStep:
    """Updates the weights on this rank's share of a global batch, which is on the device.

    The loss is the mean over the global batch of w_y * cross-entropy(logits, target), so it does not depend on how
    the batch is spread over ranks and parts.
    """

    def __init__(
        self, config: ClsConfig, engine: Engine, dist: Dist, stage: StagePlan, soft_labels: SoftLabels | None
    ) -> None:
        check_parts(config.batch, dist.world_size, config.accumulate)
        self.config, self.engine, self.dist, self.stage = config, engine, dist, stage
        self.soft_labels = soft_labels
        self.augment_seed = stage.seed(config.seed, "augment")
        mixup_seed = stage.seed(config.seed, "mixup")
        self.mixup = Mixup(config.mixup, mixup_seed, dist.device) if config.mixup else None
        images = {name: sum(origins.values()) for name, origins in stage.quotas.items()}
        self.classes = len(images)
        self.weights: Tensor | None = None  # [classes] float32
        if config.class_weights == "inverse":
            self.weights = torch.tensor(class_weights(images), device=dist.device)
        is_synthetic = [origin == "synthetic" for _, origin in stage.stream.strata]
        self.is_synthetic = torch.tensor(is_synthetic, device=dist.device)  # [strata] bool

    def __call__(self, step: int, batch: Batch) -> Tensor:
        """One step; ``step``: of the stage. Returns this rank's mean loss, [] on the device."""
        positions = counter_rng.positions_on(batch.positions, self.dist.device)
        images = self.augmented(batch.pixels, positions)
        targets = self.targets(batch)
        if self.mixup is not None:
            images, targets = self.mixed(step, batch, images, targets)
        losses = []
        size = len(images) // self.config.accumulate
        parts = list(zip(images.split(size), targets.split(size), strict=True))
        for number, (of_part, wanted) in enumerate(parts, 1):
            with self.engine.part(last=number == len(parts)):
                logits = self.engine(of_part)
                loss = cross_entropy(logits, wanted, self.weights, reduction="none").mean()
                self.engine.backward(loss)
            losses.append(loss.detach())
        self.engine.step()
        return torch.stack(losses).mean()

    def augmented(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """[b, 1, H, W] uint8 -> float32 in [-1, 1]."""
        amounts = counter_rng.uniform(self.augment_seed, positions, AUGMENT_AMOUNTS)
        return augment(to_float(pixels), self.config.augment, amounts)

    def targets(self, batch: Batch) -> Tensor:
        """[b, classes] float32."""
        smoothing: Tensor | float = self.config.label_smoothing
        if self.config.synthetic_label_smoothing is not None:
            strata = torch.from_numpy(batch.strata).to(self.dist.device)
            both = torch.tensor([smoothing, self.config.synthetic_label_smoothing], device=self.dist.device)
            smoothing = both[self.is_synthetic[strata].long()][:, None]
        targets = smoothed(batch.labels, self.classes, smoothing)
        return targets if self.soft_labels is None else self.soft_labels.put(targets, batch.keys)

    def mixed(self, step: int, batch: Batch, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Images and targets after mixup. All ranks exchange the pixels and targets of the batch."""
        assert self.mixup is not None
        ranks, size = self.dist.world_size, self.config.batch
        # Rank r holds the places r, r + ranks, r + 2 ranks, ...
        pixels = self.dist.gather(batch.pixels.contiguous()).unflatten(0, (ranks, -1)).transpose(0, 1)
        all_targets = self.dist.gather(targets).unflatten(0, (ranks, -1)).transpose(0, 1).flatten(0, 1)
        partners = self.mixup.partners(step, size)[self.dist.rank :: ranks]
        others = self.augmented(pixels.flatten(0, 1)[partners], step * size + partners)
        positions = counter_rng.positions_on(batch.positions, self.dist.device)
        share = self.mixup.shares(positions)[:, None]
        images = torch.lerp(others, images, share[:, :, None, None])
        return images, torch.lerp(all_targets[partners], targets, share)
