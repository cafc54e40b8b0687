"""Coverage: whether a generator draws more than a few images, before anything is written.

Coverage (Naeem et al. 2020) is the fraction of real images within whose ball, as large as the distance to the k-th
nearest real neighbour, lies a generated image. Here the real ones are at most 256 training images of the class, and
the generated ones are the 256 that are probed: as many images of the same distribution cover 1 - 2^-k of them, 97 %,
and a generator that draws one image over and over almost none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cxrdist.features.distances import manifolds
from cxrdist.seeds import permutation
from cxrdist.synth.gates.realism import NEIGHBOURS

MAX_REAL = 256


def coverage(generated: Tensor, train: Tensor, class_name: str) -> float | None:
    """Of features [n, D] of generated and [m, D] of training images; None for a class too small to measure it."""
    if len(train) > MAX_REAL:
        chosen = permutation(0, f"coverage {class_name}", length=len(train))[:MAX_REAL]
        train = train[torch.from_numpy(chosen.copy()).to(train.device)]
    found = manifolds(generated, train, NEIGHBOURS)
    return None if found is None else found.coverage
