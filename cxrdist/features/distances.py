"""Distances between two sets of images, from their features: FID, KID, precision, recall, density, coverage.

All functions take features [n, D] on any device and work in chunks: no n x m matrix of large n and m is allocated.

The tests compare with torchmetrics. It is not used here because its FID takes square roots of the eigenvalues of a
product of two covariances. With fewer images than dimensions, as is usual for rare classes, its error is 1e-6 of the
variance, with a sign and size that depend on the number of threads (-7e-4 for two identical sets of 300 in 480
dimensions; here -7e-12), and it is slower. Its KID allocates whole kernel matrices and needs sets of equal size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 512
"""Rows and columns of the block of a distance matrix that is allocated at a time."""


def frechet_distance(a: Tensor, b: Tensor) -> float | None:
    """FID (Heusel et al. 2017) between features a [n, D] and b [m, D]; None for fewer than two images.

    |mean a - mean b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), A and B the unbiased covariances. It is biased upwards,
    more so for fewer images: compare only values of equal numbers of images.
    """
    if min(len(a), len(b)) < 2:
        return None
    roots = []
    for features in (a.double(), b.double()):
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        # R of QR, [min(n, D), D]: R^T R is the covariance.
        roots.append(torch.linalg.qr(centred, mode="r")[1])
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    # With A = R^T R and B = S^T S, the eigenvalues of A B are the squared singular values of R S^T: this takes no
    # square root of a rounding error.
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    traces = roots[0].square().sum() + roots[1].square().sum()
    return max(0.0, float(means + traces - 2 * common))


def kernel_distance(a: Tensor, b: Tensor) -> float | None:
    """KID (Binkowski et al. 2018) between features a [n, D] and b [m, D]; None for fewer than two images.

    The unbiased MMD^2 with the kernel (x.y / D + 1)^3, in float64, over all images rather than subsets of them: its
    expectation does not depend on n and m, and it can be negative.
    """
    if min(len(a), len(b)) < 2:
        return None
    n, m = len(a), len(b)
    within = (_kernel_sum(a, a) - _kernel_diagonal(a)) / (n * (n - 1))
    within += (_kernel_sum(b, b) - _kernel_diagonal(b)) / (m * (m - 1))
    return within - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return sum(
        float(((x.double() @ y.double().T / a.shape[1] + 1) ** 3).sum())
        for x in a.split(CHUNK)
        for y in b.split(CHUNK)
    )


def _kernel_diagonal(a: Tensor) -> float:
    return float(((a.double().square().sum(1) / a.shape[1] + 1) ** 3).sum())


@dataclass(frozen=True)
class Manifolds:
    """Overlap of two sets, each represented by balls around its images whose radius is the distance to the k-th
    nearest neighbour in the same set."""

    precision: float
    """Fraction of generated images inside the ball of a real one."""
    recall: float
    """Fraction of real images inside the ball of a generated one."""
    density: float
    """Mean number of real balls that a generated image lies in, divided by k; it can exceed 1."""
    coverage: float
    """Fraction of real balls that contain a generated image."""


def manifolds(generated: Tensor, real: Tensor, k: int) -> Manifolds | None:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) of features
    generated [n, D] against real [m, D]; None if either set has fewer than k + 1 images.

    Balls are open, as in the reference code of Naeem et al.: for identical sets all four are 1.
    """
    if min(len(generated), len(real)) < k + 1:
        return None
    real_radii, generated_radii = neighbour_radii(real, k), neighbour_radii(generated, k)
    is_precise = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    is_recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    is_covered = torch.zeros_like(is_recalled)
    inside = 0
    for rows, x in _chunks(generated):
        for columns, y in _chunks(real):
            distances = exact_distances(x, y)
            in_real = distances < real_radii[columns]
            is_precise[rows] |= in_real.any(1)
            is_covered[columns] |= in_real.any(0)
            is_recalled[columns] |= (distances < generated_radii[rows, None]).any(0)
            inside += int(in_real.sum())
    return Manifolds(
        precision=float(is_precise.double().mean()),
        recall=float(is_recalled.double().mean()),
        density=inside / (k * len(generated)),
        coverage=float(is_covered.double().mean()),
    )


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """[n, D], n > k -> [n]: distance of each row to its k-th nearest neighbour among the others."""
    radii = []
    for x in features.split(CHUNK):
        nearest = torch.empty(len(x), 0, device=features.device, dtype=features.dtype)
        for y in features.split(CHUNK):
            found = torch.cat((nearest, exact_distances(x, y)), 1)
            nearest = found.topk(min(k + 1, found.shape[1]), largest=False).values
        radii.append(nearest[:, k])  # the first is the distance to itself, 0
    return torch.cat(radii)


def nearest(queries: Tensor, keys: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest of keys [m, D] for each of queries [n, D]: distances [n] and indices [n] int64.

    ``own`` [n] int64: the rows of the queries in ``keys``, which are excluded; m must then be 2 or more.
    """
    distances, indices = [], []
    for rows, x in _chunks(queries):
        wide = x.double()
        best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        where = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for columns, y in _chunks(keys):
            # Ten times faster than exact distances, and in float64 exact enough to find near-copies.
            squares = wide.square().sum(1)[:, None] + y.double().square().sum(1) - 2 * wide @ y.double().T
            if own is not None:
                places = own[rows] - columns.start
                here = (places >= 0) & (places < len(y))
                squares[here.nonzero()[:, 0], places[here]] = torch.inf
            found, place = squares.min(1)
            closer = found < best
            best[closer], where[closer] = found[closer], place[closer] + columns.start
        distances.append((x.double() - keys[where].double()).square().sum(1).sqrt())
        indices.append(where)
    return torch.cat(distances), torch.cat(indices)


def exact_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m] Euclidean distances; bitwise symmetric, and 0 between equal rows."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _chunks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(features), CHUNK):
        yield slice(start, start + CHUNK), features[start : start + CHUNK]
