"""How far two sets of images are apart, from their features: FID, KID, precision, recall, density and coverage.

Everything takes features [n, D], on any device, and works in chunks: no n x m matrix of large n and m is ever held.

torchmetrics is what the tests compare with. Its FID takes the square roots of the eigenvalues of a product of two
covariances. With fewer images than dimensions, the rule for rare classes, that is off by 1e-6 of the variance, with
another sign and size on another number of threads (-7e-4 for two identical sets of 300 in 480 dimensions; here it is
-7e-12), and slower. Its KID holds whole kernel matrices, and needs two sets of one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 512
"""Rows, and columns, of a matrix of distances that are held at a time."""


def frechet_distance(a: Tensor, b: Tensor) -> float | None:
    """FID (Heusel et al. 2017) between features a [n, D] and b [m, D]; None for fewer than two images.

    |mean a - mean b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), A and B the unbiased covariances. It is biased upwards,
    the more the fewer images: compare it only with another of as many images.
    """
    if min(len(a), len(b)) < 2:
        return None
    roots = []
    for features in (a.double(), b.double()):
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        # R of QR, [min(n, D), D]: R^T R is the covariance.
        roots.append(torch.linalg.qr(centred, mode="r")[1])
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    # With A = R^T R and B = S^T S, the eigenvalues of A B are the squared singular values of R S^T: no square root
    # of a rounding error is ever taken.
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
    """How two sets overlap, each image standing for the ball around it that reaches its k-th nearest neighbour in its
    own set."""

    precision: float
    """Share of generated images in the ball of a real one."""
    recall: float
    """Share of real images in the ball of a generated one."""
    density: float
    """How many real balls a generated image lies in, over k; it can exceed 1."""
    coverage: float
    """Share of real balls that hold a generated image."""


def manifolds(generated: Tensor, real: Tensor, k: int) -> Manifolds | None:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) of features
    generated [n, D] against real [m, D]; None where either set has no k-th neighbour (fewer than k + 1 images).

    A ball is open, as in the reference code of Naeem et al.: for identical sets all four are 1.
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
    """[n, D], n > k -> [n]: the distance of each to its k-th nearest neighbour among the others."""
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

    ``own`` [n] int64: where the queries stand among the keys, not to be found there; m must then be 2 or more.
    """
    distances, indices = [], []
    for rows, x in _chunks(queries):
        wide = x.double()
        best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        where = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for columns, y in _chunks(keys):
            # Ten times faster than exact distances; in float64 near-copies still stand out.
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
    """[n, D], [m, D] -> [n, m] Euclidean; an image's distance to itself is 0, and x to y is y to x, to the bit."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _chunks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(features), CHUNK):
        yield slice(start, start + CHUNK), features[start : start + CHUNK]
