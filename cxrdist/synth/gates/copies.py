"""The gate of copies: not a training image up to a small shift, zoom or change of grey values, nor its mirror image.

The score is the relative distance of cxrdist.features.memorization: to the nearest training image, of any class, at
the best of 486 alignments, over the mean of those to the next five images of other patients. A copy is close to one
training image alone; a blurred image is equally close to many. The threshold is the 1st percentile of the validation
images, which are of other patients than the training images: as close as that are real images of two people, by
chance. The share of generated images below it is the copy rate, that of validation images its null rate.

The alignments are 81 shifts of up to two pixels of the 32 px space in steps of half a pixel, at three zooms, of the
image and of its mirror image: a GAN that saw flipped images draws flipped copies. Images are smoothed over 3 x 3
pixels and compared at 14 x 14 points: halfway between two steps, fine detail would make a copy a stranger.

Only the 64 training images are aligned that are nearest at 7 x 7 points, at the best of 18 alignments: with one
alignment, a shift of 3 px of 64 would rank the source of a copy behind half of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from cxrdist.features.memorization import QUERIES, ZOOMS, relative_distances, unit_length, windows
from cxrdist.features.spaces import PIXEL_SIDE, PIXELS

NAME = "copy"
SHIFTS_PX = tuple(step / 2 for step in range(-4, 5))
COARSE_SHIFTS_PX = (-1.5, 0, 1.5)
POINTS = 14
"""A point every two pixels of the 32 px space."""
ALIGNED = 64
CHUNK = 8192
"""Training images whose coarse versions are compared at a time."""


def smooth(pixels: Tensor) -> Tensor:
    """Images [n, 1024] of the pixel space -> the same, each pixel the mean of 3 x 3."""
    images = pixels.view(-1, 1, PIXEL_SIDE, PIXEL_SIDE)
    return avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1).flatten(1)


def coarse(pixels: Tensor) -> Tensor:
    """Images [n, 1024] of the pixel space -> [n, 256] at 16 px, each with mean 0 and length 1; 0 without contrast.
    Smoothed so far that an image between its pixels can be interpolated."""
    images = smooth(smooth(pixels)).view(-1, 1, PIXEL_SIDE, PIXEL_SIDE)
    return unit_length(avg_pool2d(images, 2).flatten(1))


def halved(found: Tensor) -> Tensor:
    """Windows [..., 196] -> [..., 49], every 2 x 2 points averaged."""
    images = found.reshape(-1, 1, POINTS, POINTS)
    return unit_length(avg_pool2d(images, 2).view(*found.shape[:-1], POINTS**2 // 4))


@dataclass(frozen=True)
class TrainImages:
    """All real training images, of all classes and of none."""

    references: Tensor
    """[m, 196]."""
    coarse: Tensor
    """[m, 49]."""
    patients: Tensor
    """[m] int64."""

    @staticmethod
    def of(pixels: Tensor, patients: Tensor) -> TrainImages:
        """``pixels`` [m, 1024], ``patients`` [m] int64."""
        references = windows(smooth(pixels), (0,), (1.0,), POINTS)[:, 0]
        return TrainImages(references, halved(references), patients)

    def relative_distances(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Images [n, 1024] -> the relative distance to the nearest training image [n] float32, and its index [n]."""
        parts = [self._of_some(part) for part in pixels.split(QUERIES)]
        return torch.cat([distances for distances, _ in parts]), torch.cat([where for _, where in parts])

    def _of_some(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = smooth(pixels)
        near = self._nearest(
            halved(windows(images, COARSE_SHIFTS_PX, (1.0,), POINTS, mirrored=True))
        )  # [n, k]
        found = windows(images, SHIFTS_PX, ZOOMS, POINTS, mirrored=True)  # [n, 486, 196]
        correlations = torch.bmm(found, self.references[near].transpose(1, 2)).amax(1)  # [n, k]
        distances = (2 - 2 * correlations.clamp_max(1)).sqrt()
        relative = relative_distances(distances, self.patients[near])
        return relative.distances, near.gather(1, relative.where[:, None])[:, 0]

    def _nearest(self, queries: Tensor) -> Tensor:
        """Windows [n, w, 49] -> [n, k] int64: the training images most correlated with any, the best first."""
        best = torch.empty(len(queries), 0, device=queries.device)
        where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.coarse), CHUNK):
            products = queries.flatten(0, 1) @ self.coarse[start : start + CHUNK].T
            part = products.view(*queries.shape[:2], -1).amax(1)
            places = torch.arange(start, start + part.shape[1], device=queries.device).expand_as(part)
            best, where = torch.cat((best, part), 1), torch.cat((where, places), 1)
            best, order = best.topk(min(ALIGNED, best.shape[1]), dim=1)
            where = where.gather(1, order)
        return where


class CopyGate:
    """See the module."""

    name = NAME
    refuses_high = False
    at_least = None

    def __init__(self, train: TrainImages) -> None:
        self.train = train

    def scores(self, class_name: str, seen: Mapping[str, Tensor]) -> Tensor:
        """Images [n, 1024] under ``PIXELS`` -> [n] float32. An image without contrast is no copy."""
        return self.train.relative_distances(seen[PIXELS])[0].nan_to_num(posinf=1e6)
