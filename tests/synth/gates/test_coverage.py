"""Coverage of generators whose coverage is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrdist.synth.gates.coverage import MAX_REAL, coverage
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.gates.realism import NEIGHBOURS


def drawn(count: int, seed: int, at: float = 0.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(at, 1, (count, 8))).float()


def covered_by(generated: Tensor, real: Tensor) -> float:
    covered = coverage(generated, real, "A")
    assert covered is not None
    return covered


def of_perfect(generated: int, real: int) -> float:
    """A ball stays empty if the nearest k of all the others are real: for many, 1 - 2^-k."""
    others = real - 1
    return 1 - math.prod((others - i) / (others + generated - i) for i in range(NEIGHBOURS))


def test_as_many_images_of_the_same_distribution_cover_97_percent() -> None:
    assert of_perfect(256, 256) == pytest.approx(1 - 2**-NEIGHBOURS, abs=0.002)
    found = [covered_by(drawn(256, 2 * seed), drawn(256, 2 * seed + 1)) for seed in range(8)]
    assert np.mean(found) == pytest.approx(of_perfect(256, 256), abs=0.01)
    assert min(found) > 0.92


@pytest.mark.parametrize(("images", "most"), [(1, 0.06), (5, 0.2)])
def test_a_collapsed_generator_covers_almost_none(images: int, most: float) -> None:
    """An image lies in few balls: in k of them on average, and in k / 256 = 2 % of all."""
    found = [
        covered_by(drawn(images, 2 * seed).repeat(256, 1)[:256], drawn(256, 2 * seed + 1))
        for seed in range(8)
    ]
    assert np.mean(found) == pytest.approx(images * NEIGHBOURS / 256, abs=images * 0.01)
    assert max(found) < most


def test_half_of_the_modes_cover_half() -> None:
    real = torch.cat((drawn(128, 0), drawn(128, 1, at=50)))
    covered = coverage(drawn(256, 2), real, "A")
    assert covered == pytest.approx(of_perfect(256, 128) / 2, abs=0.01)


def test_images_that_are_not_like_any_cover_none() -> None:
    assert coverage(drawn(256, 0, at=50), drawn(256, 1), "A") == 0


def test_a_class_of_five_training_images_has_no_coverage() -> None:
    assert coverage(drawn(256, 0), drawn(NEIGHBOURS, 1), "A") is None
    assert coverage(drawn(256, 0), drawn(NEIGHBOURS + 1, 1), "A") is not None


def test_of_many_training_images_the_same_256_are_compared() -> None:
    generated, train = drawn(64, 0), drawn(2 * MAX_REAL, 1)
    covered = coverage(generated, train, "A")
    assert covered is not None and (covered * MAX_REAL) % 1 == 0
    assert coverage(generated, train, "A") == covered
    assert coverage(generated, train, "B") != covered


def test_real_validation_images_cover_the_training_images(judge: Judge, val: dict[str, np.ndarray]) -> None:
    found = []
    for name, images in val.items():
        features = judge.judge(name, images).features
        assert features is not None
        covered = judge.coverage(name, features)
        collapsed = judge.coverage(name, np.repeat(features[:1], 100, 0))
        assert covered is not None and collapsed is not None
        assert collapsed < 0.2 < covered
        found.append(covered)
    # Two studies of each patient: the nearest of some are not of the distribution of others.
    assert np.mean(found) == pytest.approx(of_perfect(100, 80), abs=0.05)
