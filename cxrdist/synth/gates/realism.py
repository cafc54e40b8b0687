"""The gate of realism: inside the manifold of the class's real training images, in two feature spaces.

The manifold is the union of balls around the training images, each as large as the distance to its k-th nearest
neighbour (Kynkaanniemi et al. 2019, "improved precision"). The distance of an image to a ball's centre over the
radius of that ball is at most 1 inside; the smallest over all balls is the image's ratio. Each space's ratios are
divided by the one that all but half of the gate's percentage of validation images stay below, and the score is the
larger of the two spaces: so both have the same say, and the threshold on the score is calibrated once more, for both
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cxrdist.features.distances import neighbour_radii
from cxrdist.synth.gates.thresholds import thresholds

NAME = "realism"
NEIGHBOURS = 5
CHUNK = 4096
"""Training images that are compared at a time."""


class Manifold:
    """Balls around training images."""

    def __init__(self, features: Tensor) -> None:
        """``features`` [m, D], more than ``NEIGHBOURS``."""
        self.centres = features.double()
        self.squares = self.centres.square().sum(1)
        self.radii = neighbour_radii(features, NEIGHBOURS).double().clamp_min(1e-9)

    def ratios(self, features: Tensor) -> Tensor:
        """[n, D] -> [n] float32: the smallest distance to a centre over its ball's radius."""
        queries = features.double()
        own = queries.square().sum(1)[:, None]
        best = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=features.device)
        for start in range(0, len(self.centres), CHUNK):
            part = slice(start, start + CHUNK)
            # Exact up to the rounding of float64; no n x m matrix of all training images is held.
            squares = own + self.squares[part] - 2 * queries @ self.centres[part].T
            best = torch.minimum(best, (squares.clamp_min(0).sqrt() / self.radii[part]).amin(1))
        return best.float()


class RealismGate:
    """See the module."""

    name = NAME
    refuses_high = True
    at_least = None

    def __init__(
        self,
        spaces: Sequence[str],
        train: Mapping[str, Mapping[str, Tensor]],
        val: Mapping[str, Mapping[str, Tensor]],
        percent: float,
    ) -> None:
        """``train``, ``val``: ``{class: {space: features [m, D]}}``. A class of at most ``NEIGHBOURS`` training
        images takes the manifold of all classes."""
        self.spaces = tuple(spaces)
        self.manifolds: dict[tuple[str, str], Manifold] = {}
        self.scales: dict[tuple[str, str], float] = {}
        for space in self.spaces:
            everything: Manifold | None = None
            for name, features in train.items():
                if len(features[space]) > NEIGHBOURS:
                    self.manifolds[name, space] = Manifold(features[space])
                    continue
                if everything is None:
                    everything = Manifold(torch.cat([of[space] for of in train.values()]))
                self.manifolds[name, space] = everything
            ratios = {
                name: self.manifolds[name, space].ratios(features[space]).cpu().numpy()
                for name, features in val.items()
            }
            found = thresholds(ratios, percent / len(self.spaces), refuses_high=True)
            for name, limit in found.of_class.items():
                self.scales[name, space] = max(limit, 1e-9)

    def scores(self, class_name: str, seen: Mapping[str, Tensor]) -> Tensor:
        """Features [n, D] under the names of the spaces -> [n] float32."""
        ratios = [
            self.manifolds[class_name, space].ratios(seen[space]) / self.scales[class_name, space]
            for space in self.spaces
        ]
        return torch.stack(ratios).amax(0)
