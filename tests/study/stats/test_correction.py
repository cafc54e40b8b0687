"""Adjusted p values and simultaneous intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cxrdist.study.stats.correction import correct, holm
from cxrdist.study.stats.differences import Outcome, compare


def test_holm_by_hand() -> None:
    # Sorted: 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; none may be below an earlier one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_a_comparison_without_p_counts_as_one_of_the_family() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_what_holms_procedure_rejects_step_by_step_has_an_adjusted_p_up_to_alpha(
    p_values: list[float], alpha: float
) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - step) > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p is not None and p <= alpha} == rejected


def test_intervals_are_simultaneous() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (4, 6, 1))
    arms = ("DS1", "A", "B", "C")
    found = compare(Outcome("accuracy"), values, arms, [(arm, "DS1") for arm in "ABC"])
    for before, after in zip(found, correct(found, alpha=0.05)):
        assert before.mean is not None and before.standard_error is not None and after.interval is not None
        assert after.comparison is before
        assert (after.family, after.confidence) == (3, pytest.approx(1 - 0.05 / 3))
        reach = stats.t.ppf(1 - 0.05 / 6, 5) * before.standard_error
        assert after.interval == pytest.approx((before.mean - reach, before.mean + reach))
        # Bonferroni's interval excludes 0 only if Bonferroni's p, and so Holm's, is below alpha.
        assert before.p is not None and after.p is not None
        assert (after.interval[0] > 0 or after.interval[1] < 0) == (3 * before.p < 0.05)
        assert after.p <= min(1, 3 * before.p) + 1e-12


def test_a_comparison_without_interval_has_none_corrected() -> None:
    found = compare(Outcome("accuracy"), np.array([[[0.5]], [[0.6]]]), ("DS1", "A"), [("A", "DS1")])
    (corrected,) = correct(found)
    assert (corrected.interval, corrected.p) == (None, None)
    assert correct([]) == []


def test_families_share_alpha() -> None:
    """A family with half of alpha: intervals at 1 - 0.025 / size, and p values that are compared with alpha."""
    values = np.random.default_rng(1).normal(0.5, 0.1, (3, 5, 1))
    found = compare(Outcome("accuracy"), values, ("DS1", "A", "B"), [(arm, "DS1") for arm in "AB"])
    one, half = correct(found), correct(found, part=0.5)
    for whole, part in zip(one, half, strict=True):
        assert part.family == whole.family
        assert part.confidence == pytest.approx(1 - 0.025 / part.family)
        assert part.interval == part.comparison.interval(part.confidence)
        assert whole.p is not None and part.p == pytest.approx(min(1.0, 2 * whole.p))
