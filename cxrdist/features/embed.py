"""Features of real and generated images: each rank computes a part of them, then all ranks gather them.

Batches have a fixed size and are distributed over the ranks; a short one is padded with black images, whose features
are dropped. So features are bitwise equal for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cxrdist.console import Progress
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.features.spaces import LOGITS, Space

BATCH = 64

Features = dict[str, Tensor]
"""``{space: [n, D] float32}``, and the classifier's logits [n, classes] under ``LOGITS``."""


class Draws(Protocol):
    """The methods of cxrdist.models.TrainedGenerator that are used here."""

    def z(self, seed: int, purpose: str, positions: range) -> np.ndarray:
        """[len(positions), z_dim] float32."""
        ...

    def images(self, class_name: str, z: np.ndarray) -> np.ndarray:
        """z [n, z_dim] float32 -> [n, H, W] uint8."""
        ...


def drawn(model: Draws, class_name: str, places: range, seed: int) -> np.ndarray:
    """The evaluated images at these places, [n, H, W] uint8. z is a function of (seed, class, place) alone, so it is
    the same for every checkpoint and any number of ranks."""
    return model.images(class_name, model.z(seed, f"evaluate {class_name}", places))


def patients_of(reader: StratumReader, numbers: np.ndarray) -> np.ndarray:
    """Patients of the samples ``numbers`` [n] int64 of a stratum: [n] bytes, salted hashes. An image of an unknown
    patient has one of its own."""
    shards = range(len(reader.shard_samples))
    every = np.concatenate([reader.index(shard)["patient"] for shard in shards])[numbers]
    own = [f"{reader.entry.stratum} {number}".encode() for number in numbers]
    return np.array([patient or unknown for patient, unknown in zip(every.tolist(), own)], object)


def patient_groups(reader: StratumReader, numbers: np.ndarray) -> Tensor:
    """[n] int64: the samples ``numbers`` [n] int64 of a stratum, numbered by their patient."""
    return torch.from_numpy(np.unique(patients_of(reader, numbers), return_inverse=True)[1])


def split_logits(embedded: Mapping[Space, Tensor]) -> Features:
    """What ``Space.embed`` returned, [n, dims + logits] -> features and logits."""
    features = {}
    for space, values in embedded.items():
        features[space.name] = values[:, : space.dims].contiguous()
        if space.logits:
            features[LOGITS] = values[:, space.dims :].contiguous()
    return features


class Embedder:
    """Embeds images in all spaces."""

    def __init__(self, spaces: Sequence[Space], image_size: int, dist: Dist, progress: Progress) -> None:
        self.spaces, self.image_size, self.dist, self.progress = spaces, image_size, dist, progress

    def generated(self, model: Draws, class_name: str, count: int, seed: int) -> Features:
        """Features of the generated images at places 0 to ``count`` - 1."""
        return split_logits(self.embed(count, lambda places: drawn(model, class_name, places, seed)))

    def real(self, reader: StratumReader, numbers: np.ndarray) -> Features:
        """Features of the samples ``numbers`` [n] int64 of a stratum, in that order."""
        return split_logits(self.embed_real(reader, numbers))

    def embed_real(self, reader: StratumReader, numbers: np.ndarray) -> dict[Space, Tensor]:
        """What ``Space.embed`` returns of the samples ``numbers`` [n] int64 of a stratum, in that order."""

        def read(places: range) -> np.ndarray:
            reader.prefetch(numbers[places.start : places.stop + (self.dist.world_size * BATCH)])
            return np.stack([reader.pixels(int(numbers[place])) for place in places])

        return self.embed(len(numbers), read)

    @torch.no_grad()
    def embed(self, count: int, images_at: Callable[[range], np.ndarray]) -> dict[Space, Tensor]:
        """[count, dims + logits] per space, on all ranks. ``images_at``: images [n, H, W] uint8 at some places."""
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
        return {
            space: self._joined(space.name, torch.stack(found[space.name]), count) for space in self.spaces
        }

    def _joined(self, name: str, mine: Tensor, count: int) -> Tensor:
        """[rounds, BATCH, D] of each rank -> [count, D] in the order of the images, on all ranks."""
        rounds, _, dims = mine.shape
        self.dist.barrier()  # reading and drawing may take one rank longer than a collective may wait
        by_rank = self.dist.gather(mine).view(self.dist.world_size, rounds, BATCH, dims)
        features = by_rank.transpose(0, 1).reshape(-1, dims)[:count]
        if not torch.isfinite(features).all():
            raise UserError(
                f"features in the space {name} are not finite: the classifier or the generator diverged, or the "
                "feature extractor fails for some images"
            )
        return features
