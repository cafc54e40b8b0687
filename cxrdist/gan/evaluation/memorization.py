"""Test for memorization: the nearest training image of each generated one, and the closest pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cxrdist.gan.evaluation.distances import nearest

PAIRS = 8
CLOSE_PERCENTILE = 1.0


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbours of one class in one feature space."""

    typical: float | None
    """Median distance of a training image to the nearest other one; None if there is only one."""
    threshold: float
    """1st percentile of the distances of held-out images to their nearest training image."""
    share: float
    """Fraction of generated images within the threshold of a training image."""
    floor: float
    """The same fraction of the held-out images: 1 %, except for rounding with few images."""
    pairs: list[tuple[int, int, float]]
    """The closest pairs: position of the generated image, number of the training image in its stratum, distance."""

    def results(self, *, generated: int, train: int, real: int) -> dict[str, Any]:
        """As JSON types. ``relative_distance``: distance over the typical one; below 1, the pair is closer than half
        of the training images are to any other."""
        return {
            "share": rounded(self.share),
            "floor": rounded(self.floor),
            "threshold": rounded(self.threshold),
            "typical_distance": rounded(self.typical),
            "n_generated": generated,
            "n_train": train,
            "n_real": real,
            "closest": [
                {
                    "generated": place,
                    "train": number,
                    "distance": rounded(distance),
                    "relative_distance": rounded(distance / self.typical) if self.typical else None,
                }
                for place, number, distance in self.pairs
            ],
        }


def find_nearest(generated: Tensor, train: Tensor, sample: Tensor, real: Tensor) -> Nearest:
    """``generated`` [n, D], ``train`` [m, D] all training images of the class, ``real`` [r, D] held-out images;
    ``sample`` [s] int64: the training images whose distances the typical distance is the median of."""
    distances, where = nearest(generated, train)
    of_real, _ = nearest(real, train)
    typical = None
    if len(train) > 1:
        typical = float(nearest(train[sample], train, sample)[0].median())
    threshold = torch.quantile(of_real, CLOSE_PERCENTILE / 100)
    closest = distances.argsort(stable=True)[:PAIRS]
    return Nearest(
        typical=typical,
        threshold=float(threshold),
        share=float((distances <= threshold).double().mean()),
        floor=float((of_real <= threshold).double().mean()),
        pairs=list(zip(closest.tolist(), where[closest].tolist(), distances[closest].tolist())),
    )


def rounded(value: float | None) -> float | None:
    """To six digits, since further ones depend on the number of threads."""
    return None if value is None else float(f"{value:.6g}")
