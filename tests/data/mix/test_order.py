"""The seven properties of the order of an epoch, each on its own, over random mixes."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.data.mix.interleave import StratumInterleave, floor_sum, lane_count
from cxrdist.data.mix.order import Order, StratumQuota, check_divides, part_of_batch
from cxrdist.data.mix.shuffle import MOST_CHUNKS, chunk_length, chunks_of
from cxrdist.errors import UserError

Spec = tuple[list[int], int]
"""Samples of each shard, and the quota, of one stratum."""

# Strata of a few images, of fewer shards than lanes, and of enough that lanes get runs of their own.
shards_st = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.lists(st.integers(1, 300), min_size=1, max_size=8)
)
specs_st = st.lists(st.tuples(shards_st, st.integers(0, 700)), min_size=1, max_size=5).filter(
    lambda specs: any(quota for _, quota in specs)
)
batches_st = st.sampled_from([1, 3, 16, 32, 48, 64, 128])
seeds_st = st.integers(0, 2**32)


def make(specs: list[Spec], seed: int = 0, batch: int = 16, chunk: int = 8) -> Order:
    strata = [
        StratumQuota(f"s{i}", np.array(shards), quota, chunk) for i, (shards, quota) in enumerate(specs)
    ]
    return Order(tuple(strata), seed=seed, batch=batch)


@settings(max_examples=60, deadline=None)
@given(specs_st, seeds_st, batches_st)
def test_each_epoch_has_exactly_its_quotas(specs: list[Spec], seed: int, batch: int) -> None:
    order = make(specs, seed, batch)
    assert order.epoch_images == sum(quota for _, quota in specs)
    for epoch in (0, 1, 2, 1000):
        which, sample = order.at(range(epoch * order.epoch_images, (epoch + 1) * order.epoch_images))
        assert Counter(which.tolist()) == {i: quota for i, (_, quota) in enumerate(specs) if quota}
        for i, (shards, _) in enumerate(specs):
            assert set(sample[which == i].tolist()) <= set(range(sum(shards)))


@settings(max_examples=60, deadline=None)
@given(specs_st, seeds_st, batches_st, st.integers(1, 3000))
def test_uses_of_a_strata_samples_differ_by_at_most_one_wherever_one_stops(
    specs: list[Spec], seed: int, batch: int, stop: int
) -> None:
    which, sample = make(specs, seed, batch).at(range(stop))
    for i, (shards, quota) in enumerate(specs):
        if quota:
            uses = np.bincount(sample[which == i], minlength=sum(shards))
            assert len(uses) == sum(shards)
            assert uses.max() - uses.min() <= 1


@settings(max_examples=60, deadline=None)
@given(specs_st, seeds_st, batches_st, st.integers(0, 60))
def test_no_sample_twice_in_a_step_unless_its_cycle_turns_over_there(
    specs: list[Spec], seed: int, batch: int, step: int
) -> None:
    order = make(specs, seed, batch)
    before = np.bincount(order.at(range(step * batch))[0], minlength=len(specs)) if step else np.zeros(5, int)
    which, sample = order.at(range(step * batch, (step + 1) * batch))
    for i, (shards, _) in enumerate(specs):
        mine = sample[which == i]
        first, last = int(before[i]), int(before[i]) + len(mine) - 1
        if len(mine) and first // sum(shards) == last // sum(shards):
            assert len(set(mine.tolist())) == len(mine)


@settings(max_examples=60, deadline=None)
@given(
    specs_st, seeds_st, batches_st, st.integers(0, 2000), st.integers(1, 300), st.sampled_from([1, 2, 4, 8])
)
def test_any_part_of_the_order_is_the_same_as_in_the_whole(
    specs: list[Spec], seed: int, batch: int, start: int, length: int, ranks: int
) -> None:
    """Resuming anywhere, on any number of ranks."""
    whole = np.stack(make(specs, seed, batch).at(range(start + length)))
    resumed = make(specs, seed, batch)
    for rank in range(ranks):
        part = range(start + rank, start + length, ranks)
        if part:
            assert np.array_equal(np.stack(resumed.at(part)), whole[:, part.start :: ranks])


def test_a_place_far_away_costs_no_more_and_keeps_to_the_cycles() -> None:
    """Around the 10^15th position: the positions of one cycle of each stratum hold each of its samples once."""
    order = make([([500] * 4, 1999), ([90] * 7, 1200)], batch=64)
    start = 10**15 // order.epoch_images * order.epoch_images
    which, sample = order.at(range(start, start + 4 * order.epoch_images))
    for i, (samples, quota) in enumerate(((2000, 1999), (630, 1200))):
        first = start // order.epoch_images * quota
        skipped = -first % samples
        cycle = sample[which == i][skipped : skipped + samples]
        assert sorted(cycle.tolist()) == list(range(samples))


@settings(max_examples=40, deadline=None)
@given(specs_st, seeds_st, batches_st)
def test_strata_are_spread_evenly(specs: list[Spec], seed: int, batch: int) -> None:
    """After p of N positions a stratum of quota q has come q p / N times: give or take two in each lane."""
    order = make(specs, seed, batch)
    which, _ = order.at(range(order.epoch_images))
    for i, (_, quota) in enumerate(specs):
        come = np.cumsum(which == i)
        due = quota * np.arange(1, order.epoch_images + 1) / order.epoch_images
        assert np.abs(come - due).max() <= max(2.0, len(specs)) * order.interleave.count


def test_batches_of_a_balanced_mix_hold_their_share_of_each_class() -> None:
    """Five classes of equal quotas, batches of 128: 25.6 of each, at most two more or fewer."""
    order = make([([400] * 10, 4000)] * 5, batch=128)
    which, _ = order.at(range(100 * 128))
    counts = np.stack([np.bincount(batch, minlength=5) for batch in which.reshape(100, 128)])
    assert counts.min() >= 23 and counts.max() <= 28


def test_a_rare_class_comes_at_all_times_of_an_epoch() -> None:
    order = make([([1000] * 10, 10_000), ([20], 20)], batch=128)
    which, _ = order.at(range(order.epoch_images))
    gaps = np.diff(np.flatnonzero(which == 1))
    assert len(gaps) == 19 and gaps.min() > 10 and gaps.max() < 3 * order.epoch_images / 20


def test_a_lane_reads_one_run_of_chunks_after_the_other() -> None:
    """4 lanes, 40 shards of 100 in chunks of 10: over a cycle a lane reads the 100 chunks of its run, and at most two
    that it shares with its neighbours; at any time it works in the chunks of one window and a bit."""
    order = make([([100] * 40, 4000)], batch=128, chunk=10)
    assert order.interleave.count == 4
    _, sample = order.at(range(4000))
    for lane in range(4):
        chunks = sample[lane::4] // 10
        assert 100 <= len(set(chunks.tolist())) <= 102
        for start in range(0, 1000, 40):
            assert len(set(chunks[start : start + 40].tolist())) <= 10
        first, last = ({int(c): int(n) for n, c in list(enumerate(chunks))[::way]} for way in (-1, 1))
        # A chunk is open from its first use to its last: two windows of 4 chunks at most.
        assert max(last[c] - first[c] for c in last) <= 2 * 40
    runs = [set((sample[lane::4] // 10).tolist()) for lane in range(4)]
    assert len(runs[0] & runs[1]) <= 1 and not runs[0] & runs[2]


def test_lanes_turn_over_to_their_next_window_one_after_the_other() -> None:
    """Windows of 40, 4 chunks of 10. Phases 1/2, 0.118, 0.736, 0.354 shift them by 20, 4, 29, 14: the first ones are
    of 20, 36, 11 and 26: two chunks, four, two and three."""
    order = make([([100] * 40, 4000)], batch=128, chunk=10)
    _, sample = order.at(range(4000))
    first = [sample[lane::4][:length] // 10 for lane, length in enumerate((20, 36, 11, 26))]
    assert [len(set(chunks.tolist())) for chunks in first] == [2, 4, 2, 3]


def test_each_cycle_of_a_large_stratum_is_shuffled_anew() -> None:
    """Its chunks over the lanes, and the samples of each window, which differ by lane as well."""
    order = make([([100] * 40, 4000)], batch=128, chunk=10)
    _, sample = order.at(range(8000))
    runs = [set((sample[first : first + 4000 : 4] // 10).tolist()) for first in (0, 4000)]
    assert len(runs[0] & runs[1]) < 50  # of 100; 25 by chance
    windows = [
        order.shuffles[0]._shuffled_window(*place, 40).tolist()
        for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(sorted(window) == list(range(40)) for window in windows)
    assert len({tuple(window) for window in [list(range(40)), *windows]}) == 5


def test_another_cycle_another_seed_another_stratum_other_order() -> None:
    def samples(seed: int, start: int, batch: int = 16) -> list[int]:
        return make([([50], 50)], seed, batch).at(range(start, start + 50))[1].tolist()

    assert samples(0, 0) != samples(1, 0)
    assert samples(0, 0) != samples(0, 50)
    assert sorted(samples(0, 50)) == list(range(50))
    which, sample = make([([50], 50), ([50], 50)]).at(range(100))
    assert sample[which == 0].tolist() != sample[which == 1].tolist()


def test_the_exact_order_of_two_small_strata() -> None:
    """One lane. Phases 1/2 and 1/2 + 0.414 mod 1: (j + 0.5) / 3 = 1/6, 3/6, 5/6 of the epoch; b at 0.914."""
    order = make([([3], 3), ([1], 1)])
    assert order.interleave.phases.round(3).tolist() == [[0.5, 0.914]]
    which, sample = order.at(range(8))
    assert which.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert sorted(sample[:3].tolist()) == sorted(sample[4:7].tolist()) == [0, 1, 2]
    assert sample[which == 1].tolist() == [0, 0]


def test_the_order_is_that_of_its_version() -> None:
    """Where this fails, runs that were begun before resume on another order: raise stream.ORDER_VERSION. The cause
    may be numpy's, which does not promise that a Generator's permutation stays the same (NEP 19)."""
    which, sample = make([([100] * 40, 4000), ([20], 37)], seed=5, batch=128, chunk=10).at(range(9000))
    assert (
        sha256(np.stack([which, sample]).astype("<i8").tobytes()).hexdigest()
        == "b0dc06556ada8b09ee6a53faf59609351b48f82052e9bde38690ece09cac677b"
    )


def test_lanes_deal_an_epoch_exactly() -> None:
    """7 and 4 over 3 lanes: draw x of the 11 goes to lane x mod 3, one epoch later to (x + 11) mod 3."""
    interleave = StratumInterleave(np.array([7, 4]), 3)
    assert interleave.quotas_of_lanes(0).tolist() == [[3, 1], [2, 2], [2, 1]]
    assert interleave.quotas_of_lanes(1).tolist() == [[2, 2], [2, 1], [3, 1]]
    assert interleave.drawn_before_epoch(2).tolist() == [[5, 3], [4, 3], [5, 2]]
    for epoch in range(20):
        total = sum((interleave.quotas_of_lanes(e) for e in range(epoch)), np.zeros((3, 2), int))
        assert np.array_equal(interleave.drawn_before_epoch(epoch), total)


def test_the_sum_of_floors_is_the_sum_of_floors() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, m, a = (int(x) for x in rng.integers([0, 1, 0], [60, 40, 90]))
        b = rng.integers(0, 200, (2, 3))
        expected = sum(((a * i + b) // m for i in range(n)), np.zeros_like(b))
        assert np.array_equal(floor_sum(n, m, a, b), expected), (n, m, a)


def test_lanes_divide_the_batch() -> None:
    assert [lane_count(b) for b in (1, 15, 16, 64, 96, 100, 101, 128, 1024)] == [1, 1, 1, 2, 3, 2, 1, 4, 32]


def test_chunks_stay_within_their_shard() -> None:
    first, length = chunks_of(np.array([5, 3, 8]), 3)
    assert list(zip(first.tolist(), length.tolist())) == [(0, 3), (3, 2), (5, 3), (8, 3), (11, 3), (14, 2)]
    assert chunk_length(samples=10**6, most=62, lanes=8) == 62
    assert chunk_length(samples=1000, most=62, lanes=8) == 15
    assert chunk_length(samples=10**9, most=62, lanes=8) == -(-(10**9) // MOST_CHUNKS)


def test_ranks_read_disjoint_parts_that_make_the_batch() -> None:
    parts = [part_of_batch(12, rank, 4) for rank in range(4)]
    assert [list(range(12))[p] for p in parts] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_a_batch_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(
        UserError, match="a global batch of 65 does not divide among 2 processes: take --batch 64 or 66"
    ):
        check_divides(65, 2)
    with pytest.raises(UserError, match=r"take --batch 4$"):
        check_divides(3, 4)


def test_a_stratum_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match="asks for 3 samples of s0, which has none"):
        make([([0], 3)])
    with pytest.raises(UserError, match="the mix is empty"):
        make([([5], 0)])
