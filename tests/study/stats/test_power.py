"""What a planned study can show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from cxrdist.study.stats.correction import correct
from cxrdist.study.stats.differences import Outcome, compare
from cxrdist.study.stats.power import Design, Spread, patients_needed, seeds_needed, smallest_difference

NONE = Spread(seed_sd=0.0)
STUDIES = 2000


def power_of_t(shift: float, critical: float, degrees: int) -> float:
    """The chance that (a standard normal + ``shift``) / sqrt(chi2 / degrees) exceeds ``critical``, by integration."""
    value, _ = integrate.quad(
        lambda s: (
            stats.norm.sf(critical * s - shift) * 2 * s * degrees * stats.chi2.pdf(s * s * degrees, degrees)
        ),
        0,
        math.inf,
    )
    return float(value)


def test_test_patients_alone_are_the_textbook_formula_of_two_proportions() -> None:
    # Many seeds of one fold without spread: (1.959964 + 0.841621) * sqrt(2 * 0.5 * 0.8 * 0.2 / 100) = 0.112063.
    assert smallest_difference(Design(seeds=3), [0.8], [100], NONE) == pytest.approx(0.112063, abs=1e-6)
    assert smallest_difference(Design(seeds=3, correlation=0.0), [0.8], [100], NONE) == pytest.approx(
        0.158481, abs=1e-6
    )
    # 20 comparisons: the normal quantile at 1 - 0.05 / 40 is 3.023341.
    assert smallest_difference(Design(seeds=3, comparisons=20), [0.8], [100], NONE) == pytest.approx(
        (3.023341 + 0.841621) * 0.04, abs=1e-6
    )


def test_balanced_accuracy_averages_the_variances_of_the_classes() -> None:
    found = smallest_difference(Design(seeds=3), [0.8, 0.5], [100, 25], NONE)
    assert found == pytest.approx(2.801585 * math.sqrt((0.16 / 100 + 0.25 / 25) / 4), abs=1e-6)


@pytest.mark.parametrize(("seeds", "comparisons"), [(2, 1), (3, 20), (10, 20)])
def test_seeds_alone_are_a_t_test_of_their_number(seeds: int, comparisons: int) -> None:
    design = Design(seeds=seeds, comparisons=comparisons, correlation=0.2)
    found = smallest_difference(design, [1.0], [1], Spread(seed_sd=0.02, fold_sd=0.0))
    assert found is not None
    shift = found / math.sqrt(2 * 0.8 * 0.02**2 / seeds)
    critical = stats.t.isf(0.05 / comparisons / 2, seeds - 1)
    assert power_of_t(shift, critical, seeds - 1) == pytest.approx(0.8, abs=1e-6)


def test_the_parts_of_one_fold_add_up_in_squares() -> None:
    both = smallest_difference(Design(seeds=3), [0.8], [100], Spread(seed_sd=0.02))
    seeds = smallest_difference(Design(seeds=3), [1.0], [1], Spread(seed_sd=0.02))
    assert seeds is not None
    assert both == pytest.approx(math.hypot(0.112063, seeds), abs=1e-6)


def test_folds_pay_for_their_overlap() -> None:
    design = Design(folds=5, seeds=2)
    spread = Spread(seed_sd=0.02, fold_sd=0.01)
    found = smallest_difference(design, [0.8], [100], spread)
    assert found is not None
    variance = 0.16 / 100 + 0.01**2 / 5 + 0.02**2 / 10
    # The squared standard error of five folds: variance / 5 * 5 * (1 / 5 + 1 / 3).
    shift = found / math.sqrt(5 * variance * (1 / 5 + 1 / 3))
    assert power_of_t(shift, stats.t.isf(0.025, 4), 4) == pytest.approx(0.8, abs=1e-6)
    free = smallest_difference(replace(design, test_to_train=0.0), [0.8], [100], spread)
    assert free is not None
    assert found / free == pytest.approx(math.sqrt(8 / 3))


def test_a_single_run_shows_nothing() -> None:
    assert smallest_difference(Design(), [0.8], [10_000], Spread(seed_sd=0.001)) is None
    assert patients_needed(Design(), [0.8], Spread(seed_sd=0.001), 0.5) is None


def test_the_fewest_patients_and_seeds_are_enough_and_one_less_is_not() -> None:
    design, spread = Design(folds=10, seeds=3, comparisons=20), Spread(seed_sd=0.02, fold_sd=0.005)
    n = patients_needed(design, [0.7], spread, 0.05)
    assert n is not None
    enough, short = (smallest_difference(design, [0.7], [count], spread) for count in (n, n - 1))
    assert enough is not None and short is not None and enough <= 0.05 < short
    one_fold = Design(comparisons=6)
    seeds = seeds_needed(one_fold, [0.7], [4000], Spread(seed_sd=0.02), 0.04)
    assert seeds is not None
    enough, short = (
        smallest_difference(replace(one_fold, seeds=count), [0.7], [4000], Spread(seed_sd=0.02))
        for count in (seeds, seeds - 1)
    )
    assert enough is not None and short is not None and enough <= 0.04 < short


def test_no_number_is_enough_if_the_other_part_is_too_large() -> None:
    assert patients_needed(Design(seeds=3), [0.7], Spread(seed_sd=0.02), 0.01) is None
    assert seeds_needed(Design(), [0.7], [100], Spread(seed_sd=0.02), 0.01) is None


def test_by_hand_patients_needed() -> None:
    # 2.801585^2 * 0.16 / 0.05^2 = 502.3.
    assert patients_needed(Design(seeds=2), [0.8], NONE, 0.05) == 503


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": 0}, "must be 1 or more"),
        ({"seeds": 0}, "must be 1 or more"),
        ({"comparisons": 0}, "must be 1 or more"),
        ({"alpha": 0.0}, "alpha and power"),
        ({"power": 1.0}, "alpha and power"),
        ({"alpha": 0.5, "power": 0.4}, "alpha and power"),
        ({"correlation": 1.0}, "correlation"),
        ({"correlation": -0.1}, "correlation"),
        ({"folds": 2}, "test_to_train must be given"),
    ],
)
def test_designs_that_no_study_has(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Design(**wrong)


def test_a_class_without_test_patients_is_refused() -> None:
    for recalls, patients in (([0.5], [0]), ([], []), ([0.5], [3, 3])):
        with pytest.raises(ValueError, match="each class needs a recall"):
            smallest_difference(Design(seeds=2), recalls, patients, NONE)


# ---- the power, simulated

FOLDS, SEEDS, PATIENTS, RECALL = 5, 2, 400, 0.7
SPREAD = Spread(seed_sd=0.02)


def simulated(gain: float, seed: int, correlation: float) -> float:
    """The share of studies whose interval, of a family of four, lies above 0.

    The difference of two arms varies between folds as two proportions of 80 patients of the same class do, correlated
    by ``correlation`` between arms, and by 1 / 4 between folds, as the corrected test assumes.
    """
    rng = np.random.default_rng(seed)
    of_arms = math.sqrt(2 * (1 - correlation))
    binomial = of_arms * math.sqrt(RECALL * (1 - RECALL) / (PATIENTS / FOLDS))
    between_seeds = of_arms * SPREAD.seed_sd / math.sqrt(SEEDS)
    of_fold = math.hypot(binomial, between_seeds)
    shown = 0
    for _ in range(STUDIES):
        # So that the variance of a fold is of_fold^2 given what all folds have in common.
        common = rng.normal() * of_fold * math.sqrt(1 / 3)
        differences = gain + common + of_fold * rng.normal(size=FOLDS)
        values = np.stack([differences[:, None], np.zeros((FOLDS, 1))])
        found = compare(Outcome("recall"), values, ("DS3", "DS1"), [("DS3", "DS1")] * 4)
        interval = correct(found)[0].interval
        shown += interval is not None and interval[0] > 0
    return shown / STUDIES


@pytest.mark.parametrize("correlation", [0.5, 0.0])
def test_the_smallest_difference_is_shown_by_four_studies_of_five(correlation: float) -> None:
    design = Design(folds=FOLDS, seeds=SEEDS, comparisons=4, correlation=correlation)
    gain = smallest_difference(design, [RECALL], [PATIENTS], SPREAD)
    assert gain is not None
    assert simulated(gain, seed=2, correlation=correlation) == pytest.approx(
        0.8, abs=2.6 * math.sqrt(0.16 / STUDIES)
    )
    assert simulated(gain / 2, seed=3, correlation=correlation) < 0.5


def test_one_fold_is_shown_by_four_studies_of_five() -> None:
    """Real binomial counts: patients whom both arms classify alike or not, and seeds whose recall varies."""
    rng = np.random.default_rng(4)
    seeds, n = 8, 2000
    design = Design(seeds=seeds)
    gain = smallest_difference(design, [RECALL], [n], Spread(seed_sd=0.01))
    assert gain is not None
    critical_seeds, critical_patients = stats.t.isf(0.025, seeds - 1), stats.norm.isf(0.025)
    fixed = RECALL * (1 - RECALL) / n  # of the difference: 2 (1 - 0.5) times that of one arm
    shown = 0
    for _ in range(STUDIES):
        # Pairs of results with a correlation of 0.5: half of the patients are classified alike by both arms.
        alike = rng.random(n) < 0.5
        a = rng.random(n) < RECALL
        b = np.where(alike, a, rng.random(n) < RECALL)
        of_seeds = gain + a.mean() - b.mean() + 0.01 * rng.normal(size=seeds)
        reach = math.hypot(
            critical_seeds * of_seeds.std(ddof=1) / math.sqrt(seeds), critical_patients * math.sqrt(fixed)
        )
        shown += of_seeds.mean() > reach
    assert 0.8 - 2.6 * math.sqrt(0.16 / STUDIES) < shown / STUDIES < 0.85
