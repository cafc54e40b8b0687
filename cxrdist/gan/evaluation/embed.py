"""Features of images, real and generated, each rank a part of them, on every rank in the end.

Images come in batches of one size, dealt over the ranks; a short one is filled up with black images, which are
dropped again. So a feature is the same to the bit on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cxrdist.console import Progress
from cxrdist.data.shards.shard_set import StratumReader
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.gan.evaluation.feature_spaces import Space

BATCH = 64

Features = dict[str, Tensor]
"""By the name of the space: [n, D] float32."""


class Draws(Protocol):
    """What a cxrdist.models.TrainedGenerator does."""

    def z(self, seed: int, purpose: str, positions: range) -> np.ndarray:
        """[len(positions), z_dim] float32."""
        ...

    def images(self, class_name: str, z: np.ndarray) -> np.ndarray:
        """z [n, z_dim] float32 -> [n, H, W] uint8."""
        ...


def drawn(model: Draws, class_name: str, places: range, seed: int) -> np.ndarray:
    """The generated images at these places of the row that is evaluated, [n, H, W] uint8: of (seed, class, place)
    alone, so the same ones of every checkpoint and on any number of ranks."""
    return model.images(class_name, model.z(seed, f"evaluate {class_name}", places))


class Embedder:
    """Embeds images in all spaces."""

    def __init__(self, spaces: Sequence[Space], image_size: int, dist: Dist, progress: Progress) -> None:
        self.spaces, self.image_size, self.dist, self.progress = spaces, image_size, dist, progress

    def generated(self, model: Draws, class_name: str, count: int, seed: int) -> Features:
        """Of the first ``count`` images of the row."""
        return self._embed(count, lambda places: drawn(model, class_name, places, seed))

    def real(self, reader: StratumReader, numbers: np.ndarray) -> Features:
        """Of these samples of a stratum, [n] int64, in their order."""

        def read(places: range) -> np.ndarray:
            reader.prefetch(numbers[places.start : places.stop + (self.dist.world_size * BATCH)])
            return np.stack([reader.pixels(int(numbers[place])) for place in places])

        return self._embed(len(numbers), read)

    @torch.no_grad()
    def _embed(self, count: int, images_at: Callable[[range], np.ndarray]) -> Features:
        ranks, device = self.dist.world_size, self.dist.device
        rounds = -(-count // (BATCH * ranks))
        found: dict[str, list[Tensor]] = {space.name: [] for space in self.spaces}
        for turn in range(rounds):
            pixels = np.zeros((BATCH, 1, self.image_size, self.image_size), np.uint8)
            start = (turn * ranks + self.dist.rank) * BATCH
            if places := range(start, min(start + BATCH, count)):
                pixels[: len(places), 0] = images_at(places)
            images = torch.from_numpy(pixels).to(device)
            for space in self.spaces:
                found[space.name].append(space.embed(images).float())
            self.progress.advance(min(BATCH * ranks, count - turn * BATCH * ranks))
        return {name: self._joined(name, torch.stack(parts), count) for name, parts in found.items()}

    def _joined(self, name: str, mine: Tensor, count: int) -> Tensor:
        """[rounds, BATCH, D] of each rank -> [count, D] in the order of the images, on all."""
        rounds, _, dims = mine.shape
        by_rank = self.dist.gather(mine).view(self.dist.world_size, rounds, BATCH, dims)
        features = by_rank.transpose(0, 1).reshape(-1, dims)[:count]
        if not torch.isfinite(features).all():
            raise UserError(
                f"the features of some images are not finite in the space {name}: a classifier that diverged, a "
                "generator that did, or an extractor that fails at such images"
            )
        return features
