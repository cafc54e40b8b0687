"""Duplicates among the synthetic images of a class: of images that are almost the same, the first one stays.

Images are compared at 16 px, mean and contrast removed (copies.coarse), at the best of nine shifts of up to a pixel
of 64. The limit is a fraction of the distance within which 1 % of the real validation images have a training image. A
fraction: the more images a set has, the closer the nearest of them are, without any of them being the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cxrdist.features.memorization import windows
from cxrdist.features.spaces import PIXEL_SIDE
from cxrdist.synth.gates.copies import POINTS
from cxrdist.synth.gates.thresholds import most_extreme

CLOSE_PERCENT = 1.0
CHUNK = 1024
SIDE = 16
SHIFTS_PX = (0, -0.5, 0.5)
"""In pixels of the 32 px space."""
ZOOM = 0.92
"""The windows end before the edge of the image, where a shift shows what was outside."""


def limit_of(train: Mapping[str, Tensor], val: Mapping[str, Tensor], fraction: float) -> float:
    """The largest distance of duplicates, from the coarse images [m, 256] of each class: of train and val."""
    found = [
        nearest_distances(val[name], aligned(train[name])[:, 0]).cpu().numpy()
        for name in val
        if len(train[name]) and len(val[name])
    ]
    return fraction * most_extreme(np.concatenate(found), CLOSE_PERCENT, refuses_high=False)


def duplicates(images: Tensor, limit: float, *, known: int = 0) -> np.ndarray:
    """Which of coarse images [n, 256] after the first ``known`` are within ``limit`` of an earlier one that is no
    duplicate itself, [n - known] bool. The known ones are none.

    Holds ``CHUNK`` rows of distances to ``CHUNK`` of the images that stay.
    """
    kept = torch.cat([aligned(part)[:, 0] for part in images[:known].split(CHUNK)])
    is_duplicate = []
    for part in images[known:].split(CHUNK):
        found = aligned(part)
        stays = (nearest_distances(part, kept) > limit).cpu().numpy()
        close = (_distances(found, found[:, 0]) <= limit).tril(-1)
        for row in close.any(1).nonzero()[:, 0].tolist():
            stays[row] &= not (close[row].cpu().numpy() & stays).any()
        is_duplicate.append(~stays)
        kept = torch.cat((kept, found[torch.from_numpy(stays).to(found.device), 0]))
    return np.concatenate(is_duplicate) if is_duplicate else np.zeros(0, bool)


def nearest_distances(images: Tensor, references: Tensor) -> Tensor:
    """Coarse images [n, 256] and windows [m, 196] -> [n]: to the nearest one; inf if there is none."""
    nearest = []
    for part in images.split(CHUNK):
        found = aligned(part)
        best = torch.full((len(part),), torch.inf, device=images.device)
        for some in references.split(CHUNK) if len(references) else ():
            best = torch.minimum(best, _distances(found, some).amin(1))
        nearest.append(best)
    return torch.cat(nearest)


def aligned(images: Tensor) -> Tensor:
    """Coarse images [n, 256] -> windows [n, 9, 196] around their centre, the one that is not shifted first."""
    # Cubic: between the pixels of an image this small, linear interpolation would blur it.
    pixels = interpolate(
        images.float().view(-1, 1, SIDE, SIDE), size=PIXEL_SIDE, mode="bicubic", align_corners=False
    )
    return windows(pixels.flatten(1), SHIFTS_PX, (ZOOM,), POINTS)


def _distances(found: Tensor, references: Tensor) -> Tensor:
    """Windows [n, 9, 196] and [m, 196] -> [n, m]: at the best of the nine."""
    correlations = (found.flatten(0, 1) @ references.T).view(*found.shape[:2], len(references)).amax(1)
    return (2 - 2 * correlations).clamp_min(0).sqrt()
