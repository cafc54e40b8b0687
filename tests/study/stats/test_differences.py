"""Paired differences between arms, and their intervals between runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cxrdist.study.stats.differences import Comparison, Outcome, Pair, compare

RECALL = Outcome("recall", "Pneumothorax")
NAN = math.nan


def one(values: list[list[list[float]]], **options: float) -> Comparison:
    """The first arm against the second."""
    (comparison,) = compare(RECALL, np.array(values), ("DS3", "DS1"), [("DS3", "DS1")], **options)
    return comparison


def test_one_fold_is_the_ordinary_paired_t_test_over_seeds() -> None:
    a, b = [0.72, 0.75, 0.71, 0.74], [0.70, 0.70, 0.70, 0.71]
    found = one([[a], [b]])
    assert [round(pair.difference, 9) for pair in found.pairs] == [0.02, 0.05, 0.01, 0.03]
    assert [(pair.fold, pair.seed) for pair in found.pairs] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(0.0275)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx((low, high))
    # By hand: deviations -0.0075, 0.0225, -0.0175, 0.0025, whose squares sum to 0.000875; t(3, 0.975) = 3.182446.
    assert found.standard_error == pytest.approx(math.sqrt(0.000875 / 3 / 4))
    assert found.interval() == pytest.approx(
        (0.0275 - 3.182446 * 0.00853913, 0.0275 + 3.182446 * 0.00853913), abs=1e-7
    )
    assert (found.degrees, found.reason) == (3, None)


def test_folds_are_corrected_after_nadeau_and_bengio() -> None:
    differences = [0.01, 0.03, 0.02, 0.06, 0.03]
    found = one([[[d + 0.5] for d in differences], [[0.5]] * 5])
    # Five folds: three of them are train, so test / train is 1 / 3. By hand: the mean is 0.03, the squared deviations
    # sum to 0.0014, the variance is 0.00035, and (1 / 5 + 1 / 3) times that is 0.000186667; t(4, 0.975) = 2.776445.
    assert found.mean == pytest.approx(0.03)
    assert found.standard_error == pytest.approx(math.sqrt(0.00035 * (1 / 5 + 1 / 3)))
    assert found.standard_error == pytest.approx(0.01366260)
    assert found.interval() == pytest.approx((0.03 - 0.0379335, 0.03 + 0.0379335), abs=1e-7)
    assert found.p == pytest.approx(2 * stats.t.sf(0.03 / 0.01366260, 4))
    assert found.degrees == 4
    wider, narrower = found.interval(0.99), found.interval(0.9)
    assert wider is not None and narrower is not None
    assert wider[1] - 0.03 == pytest.approx(4.604095 * 0.01366260, abs=1e-6)
    assert narrower[1] - 0.03 == pytest.approx(2.131847 * 0.01366260, abs=1e-6)


def test_the_ratio_of_test_to_train_may_be_given() -> None:
    values = [[[0.51], [0.53], [0.52]], [[0.5]] * 3]
    assert one(values, test_to_train=0.0).standard_error == pytest.approx(math.sqrt(0.0001 / 3))
    assert one(values, test_to_train=0.25).standard_error == pytest.approx(math.sqrt(0.0001 * (1 / 3 + 0.25)))
    assert one(values).standard_error == pytest.approx(math.sqrt(0.0001 * (1 / 3 + 1)))
    two = [[[0.51], [0.53]], [[0.5]] * 2]
    with pytest.raises(ValueError, match="two folds: test_to_train must be given"):
        one(two)
    assert one(two, test_to_train=1.0).standard_error == pytest.approx(math.sqrt(0.0002 * 1.5))


def test_the_seeds_of_a_fold_count_once() -> None:
    by_fold = [[0.00, 0.02], [0.02, 0.04], [0.05, 0.03], [0.04, 0.08]]
    found = one([[[d + 0.5 for d in row] for row in by_fold], [[0.5, 0.5]] * 4])
    means = one([[[sum(row) / 2 + 0.5] for row in by_fold], [[0.5]] * 4])
    assert len(found.pairs) == 8
    assert (found.mean, found.standard_error, found.degrees) == pytest.approx(
        (means.mean, means.standard_error, 3)
    )


def test_missing_runs_are_left_out_in_pairs() -> None:
    a = [[0.6, NAN], [0.7, 0.8], [NAN, NAN], [0.5, 0.9]]
    b = [[0.5, 0.5], [0.5, 0.7], [0.5, 0.5], [NAN, 0.6]]
    found = one([a, b])
    assert [(pair.fold, pair.seed) for pair in found.pairs] == [(0, 0), (1, 0), (1, 1), (3, 1)]
    assert found.mean == pytest.approx((0.1 + 0.15 + 0.3) / 3)
    # Dealt into four folds, of which three have runs: two of four are train, whatever is missing.
    variance = np.var([0.1, 0.15, 0.3], ddof=1)
    assert found.standard_error == pytest.approx(math.sqrt(variance * (1 / 3 + 1 / 2)))


def test_the_only_fold_with_runs_is_compared_over_its_seeds() -> None:
    found = one([[[NAN] * 3, [0.6, 0.7, 0.6], [NAN] * 3], [[0.5] * 3] * 3])
    assert found.interval() == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.1], 0).confidence_interval(0.95))


@pytest.mark.parametrize(
    ("values", "mean", "reason"),
    [
        (
            [[[0.6]], [[0.5]]],
            0.1,
            "one fold and one seed: nothing shows how much results vary between runs",
        ),
        ([[[0.6, NAN]], [[NAN, 0.5]]], None, "no fold and seed has a run of both arms"),
        (
            [[[0.6, 0.7]], [[0.5, 0.6]]],
            0.1,
            "all 2 differences are equal: how much results vary between runs is unknown",
        ),
        (
            [[[0.5]] * 3, [[0.5]] * 3],
            0.0,
            "all 3 differences are equal: how much results vary between runs is unknown",
        ),
    ],
)
def test_without_a_spread_there_is_no_interval_but_a_reason(
    values: list[list[list[float]]], mean: float | None, reason: str
) -> None:
    found = one(values)
    assert found.mean == (None if mean is None else pytest.approx(mean))
    assert (found.interval(), found.p, found.standard_error, found.degrees) == (None,) * 4
    assert found.reason == reason


def test_each_pair_of_arms_is_compared_in_order() -> None:
    values = np.array([[[0.5, 0.6]], [[0.7, 0.9]], [[0.6, 0.6]]])
    found = compare(RECALL, values, ("DS1", "DS3", "weighted"), [("DS3", "weighted"), ("DS3", "DS1")])
    assert [(c.arm, c.reference) for c in found] == [("DS3", "weighted"), ("DS3", "DS1")]
    assert [c.mean for c in found] == pytest.approx([0.2, 0.25])
    assert found[1].outcome == RECALL
    assert found[1].pairs == (Pair(0, 0, 0.7 - 0.5), Pair(0, 1, 0.9 - 0.6))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown arms: DS9"):
        compare(RECALL, np.zeros((2, 1, 3)), ("DS1", "DS3"), [("DS9", "DS1")])
    with pytest.raises(ValueError, match=r"shape \(3, 1, 3\): must be \[2 arms, folds, seeds\]"):
        compare(RECALL, np.zeros((3, 1, 3)), ("DS1", "DS3"), [("DS3", "DS1")])
