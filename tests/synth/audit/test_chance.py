"""Against values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist.synth.audit.chance import Calibrated, expected_coverage, interval, most_by_chance


def test_the_binomial_interval_is_the_exact_one() -> None:
    assert interval(0, 10) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert interval(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert interval(3, 10) == (pytest.approx(0.0667395, abs=1e-6), pytest.approx(0.6524529, abs=1e-6))


def test_one_image_is_beyond_the_first_of_n_scores_with_probability_one_in_n_plus_one() -> None:
    assert most_by_chance([Calibrated(1, 1, 20)], comparisons=1) == 0  # 1 / 21 < 5 %
    assert most_by_chance([Calibrated(1, 1, 18)], comparisons=1) == 1  # 1 / 19 > 5 %
    assert most_by_chance([Calibrated(1, 1, 20)], comparisons=2) == 1  # 1 / 21 > 2.5 %


def test_numbers_of_groups_add_up() -> None:
    # 1 - (19 / 20)^2 = 9.75 % for one of two images or both, 1 / 400 for both.
    assert most_by_chance([Calibrated(1, 1, 19), Calibrated(1, 1, 19)], comparisons=1) == 1
    assert most_by_chance([Calibrated(1, 1, 19), Calibrated(1, 1, 19)], comparisons=21) == 2


def test_real_images_exceed_the_number_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(0)
    most = most_by_chance([Calibrated(200, 2, 150)], comparisons=1)
    scores = rng.random((20_000, 350), np.float32)
    thresholds = np.partition(scores[:, :150], 1, axis=1)[:, 1]
    beyond = (scores[:, 150:] < thresholds[:, None]).sum(1)
    assert 0.03 < (beyond > most).mean() < 0.055
    assert (beyond > most - 1).mean() > 0.05


def test_expected_coverage_counts_the_orders_of_neighbours() -> None:
    assert expected_coverage(1, 2, 1) == pytest.approx(
        1 / 2
    )  # the other real one is nearer in half of all orders
    assert expected_coverage(2, 3, 2) == pytest.approx(1 - 1 / 6)
    assert expected_coverage(10**6, 10**6, 5) == pytest.approx(1 - 2**-5, abs=1e-5)
