"""Distances between sets of features, against brute force, torchmetrics, and values known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from cxrdist.features import distances
from cxrdist.features.distances import (
    Manifolds,
    frechet_distance,
    kernel_distance,
    manifolds,
    nearest,
    neighbour_radii,
)


def drawn(n: int, dims: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tiny sets, too, are more than one chunk, the last one short."""
    monkeypatch.setattr(distances, "CHUNK", 7)


class Ready(nn.Module):
    num_features = 4

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_fid_is_that_of_torchmetrics() -> None:
    a, b = drawn(40, 4, 0).double(), drawn(30, 4, 1, 0.5).double() * torch.tensor([1, 2, 0.5, 1])
    metric = FrechetInceptionDistance(feature=Ready())
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-9)


def test_fid_of_known_means_and_variances() -> None:
    """In one dimension it is (difference of means)^2 + (difference of standard deviations)^2."""
    a = torch.tensor([[-1.0], [1.0]])  # mean 0, variance 2
    b = torch.tensor([[1.0], [5.0]])  # mean 3, variance 8
    assert frechet_distance(a, b) == pytest.approx(9 + 2)


def test_fid_of_fewer_images_than_dimensions() -> None:
    a = drawn(5, 30, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 30, rel=1e-5)


def test_kid_is_that_of_torchmetrics_and_of_a_double_loop() -> None:
    a, b = drawn(16, 5, 0).double(), drawn(16, 5, 1, 0.3).double()
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-12)
    b = b[:9]

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    looped = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / (16 * 15)
    looped += sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / (9 * 8)
    looped -= 2 * sum(kernel(x, y) for x in a for y in b) / (16 * 9)
    assert kernel_distance(a, b) == pytest.approx(looped, rel=1e-12)


def brute(generated: Tensor, real: Tensor, k: int) -> Manifolds:
    def distance(x: Tensor, y: Tensor) -> float:
        return float((x - y).norm())

    def radii(points: Tensor) -> list[float]:
        return [sorted(distance(x, y) for y in points)[k] for x in points]

    around_real, around_generated = radii(real), radii(generated)
    inside = [[distance(g, r) < around_real[j] for j, r in enumerate(real)] for g in generated]
    recalled = [any(distance(g, r) < around_generated[i] for i, g in enumerate(generated)) for r in real]
    return Manifolds(
        precision=sum(map(any, inside)) / len(generated),
        recall=sum(recalled) / len(real),
        density=sum(map(sum, inside)) / (k * len(generated)),
        coverage=sum(map(any, zip(*inside))) / len(real),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_density_coverage_are_those_of_brute_force(k: int) -> None:
    generated, real = drawn(23, 3, 0, 0.7), drawn(17, 3, 1)
    found, expected = manifolds(generated, real, k), brute(generated, real, k)
    assert found == expected
    assert 0 < expected.precision < 1 and 0 < expected.recall < 1 and 0 < expected.coverage < 1


def test_on_a_line_by_hand() -> None:
    """Real 0, 1, 3 reach to 1, 1, 2 with k = 1: (-1, 1), (0, 2), (1, 5). Generated 0.5, 6 reach 5.5 each."""
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [6.0]])
    assert neighbour_radii(real, 1).tolist() == [1, 1, 2]
    assert manifolds(generated, real, 1) == Manifolds(precision=0.5, recall=1.0, density=1.0, coverage=2 / 3)


def test_of_identical_sets_all_four_are_one() -> None:
    features = drawn(30, 6, 0)
    assert manifolds(features, features.clone(), 5) == Manifolds(
        precision=1.0, recall=1.0, density=1.0, coverage=1.0
    )


def test_of_sets_far_apart_all_four_are_zero() -> None:
    assert manifolds(drawn(10, 4, 0), drawn(12, 4, 1, 100), 3) == Manifolds(
        precision=0.0, recall=0.0, density=0.0, coverage=0.0
    )


def test_sets_that_are_too_small_have_no_figures() -> None:
    one, five, six = drawn(1, 3, 0), drawn(5, 3, 0), drawn(6, 3, 1)
    assert frechet_distance(one, six) is None and kernel_distance(six, one) is None
    assert manifolds(five, six, 5) is None and manifolds(six, five, 5) is None
    assert manifolds(six, six, 5) is not None


def test_the_nearest_key_and_its_distance() -> None:
    queries, keys = drawn(19, 4, 0), drawn(23, 4, 1)
    keys[20] = queries[11]
    found, where = nearest(queries, keys)
    expected = [[float((q - key).norm()) for key in keys] for q in queries]
    assert where.tolist() == [row.index(min(row)) for row in expected]
    assert found.tolist() == pytest.approx([min(row) for row in expected], rel=1e-6)
    assert (float(found[11]), int(where[11])) == (0.0, 20)


def test_the_nearest_other_image_of_the_same_set() -> None:
    keys = drawn(23, 4, 1)
    own = torch.tensor([2, 9, 22, 7])
    found, where = nearest(keys[own], keys, own)
    for place, distance, index in zip(own.tolist(), found.tolist(), where.tolist()):
        others = [(float((keys[place] - key).norm()), i) for i, key in enumerate(keys) if i != place]
        assert (pytest.approx(distance, rel=1e-6), index) == min(others)
