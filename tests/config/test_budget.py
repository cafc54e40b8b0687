"""The length of a training: its steps, and the steps at which it is looked at."""

from __future__ import annotations

import pytest

from cxrdist.config.budget import budget_steps, evenly_spaced
from cxrdist.errors import UserError


def test_looks_are_evenly_spaced_and_include_the_last_step() -> None:
    assert evenly_spaced(10, 4) == {3, 5, 8, 10}
    assert evenly_spaced(3, 10) == {1, 2, 3}


@pytest.mark.parametrize(
    ("budget", "steps"), [("20 epochs", 625), ("1 epoch", 31), ("6400 images", 100), ("50,000 images", 781)]
)
def test_a_budget_counts_whole_batches(budget: str, steps: int) -> None:
    assert budget_steps(budget, epoch_images=2000, batch=64) == steps


@pytest.mark.parametrize("budget", ["20", "0 epochs", "many images", "-1 images", "3 steps"])
def test_a_wrong_budget_says_how_to_write_it(budget: str) -> None:
    with pytest.raises(UserError, match="'20 epochs' or '50000 images'"):
        budget_steps(budget, epoch_images=2000, batch=64)
