"""Test for memorization: the nearest training image of each generated one, and near copies.

A near copy is a generated image that is a training image up to a small shift, zoom or change of grey values.

The distance of two images is the root mean square difference of their grey values at 32 px, each standardised to mean
0 and deviation 1, which removes brightness and contrast; it is sqrt(2 - 2 r) of the correlation r. Compared are the
central 28 x 28 pixels of the training image and the best of 75 windows of the other image: 25 shifts of up to two
pixels (6 % of the side), each at three zooms.

What is compared with a threshold is the *relative* distance: that to the nearest training image over the mean of
those to the next five, of other patients than it. (Carlini et al. 2023 scale distances by those to neighbours, too.)
A copy is close to one training image; a blurred or average image is equally close to many, and is no copy.

An image is a near copy if its relative distance is at most that of the closest 5 % of the training images of its
class, each compared with those of other patients. So the threshold needs no held-out image, and the rate of real
images (the null rate) is about 5 %: held-out images show how far it is from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cxrdist.features.distances import CHUNK, nearest
from cxrdist.features.spaces import PIXEL_SIDE

PAIRS = 8
CLOSE_PERCENTILE = 1.0
WINDOW_PX = 28
SHIFTS_PX = (0, -1, 1, -2, 2)
"""In pixels of the 32 px space: up to 4 px of an image of 64 px, 16 px of one of 256 px."""
ZOOMS = (1.0, 0.95, 1.05)
NEIGHBOURS = 5
THRESHOLD_PERCENTILE = 5.0
QUERIES = 64
"""Images whose windows are held at a time."""
MAX_COMPARED = 500
"""Generated images of a class that are searched for near copies, and training images that the threshold rests on."""


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


# ---- near copies


def windows(
    pixels: Tensor,
    shifts: Sequence[float],
    zooms: Sequence[float],
    points: int = WINDOW_PX,
    *,
    mirrored: bool = False,
) -> Tensor:
    """Images [n, 1024] of the pixel space -> [n, zooms x shifts x shifts, points^2]: windows of 28 x 28 pixels around
    the centre, each sampled at ``points`` x ``points`` places, standardised and divided by ``points``, so that it has
    length 1. A window without contrast is 0. ``mirrored``: as many windows of the left-right mirror image follow."""
    images = pixels.view(-1, 1, PIXEL_SIDE, PIXEL_SIDE)
    places = [
        [[side * scale, 0, 2 * right / PIXEL_SIDE], [0, scale, 2 * down / PIXEL_SIDE]]
        for side in ((1, -1) if mirrored else (1,))
        for scale in (zoom * WINDOW_PX / PIXEL_SIDE for zoom in zooms)
        for down in shifts
        for right in shifts
    ]
    theta = torch.tensor(places, dtype=pixels.dtype, device=pixels.device)
    grid = affine_grid(theta, [len(places), 1, points, points], align_corners=False)
    # All windows below each other in one picture: one call samples them all.
    grid = grid.reshape(1, -1, points, 2).expand(len(images), -1, -1, -1)
    found = grid_sample(images, grid, padding_mode="border", align_corners=False)
    return unit_length(found.view(len(images), len(places), points**2))


def unit_length(values: Tensor) -> Tensor:
    """[..., D] -> the same with mean 0 and length 1 along D: products are correlations. 0 without contrast."""
    values = values - values.mean(-1, keepdim=True)
    return values / values.norm(dim=-1, keepdim=True).clamp_min(1e-4)


def aligned_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Images [n, 1024] and [m, 1024] -> [n, m]: distance of each key to the best window of each query."""
    references = windows(keys, (0,), (1.0,))[:, 0]
    rows = []
    for some in queries.split(QUERIES):
        found = windows(some, SHIFTS_PX, ZOOMS)  # [q, windows, 784]
        best = [
            (found.flatten(0, 1) @ part.T).view(*found.shape[:2], -1).amax(1)
            for part in references.split(CHUNK)
        ]
        rows.append(torch.cat(best, 1))
    return (2 - 2 * torch.cat(rows).clamp_max(1)).sqrt()


@dataclass(frozen=True)
class Relative:
    """The nearest training images of n images."""

    distances: Tensor
    """[n] to the nearest one, over the mean of those to its next neighbours; inf if there are none."""
    where: Tensor
    """[n] int64: index of the nearest one."""


def relative_distances(distances: Tensor, patients: Tensor, own: Tensor | None = None) -> Relative:
    """From distances [n, m] to training images of patients [m] int64, or of other ones for each image, [n, m].

    ``own`` [n] int64: patients of the n images, which are not compared with training images of their own patient.
    """
    patients = patients.expand(distances.shape)
    if own is not None:
        distances = distances.masked_fill(own[:, None] == patients, torch.inf)
    nearest, where = distances.min(1)
    others = distances.masked_fill(patients.gather(1, where[:, None]) == patients, torch.inf)
    next_ones = others.topk(min(NEIGHBOURS, patients.shape[1]), largest=False).values
    typical = next_ones.where(next_ones.isfinite(), torch.nan).nanmean(1)  # nan without another patient
    return Relative((nearest / typical).nan_to_num(nan=torch.inf, posinf=torch.inf), where)


@dataclass(frozen=True)
class TrainImages:
    """The training images of a class, and the relative distance up to which another image is a near copy of one."""

    pixels: Tensor
    """[m, 1024]."""
    patients: Tensor
    """[m] int64."""
    threshold: float | None
    """None for a class of fewer than three patients."""

    @staticmethod
    def of(pixels: Tensor, patients: Tensor, sample: Tensor) -> TrainImages:
        """``pixels`` [m, 1024] in the space of ``spaces.pixel_space``; ``patients`` [m] int64: of each image;
        ``sample`` [s] int64: images in random order, of which the first 500 determine the threshold."""
        some = sample[:MAX_COMPARED]
        found = relative_distances(aligned_distances(pixels[some], pixels), patients, patients[some])
        known = found.distances[found.distances.isfinite()]
        threshold = float(torch.quantile(known, THRESHOLD_PERCENTILE / 100)) if len(known) else None
        return TrainImages(pixels, patients, threshold)

    def nearest(self, pixels: Tensor) -> Relative:
        """Of the first 500 of images [n, 1024]: relative distance to the nearest training image, and its index."""
        return relative_distances(aligned_distances(pixels[:MAX_COMPARED], self.pixels), self.patients)

    def near_copies(self, pixels: Tensor) -> Tensor | None:
        """Which of the first 500 of images [n, 1024] are near copies, [min(n, 500)] bool; None without a
        threshold."""
        return None if self.threshold is None else self.nearest(pixels).distances <= self.threshold


def rounded(value: float | None) -> float | None:
    """To six digits, since further ones depend on the number of threads."""
    return None if value is None else float(f"{value:.6g}")
