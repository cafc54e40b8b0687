"""Thresholds by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist.synth.gates.thresholds import most_extreme, quantiles, rank_of, thresholds


def upto(count: int, start: int = 1) -> np.ndarray:
    """Shuffled, so that nothing rests on their order."""
    values = np.arange(start, start + count, dtype=np.float32)
    return np.random.default_rng(0).permutation(values)


@pytest.mark.parametrize(
    ("images", "percent", "rank"),
    [
        (99, 1, 1),
        (98, 1, 1),
        (199, 1, 2),
        (198, 1, 1),
        (100, 5, 5),
        (19, 5, 1),
        (3, 1, 1),
        (1, 50, 1),
        (3, 50, 2),
    ],
)
def test_the_rank_of_the_threshold(images: int, percent: float, rank: int) -> None:
    assert rank_of(images, percent) == rank


def test_the_threshold_is_the_kth_most_extreme_score() -> None:
    assert most_extreme(upto(199), 1, refuses_high=True) == 198
    assert most_extreme(upto(199), 1, refuses_high=False) == 2
    assert most_extreme(upto(3), 1, refuses_high=True) == 3


def test_a_class_keeps_its_own_threshold_from_five_images_beyond_it() -> None:
    limits = thresholds({"A": upto(499), "B": upto(498, 1000)}, 1, refuses_high=True)
    assert limits.pooled == {"B"}
    # A: the fifth highest of 1 to 499. B: the ninth highest of all 997, floor(9.98).
    assert dict(limits.of_class) == {"A": 495, "B": 1497 - 8}
    assert limits.expected_refusals("A") == 5 / 500
    assert limits.expected_refusals("B") == 9 / 998
    assert len(limits.real["A"]) == 499 and len(limits.real["B"]) == 997


def test_a_class_of_fewer_than_100_images_takes_the_threshold_of_all() -> None:
    scores = {"A": upto(100), "B": upto(99, 1000), "C": np.zeros(0, np.float32)}
    limits = thresholds(scores, 20, refuses_high=False)
    assert limits.pooled == {"B", "C"}
    # A: the 20th of 1 to 100, floor(20.2). The others: the 40th of all 199.
    assert dict(limits.of_class) == {"A": 20, "B": 40, "C": 40}


def test_scores_at_the_threshold_pass() -> None:
    high = thresholds({"A": upto(100)}, 5, refuses_high=True)
    assert high.of_class["A"] == 96
    assert high.admit("A", np.array([95, 96, 96.01, -1e30])).tolist() == [True, True, False, True]
    low = thresholds({"A": upto(100)}, 5, refuses_high=False)
    assert low.of_class["A"] == 5
    assert low.admit("A", np.array([4.99, 5, 6, 1e30])).tolist() == [False, True, True, True]


def test_of_the_calibration_images_k_minus_1_are_refused() -> None:
    scores = upto(100)
    limits = thresholds({"A": scores}, 5, refuses_high=True)
    assert (~limits.admit("A", scores)).sum() == 4


@pytest.mark.parametrize("refuses_high", [True, False])
def test_scores_that_are_no_finite_numbers_are_refused(refuses_high: bool) -> None:
    limits = thresholds({"A": upto(100)}, 5, refuses_high=refuses_high)
    bad = np.array([np.nan, np.inf, -np.inf, 50], np.float32)
    assert limits.admit("A", bad).tolist() == [False, False, False, True]


def test_a_threshold_is_not_below_the_least_one() -> None:
    limits = thresholds({"A": upto(100) / 100}, 5, refuses_high=True, at_least=1.5)
    assert limits.of_class["A"] == 1.5
    assert limits.expected_refusals("A") == 0
    higher = thresholds({"A": upto(100) / 10}, 5, refuses_high=True, at_least=1.5)
    assert higher.of_class["A"] == pytest.approx(9.6)


def test_the_share_refused_is_the_expected_one_over_many_draws() -> None:
    """Of normal scores; 2,000 calibrations on 100 and tests on 100: 5 / 101, deviation 0.0215 and 0.0217 of each."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        limits = thresholds({"A": draw.normal(size=100).astype(np.float32)}, 5, refuses_high=True)
        found.append(1 - limits.admit("A", draw.normal(size=100).astype(np.float32)).mean())
    assert np.mean(found) == pytest.approx(5 / 101, abs=3 * 0.031 / 2000**0.5)
    assert np.std(found) == pytest.approx(0.0306, abs=0.0015)


def test_quantiles_have_six_digits() -> None:
    assert quantiles(np.arange(101, dtype=np.float32)) == [5, 25, 50, 75, 95]
    assert quantiles(np.full(3, 1 / 3)) == [0.333333] * 5
