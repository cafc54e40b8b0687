"""Bootstrap intervals of metrics: resample the images of both sides and read off percentiles.

Real images are resampled by patient, since two films of a patient are not independent. A resample holds some images
several times, which would bias KID (an image is its own nearest neighbour) and coverage (fewer distinct images). So
KID leaves out the pairs of an image with itself, the balls of coverage and recall keep the radii of the whole set,
and every interval is centred: it is the value plus the spread of the replicates around their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxrdist.features.distances import exact_distances, neighbour_radii
from cxrdist.features.memorization import rounded
from cxrdist.seeds import philox

RESAMPLES = 200
COVERED = 0.95
"""Probability that an interval is meant to contain the expected value."""
MOST = 1000
"""Images of a side that are resampled; of a larger set every so-many-th, so its interval is wider than need be."""


@dataclass(frozen=True)
class Estimate:
    """A metric and its replicates [RESAMPLES] float64; no replicates if fewer than two patients or images."""

    value: float
    replicates: Tensor | None

    def interval(self, low: float = -math.inf, high: float = math.inf) -> list[float | None] | None:
        """``[lower, upper]`` of 95 %, within the range of the metric; None if it cannot be computed."""
        if self.replicates is None:
            return None
        finite = self.replicates[self.replicates.isfinite()]
        if not len(finite):
            return None
        tail = (1 - COVERED) / 2
        ends = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=finite.dtype)) - finite.mean()
        return [rounded(end) for end in (ends + self.value).clamp(low, high).tolist()]

    def results(self) -> dict[str, Any]:
        """As JSON types, for a share."""
        return {"value": rounded(self.value), "interval": self.interval(0, 1)}


def mean_of(estimates: Sequence[Estimate]) -> Estimate | None:
    """The mean over classes, whose images are resampled independently; None if there are no estimates."""
    if not estimates:
        return None
    known = [one.replicates for one in estimates if one.replicates is not None]
    replicates = torch.stack(known).mean(0) if len(known) == len(estimates) else None
    return Estimate(sum(one.value for one in estimates) / len(estimates), replicates)


def resamples(groups: np.ndarray, seed: int, *words: str) -> Tensor | None:
    """How often each image is drawn, [RESAMPLES, n] float64: all images of a group (a patient) equally often, as many
    groups as there are. ``groups`` [n]: of each image; None if all images are of one group."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    draw = np.random.Generator(philox(seed, "bootstrap", *words))
    counts = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return torch.from_numpy(counts[:, group].astype(np.float64))


def share(flags: Tensor, weights: Tensor | None) -> Estimate:
    """The share of images [n] bool of which something holds. ``weights``: of ``resamples``."""
    flags = flags.double().cpu()
    replicates = None if weights is None else weights @ flags / weights.sum(1)
    return Estimate(float(flags.mean()), replicates)


@dataclass(frozen=True)
class Resampled:
    """Both sides of a comparison in one space, [n, D] and [m, D] features, and how often each image is drawn."""

    generated: Tensor
    real: Tensor
    of_generated: Tensor
    of_real: Tensor

    @staticmethod
    def of(generated: Tensor, real: Tensor, patients: np.ndarray, seed: int, *words: str) -> Resampled | None:
        """``patients`` [m]: of the real images. None if one side has a single image or patient."""
        some, few = _thinned(len(generated)), _thinned(len(real))
        of_generated = resamples(some, seed, *words, "generated")
        of_real = resamples(patients[few], seed, *words, "real")
        if of_generated is None or of_real is None:
            return None
        chosen = generated[torch.from_numpy(some)], real[torch.from_numpy(few)]
        return Resampled(chosen[0].cpu(), chosen[1].cpu(), of_generated, of_real)

    def kid(self) -> Tensor:
        """Replicates of distances.kernel_distance, [RESAMPLES], from kernel matrices that are computed once."""
        a, b = self.generated.double(), self.real.double()
        within = _mean_pair(_kernel(a, a), self.of_generated) + _mean_pair(_kernel(b, b), self.of_real)
        totals = self.of_generated.sum(1) * self.of_real.sum(1)
        across = ((self.of_generated @ _kernel(a, b)) * self.of_real).sum(1) / totals
        return within - 2 * across

    def overlap(self, k: int) -> dict[str, Tensor]:
        """Replicates of the coverage and recall of distances.manifolds, [RESAMPLES] each; empty for fewer than k + 1
        images."""
        if min(len(self.generated), len(self.real)) < k + 1:
            return {}
        distances = exact_distances(self.generated, self.real)
        balls = {
            "coverage": distances < neighbour_radii(self.real, k),
            "recall": distances < neighbour_radii(self.generated, k)[:, None],
        }
        is_drawn, weights = (self.of_generated > 0).double(), self.of_real / self.of_real.sum(1, keepdim=True)
        return {
            name: ((is_drawn @ inside.double() > 0).double() * weights).sum(1)
            for name, inside in balls.items()
        }


def _thinned(count: int) -> np.ndarray:
    """[min(count, MOST)] int64: evenly spaced indices, so that each class keeps its share."""
    return np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_pair(kernel: Tensor, weights: Tensor) -> Tensor:
    """[RESAMPLES]: the mean of a kernel matrix [n, n] over the drawn pairs of two different images."""
    between = kernel - torch.diag(kernel.diagonal())
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return ((weights @ between) * weights).sum(1) / pairs
