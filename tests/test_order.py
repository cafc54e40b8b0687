from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.data.order import Order, StratumQuota, check_divides, part_of_batch
from cxrdist.errors import UserError
from cxrdist.seeds import uniform


def test_the_exact_order_of_two_small_strata() -> None:
    """(2 j + 1) / (2 q) for q = 3: 1/6, 3/6, 5/6; for q = 1: 1/2, after a's, which comes first."""
    order = Order((StratumQuota("a", 3, 3), StratumQuota("b", 1, 1)), seed=0)
    strata, samples = order.at(0, 8)
    assert strata.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert sorted(samples[strata == 0][:3]) == [0, 1, 2]
    assert samples[strata == 1].tolist() == [0, 0]


strata_st = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=6).filter(
    lambda s: sum(q for _, q in s) > 0
)


def make_order(strata: list[tuple[int, int]], seed: int) -> Order:
    return Order(tuple(StratumQuota(f"s{i}", n, q) for i, (n, q) in enumerate(strata)), seed)


@settings(max_examples=60, deadline=None)
@given(strata_st, st.integers(0, 2**32))
def test_each_epoch_has_exactly_its_quotas(strata: list[tuple[int, int]], seed: int) -> None:
    order = make_order(strata, seed)
    for epoch in range(3):
        which, _ = order.at(epoch * order.epoch_images, (epoch + 1) * order.epoch_images)
        assert Counter(which.tolist()) == {i: q for i, (_, q) in enumerate(strata) if q}


@settings(max_examples=60, deadline=None)
@given(strata_st, st.integers(0, 2**32), st.integers(1, 400))
def test_uses_of_a_strata_samples_differ_by_at_most_one(
    strata: list[tuple[int, int]], seed: int, stop: int
) -> None:
    order = make_order(strata, seed)
    which, sample = order.at(0, stop)
    for i, (samples, quota) in enumerate(strata):
        if quota:
            uses = np.bincount(sample[which == i], minlength=samples)
            assert len(uses) == samples
            assert uses.max() - uses.min() <= 1


@settings(max_examples=60, deadline=None)
@given(strata_st, st.integers(0, 2**32), st.integers(0, 300), st.integers(0, 100))
def test_any_window_of_the_order_is_the_same_as_in_the_whole(
    strata: list[tuple[int, int]], seed: int, start: int, length: int
) -> None:
    order = make_order(strata, seed)
    whole = np.stack(order.at(0, start + length))
    assert np.array_equal(np.stack(order.at(start, start + length)), whole[:, start:])


@settings(max_examples=40, deadline=None)
@given(strata_st, st.integers(0, 2**32))
def test_strata_are_spread_evenly(strata: list[tuple[int, int]], seed: int) -> None:
    """After p of N positions a stratum of quota q has come q p / N times, give or take one per stratum."""
    order = make_order(strata, seed)
    which, _ = order.at(0, order.epoch_images)
    for i, (_, quota) in enumerate(strata):
        come = np.cumsum(which == i)
        due = quota * np.arange(1, order.epoch_images + 1) / order.epoch_images
        assert np.abs(come - due).max() <= len(strata)


def test_no_sample_twice_in_a_step_within_a_cycle() -> None:
    order = Order((StratumQuota("a", 64, 64), StratumQuota("b", 32, 32)), seed=3)
    for step in range(6):
        which, sample = order.at(step * 16, (step + 1) * 16)
        assert len(set(zip(which.tolist(), sample.tolist()))) == 16


def test_seed_and_cycle_change_the_order() -> None:
    def samples(seed: int, cycle: int) -> list[int]:
        order = Order((StratumQuota("a", 50, 50),), seed)
        return order.at(cycle * 50, (cycle + 1) * 50)[1].tolist()

    assert samples(0, 0) != samples(1, 0)
    assert samples(0, 0) != samples(0, 1)
    assert sorted(samples(0, 1)) == list(range(50))


def test_ranks_read_disjoint_parts_that_make_the_batch() -> None:
    parts = [part_of_batch(12, rank, 4) for rank in range(4)]
    assert [list(range(12))[p] for p in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_a_batch_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(
        UserError, match="a global batch of 65 does not divide among 2 processes: take --batch 64 or 66"
    ):
        check_divides(65, 2)
    with pytest.raises(UserError, match=r"take --batch 4$"):
        check_divides(3, 4)


def test_a_stratum_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match="asks for 3 samples of a, which has none"):
        Order((StratumQuota("a", 0, 3),), 0)


def test_random_numbers_depend_on_the_position_alone() -> None:
    whole = uniform(5, "z", 0, 1000, 128)
    assert whole.shape == (1000, 128) and whole.dtype == np.float32
    assert np.array_equal(uniform(5, "z", 137, 201, 128), whole[137:201])
    assert -1 <= whole.min() < -0.999 and 0.999 < whole.max() < 1
    assert abs(float(whole.mean())) < 0.01 and abs(float(whole.var()) - 1 / 3) < 0.01
    assert not np.array_equal(uniform(5, "other", 0, 10, 128), whole[:10])
