"""Statistics of a reading: published examples, other implementations, and values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from cxrdist.synth.review.statistics import (
    Figure,
    Quartiles,
    as_json,
    brier,
    calibration_error,
    cohen_kappa,
    fleiss_kappa,
    quartiles,
    roc_auc,
    share,
    stated,
)


# Newcombe 1998, Statist. Med. 17: 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_wilsons_interval(count: int, n: int, low: float, high: float) -> None:
    found = share(count, n)
    assert (found.n, found.count, found.value, found.why) == (n, count, count / n, None)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_share_of_nothing_has_a_reason() -> None:
    assert share(0, 0, "no real images") == Figure(n=0, count=0, why="no real images")


def test_quartiles_lie_between_values() -> None:
    assert quartiles([5, 1, 2, 10]) == Quartiles(n=4, q25=1.75, median=3.5, q75=6.25)
    assert quartiles([]) == Quartiles(n=0)


# ---- agreement


def answers(table: Sequence[Sequence[int]]) -> tuple[list[str], list[str]]:
    """Two readers' answers from a table: rows are the first reader's, columns the second's."""
    pairs = [
        (str(i), str(j)) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_cohens_kappa_of_a_table_by_hand() -> None:
    # Observed (20 + 15) / 50 = 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    found = cohen_kappa(*answers([[20, 5], [10, 15]]))
    assert (found.n, found.why) == (50, None)
    assert found.value == pytest.approx(0.4, abs=1e-12)


@pytest.mark.parametrize("categories", [2, 3])
def test_cohens_kappa_is_that_of_scikit_learn(categories: int) -> None:
    rng = np.random.default_rng(categories)
    a = rng.integers(categories, size=60).astype(str).tolist()
    b = [x if keep else "0" for x, keep in zip(a, rng.random(60) < 0.6)]
    assert cohen_kappa(a, b).value == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_the_interval_is_that_of_resampled_images() -> None:
    """Against a bootstrap that draws images one by one, with scikit-learn's kappa."""
    a, b = answers([[20, 5], [10, 15]])
    found, rng = cohen_kappa(a, b), np.random.default_rng(1)
    drawn = [rng.integers(50, size=50) for _ in range(2000)]
    kappas = [cohen_kappa_score([a[i] for i in some], [b[i] for i in some]) for some in drawn]
    assert (found.low, found.high) == (
        pytest.approx(np.quantile(kappas, 0.025), abs=0.03),
        pytest.approx(np.quantile(kappas, 0.975), abs=0.03),
    )
    assert cohen_kappa(a, b) == found  # the seed is fixed


@pytest.mark.parametrize("of", ["cohen", "fleiss"])
def test_kappa_that_cannot_be_computed_has_a_reason(of: str) -> None:
    def kappa(first: list[str], second: list[str]) -> Figure:
        return cohen_kappa(first, second) if of == "cohen" else fleiss_kappa([*zip(first, second)])

    assert kappa([], []) == Figure(n=0, why="no image in common")
    assert kappa(["keep"] * 9, ["keep"] * 9) == Figure(n=9, why="all answers are the same")
    alike = "no interval: all resamples have the same value"
    assert kappa(["real", "synthetic"] * 4, ["real", "synthetic"] * 4) == Figure(n=8, value=1.0, why=alike)
    assert kappa(["real"], ["synthetic"]).why == alike
    rare = kappa(["real"] + ["synthetic"] * 99, ["real"] + ["synthetic"] * 99)
    assert (rare.value, rare.low, rare.why) == (1.0, None, alike)


# Fleiss 1971, Psychol. Bull. 76: 378-382, table 1: 30 patients, 6 psychiatrists, 5 diagnoses. Kappa is 0.430.
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
# Wikipedia, "Fleiss' kappa", worked example: 10 subjects, 14 raters, 5 categories. Kappa is 0.210.
WIKIPEDIA = [
    *((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1)),
    *((7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)),
]


@pytest.mark.parametrize(
    ("votes", "kappa"),
    [([tuple(map(int, row)) for row in FLEISS_1971.split()], 0.430), (WIKIPEDIA, 0.210)],
)
def test_fleiss_kappa_of_published_examples(votes: list[tuple[int, ...]], kappa: float) -> None:
    rows = [[name for name, count in zip("abcde", row) for _ in range(count)] for row in votes]
    found = fleiss_kappa(rows)
    assert found.n == len(votes)
    assert found.value == pytest.approx(kappa, abs=5e-4)
    assert found.low is not None and found.high is not None and found.low < kappa < found.high


def test_fleiss_kappa_of_two_readers_is_scotts_pi() -> None:
    # Observed 35/50; shares of all 100 answers 55 and 45: chance 0.55^2 + 0.45^2 = 0.505.
    found = fleiss_kappa([*zip(*answers([[20, 5], [10, 15]]))])
    assert found.value == pytest.approx((0.7 - 0.505) / (1 - 0.505), abs=1e-12)


# ---- calibration


def test_confidences_stand_for_probabilities() -> None:
    assert [stated(c) for c in (1, 2, 3, 4, 5)] == [0.5, 0.625, 0.75, 0.875, 1.0]


def test_brier_score_and_calibration_error_by_hand() -> None:
    confidences, is_right = [1, 1, 3, 5, 5, 5, 5], [True, False, True, True, True, True, False]
    # 0.25 twice; 0.0625; 0 three times and 1.
    assert brier(confidences, is_right) == pytest.approx((0.5 + 0.0625 + 1) / 7, abs=1e-12)
    # 1: 1/2 right, stated 0.5; 3: all right, stated 0.75; 5: 3/4 right, stated 1.
    assert calibration_error(confidences, is_right) == pytest.approx((0 + 0.25 + 4 * 0.25) / 7, abs=1e-12)
    assert brier([1, 1], [True, False]) == 0.25
    assert (brier([], []), calibration_error([], [])) == (None, None)


# ---- ranks


def test_auc_counts_pairs_and_half_of_ties() -> None:
    # Of 2 x 3 pairs: 3 > 1, 3 > 2, 3 = 3, 1 = 1.
    found = roc_auc([3, 1], [1, 2, 3])
    assert (found.n, found.value) == (5, pytest.approx((2 + 0.5 + 0.5) / 6, abs=1e-12))
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(10, size=40), rng.random(40) < 0.3
    ours = roc_auc(scores[labels].tolist(), scores[~labels].tolist())
    assert ours.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_ends_of_the_interval_of_an_auc_are_z_standard_errors_away() -> None:
    m, n = 4, 6
    found = roc_auc([5, 6, 7, 1], [2, 3, 4, 5.5, 0, 1.5])
    assert found.value == pytest.approx(18 / 24)
    for end in (found.low, found.high):
        assert end is not None
        # Newcombe 2006: the variance of Hanley and McNeil at the end, with (m + n) / 2 - 1 for m - 1 and n - 1.
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + 4 * (q1 - end**2) + 4 * (q2 - end**2)) / (m * n)
        assert abs(18 / 24 - end) / math.sqrt(variance) == pytest.approx(1.959964, abs=1e-5)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < 0.75 < found.high < 1


def test_an_auc_of_one_has_an_interval() -> None:
    top, bottom = roc_auc([4, 5], [1, 2]), roc_auc([1, 2], [4, 5])
    assert (top.value, top.high, bottom.value, bottom.low) == (1.0, 1.0, 0.0, 0.0)
    assert top.low is not None and bottom.high is not None
    # (1 - t) = z^2 t (1 + (1 - t) / (2 - t) + t / (1 + t)) / 4
    t = top.low
    assert 1 - t == pytest.approx(3.841459 * t * (1 + (1 - t) / (2 - t) + t / (1 + t)) / 4, abs=1e-5)
    assert bottom.high == pytest.approx(1 - top.low, abs=1e-9)


def test_an_auc_of_one_side_has_a_reason() -> None:
    assert roc_auc([], [1.0]) == Figure(n=1, why="none removed")
    assert roc_auc([1.0, 2.0], []) == Figure(n=2, why="none kept")


def test_json_has_six_digits() -> None:
    found = as_json(Figure(n=3, count=1, value=1 / 3, why=None))
    assert found == {"n": 3, "count": 1, "value": 0.333333, "low": None, "high": None, "why": None}
