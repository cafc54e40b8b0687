"""What rank 0 draws and measures at a look: sample grids, diversity, and what may stop the training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diversity import Diversity
from cxrdist.gan.evaluation.choice import Score
from cxrdist.gan.plan import ModelPlan
from cxrdist.gan.samples import GRID_SIDE, generate, save_grid
from cxrdist.gan.tracking import grid_path
from cxrdist.gan.training.quality import Quality, reason_to_stop
from cxrdist.models import z_at
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.seeds import derive

DRAWN = 64
"""Samples per class whose diversity is measured; the grid shows the first of them."""


class Looks:
    """Of one model. ``folder``: its own, in that of the run."""

    def __init__(
        self,
        config: GANConfig,
        model: ModelPlan,
        shards: ShardSet,
        folder: Path,
        tracker: NoTracker,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.shards = config, model, shards
        self.folder, self.tracker, self.device = folder, tracker, device
        self.scores: list[Score] = []
        """Quality at each look so far, if it may stop the training."""

    @cached_property
    def diversity(self) -> Diversity:
        return Diversity(self.shards, self.model.classes)

    @cached_property
    def quality(self) -> Quality:
        return Quality(self.shards, self.model.classes, self.config.seed, self.device)

    def judge(self, sampler: nn.Module, images: int) -> tuple[str | None, dict[str, float]]:
        """Measure KID against train and near copies, if they may stop the training. Returns the reason to stop, if
        any, and the metrics."""
        if self.config.patience_images is None and self.config.copy_limit is None:
            return None, {}
        self.scores.append(self.quality.score(sampler, images))
        values = {"kid_train": self.scores[-1].kid, "copy_rate": self.scores[-1].copy_rate}
        rounded = {name: round(value, 6) for name, value in values.items() if value is not None}
        return reason_to_stop(self.config, self.scores), rounded

    def draw(self, sampler: nn.Module, images: int) -> dict[str, float]:
        """Save a sample grid per class, from the same z at every look. Returns each class's diversity
        (Diversity.of)."""
        spread = {}
        seed = derive(self.config.seed, "grid", self.model.name)
        z = z_at(sampler, seed, range(DRAWN), self.device)
        for label, class_name in enumerate(self.model.classes):
            drawn = generate(sampler, z, label)
            grid = grid_path(self.folder, class_name, images)
            save_grid(grid, drawn[: GRID_SIDE**2])
            self.tracker.picture(images, f"{class_name}/samples", grid)
            if class_name not in self.diversity.unmeasured:
                spread[class_name] = self.diversity.of(class_name, drawn)
        return spread
