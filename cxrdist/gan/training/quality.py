"""Quality of a model's images during its training, against training images alone: KID and near copies.

They decide when to stop: no held-out image takes part. The features are those of an untrained network, since a
classifier may not exist yet; evaluate_gan.py chooses among the checkpoints in a classifier's features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.features.embed import patient_groups
from cxrdist.features.memorization import TrainImages
from cxrdist.features.spaces import Space, pixel_space, random_space
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diversity import real_images
from cxrdist.gan.evaluation.choice import Score, TrainSide, score
from cxrdist.gan.samples import generate
from cxrdist.models import z_at
from cxrdist.seeds import derive

DRAWN = 200
"""Images of each class that are drawn and compared."""
MOST_REAL = 500
"""Training images of each class that they are compared with: the first ones, which is a random choice."""
BATCH = 50


class Quality:
    """Judges the images of a generator; holds features of training images of each class."""

    def __init__(self, shards: ShardSet, classes: Sequence[str], seed: int, device: torch.device) -> None:
        self.seed, self.device = derive(seed, "quality"), device
        self.features = random_space(shards.image_size, device)
        self.pixels = pixel_space()
        self.train = {name: self._train_side(shards, name) for name in classes}

    def score(self, generator: nn.Module, images: int) -> Score:
        """The generator's images after training on ``images`` images, of the same z each time."""
        features, pixels = {}, {}
        for label, name in enumerate(self.train):
            drawn = torch.from_numpy(self._drawn(generator, label))[:, None]
            features[name], pixels[name] = (embed(space, drawn, self.device) for space in self._spaces)
        return score(images, features, pixels, self.train)

    def _drawn(self, generator: nn.Module, label: int) -> np.ndarray:
        """[DRAWN, H, W] uint8."""
        z = z_at(generator, self.seed, range(DRAWN), self.device)
        return np.concatenate([generate(generator, some, label) for some in z.split(BATCH)])

    @property
    def _spaces(self) -> tuple[Space, Space]:
        return self.features, self.pixels

    def _train_side(self, shards: ShardSet, class_name: str) -> TrainSide:
        images, numbers = real_images(shards, class_name, MOST_REAL)
        features, pixels = (
            embed(space, torch.from_numpy(images)[:, None], self.device) for space in self._spaces
        )
        groups = patient_groups(shards.stratum("train", class_name, "real"), numbers)
        return TrainSide(features, TrainImages.of(pixels, groups, torch.arange(len(numbers))))


@torch.no_grad()
def embed(space: Space, images: Tensor, device: torch.device) -> Tensor:
    """Images [n, 1, H, W] uint8 -> [n, D] on the CPU."""
    return torch.cat([space.embed(some.to(device)).cpu() for some in images.split(BATCH)])


def reason_to_stop(config: GANConfig, scores: Sequence[Score]) -> str | None:
    """Why a training should end after these looks, oldest first; None if it should not."""
    newest = scores[-1]
    rate = newest.copy_rate
    if config.copy_limit is not None and rate is not None and rate > config.copy_limit:
        return f"{rate:.1%} of its images are near copies of training images (--copy-limit {config.copy_limit:g})"
    if config.patience_images is None or newest.images is None:
        return None
    best = min(scores, key=lambda one: float("inf") if one.kid is None else one.kid)
    since = newest.images - (best.images or 0)
    if best is not newest and since >= config.patience_images:
        return f"KID against train has not improved for {since:,} images (--patience-images {config.patience_images})"
    return None
