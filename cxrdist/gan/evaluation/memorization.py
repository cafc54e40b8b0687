"""Has a generator learnt images by heart? The nearest training image of each generated one, and the closest pairs."""

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
    """What is found of a class in one space."""

    typical: float | None
    """The median distance of a training image to the nearest other one; None where there is no other."""
    threshold: float
    """A held-out image in a hundred is as close to a training image as this, or closer."""
    share: float
    """Of the generated images, those that are as close."""
    floor: float
    """Of the held-out images, those that are: 1 %, but for the rounding of few images."""
    pairs: list[tuple[int, int, float]]
    """The closest: place of the generated image, number of the training image in its stratum, distance."""

    def told(self, *, generated: int, train: int, real: int) -> dict[str, Any]:
        """For the results, distances also relative to the typical one; below 1, two images are more alike than most
        training images are to any other."""
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
    """generated [n, D], all training images of the class [m, D], held-out real ones [r, D]; ``sample`` [s] int64:
    which of the training images to take the typical distance from."""
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
    """To six digits: those behind them depend on the number of threads."""
    return None if value is None else float(f"{value:.6g}")
