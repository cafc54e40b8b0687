"""The targets of a batch: class probabilities, from labels, soft labels and mixup.

Everything random is a function of (seed, position) or (seed, step), so it does not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn.functional import one_hot

from cxrdist import counter_rng
from cxrdist.cls.prediction.probabilities import read_probabilities
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.errors import UserError

QUANTILES = 4097
"""Points of the table of Beta quantiles; between them it is linear."""


def class_weights(images: Mapping[str, int]) -> list[float]:
    """N / (C n) of each class: n of N its images in an epoch, C the number of classes that have any; 0 for a class
    without images. Over an epoch the weights average 1, so the learning rate keeps its meaning."""
    present = [n for n in images.values() if n]
    return [sum(present) / (len(present) * n) if n else 0.0 for n in images.values()]


def smoothed(labels: Tensor, classes: int, smoothing: Tensor | float) -> Tensor:
    """[b] int64 -> [b, classes] float32: one-hot, of which the part ``smoothing`` (a number, or [b, 1]) is divided
    among all classes (Szegedy et al. 2016)."""
    return one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


class SoftLabels:
    """Class probabilities of some images by their keys, on the device."""

    def __init__(self, keys: np.ndarray, probabilities: Tensor) -> None:
        """``keys``: [n] S40; ``probabilities``: [n, classes] float32 on the device."""
        order = np.argsort(keys)
        self.keys = keys[order]
        self.probabilities = probabilities[torch.from_numpy(order).to(probabilities.device)]

    @classmethod
    def read(cls, path: str, classes: list[str], device: torch.device) -> SoftLabels:
        """Read the CSV of `cxrdist predict`. Raises UserError if it is not one, or has other classes."""
        names, found, probabilities = read_probabilities(Path(path))
        if found != classes:
            raise UserError(
                f"{path}: has the classes {', '.join(found)}, but the set has {', '.join(classes)}: predict with a "
                "classifier of these classes"
            )
        return cls(np.array(names, KEY_DTYPE), torch.from_numpy(probabilities).to(device))

    def put(self, targets: Tensor, keys: np.ndarray) -> Tensor:
        """Targets [b, classes] of images with keys [b] S40, replaced where an image has soft labels."""
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        rows = np.flatnonzero(self.keys[at] == keys)
        if len(rows):
            device = targets.device
            found = self.probabilities[torch.from_numpy(at[rows]).to(device)]
            targets = targets.index_copy(0, torch.from_numpy(rows).to(device), found)
        return targets


class Mixup:
    """Mixes each image and its target with another one of the global batch: x = m x_i + (1 - m) x_j, m ~ Beta(a, a)
    (Zhang et al. 2018). The other image is a permutation of the global batch, the same on any number of ranks."""

    def __init__(self, alpha: float, seed: int, device: torch.device) -> None:
        self.seed = seed
        quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, QUANTILES))
        self.quantiles = torch.from_numpy(quantiles).float().to(device)

    def partners(self, step: int, batch: int) -> Tensor:
        """[batch] int64: of each place in global batch ``step``, the place that it is mixed with."""
        first = step * batch
        positions = counter_rng.positions_on(range(first, first + batch), self.quantiles.device)
        return counter_rng.uniform(self.seed, positions, 2)[:, 0].argsort(stable=True)

    def shares(self, positions: Tensor) -> Tensor:
        """[b] int64 -> [b] float32: the share m of each image itself."""
        drawn = counter_rng.uniform(self.seed, positions, 2)[:, 1]
        at = (drawn + 1) / 2 * (QUANTILES - 1)
        below = at.floor().long().clamp(max=QUANTILES - 2)
        return torch.lerp(self.quantiles[below], self.quantiles[below + 1], at - below)
