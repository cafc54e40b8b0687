"""Who sees which images."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist.synth.review.dealing import (
    at_share,
    blinded_sequence,
    curate_sequence,
    dealt,
    in_order,
    interleaved,
    sizes_at_share,
)

NONE = np.zeros(0, np.int64)


def deal(
    n: int,
    slot: int,
    slots: int,
    overlap: float = 0.2,
    limit: int | None = None,
    mine: list[int] | None = None,
    others: list[int] | None = None,
) -> list[int]:
    return dealt(
        np.arange(n),
        slot,
        slots,
        overlap,
        limit,
        mine=np.array(mine or [], int),
        others=np.array(others or [], int),
    ).tolist()


def test_all_see_the_common_images_and_the_others_are_dealt_out() -> None:
    parts = [deal(11, slot, 3) for slot in range(3)]
    assert parts == [[0, 1, 2, 3, 4], [0, 1, 5, 6, 7], [0, 1, 8, 9, 10]]
    assert [deal(4, slot, 2, overlap=1) for slot in range(2)] == [[0, 1, 2, 3]] * 2
    assert [deal(4, slot, 2, overlap=0) for slot in range(2)] == [[0, 1], [2, 3]]


def test_a_limit_is_of_each_reader_and_a_fifth_of_it_is_common() -> None:
    parts = [deal(100, slot, 2, limit=10) for slot in range(2)]
    assert parts == [[0, 1, *range(2, 10)], [0, 1, *range(10, 18)]]
    assert deal(100, 0, 2, limit=20)[:2] == [0, 1]
    assert deal(7, 0, 1, limit=10) == [0, 1, 2, 3, 4, 5, 6]
    few = [deal(10, slot, 3, limit=8) for slot in range(3)]  # 2 common, 8 others for three readers
    assert few == [[0, 1, 2, 3, 4], [0, 1, 5, 6, 7], [0, 1, 8, 9]]


def test_what_is_judged_stays_with_its_reader_when_another_joins() -> None:
    assert deal(12, 0, 2, overlap=0) == [0, 1, 2, 3, 4, 5]
    first = deal(12, 0, 3, overlap=0, mine=[5], others=[6])
    second = deal(12, 1, 3, overlap=0, mine=[6], others=[5])
    third = deal(12, 2, 3, overlap=0, others=[5, 6])
    assert (first, second, third) == ([5, 0, 1, 2, 3], [6, 4, 7], [8, 9, 10, 11])
    assert sorted(first + second + third) == [*range(12)]


def test_a_limit_holds_with_what_is_judged() -> None:
    assert deal(100, 0, 2, overlap=0, limit=3, mine=[50, 51]) == [50, 51, 0]
    assert deal(100, 0, 2, overlap=0, limit=3, mine=[50, 51, 52, 53]) == [50, 51, 52, 53]


def test_interleaved_parts_are_spread_evenly_in_their_order() -> None:
    assert interleaved([np.array([1, 2]), NONE, np.array([10, 11, 12, 13])]).tolist() == [
        10,
        1,
        11,
        12,
        2,
        13,
    ]
    assert interleaved([NONE]).tolist() == []


@pytest.mark.parametrize(
    ("real", "synthetic", "share", "expected"),
    [
        (10, 10, 0.5, (10, 10)),
        (10, 3, 0.5, (3, 3)),
        (3, 100, 0.25, (3, 9)),
        (100, 6, 0.25, (2, 6)),
        (0, 5, 0.5, (0, 0)),
        (5, 0, 0.5, (0, 0)),
        (1, 1, 0.9, (0, 0)),
    ],
)
def test_sizes_at_a_share(real: int, synthetic: int, share: float, expected: tuple[int, int]) -> None:
    assert sizes_at_share(real, synthetic, share) == expected


def test_every_run_of_the_blinded_sequence_has_the_share_and_both_origins_the_same_classes() -> None:
    real = [np.arange(0, 12), np.arange(12, 18), np.arange(18, 28)]
    synthetic = [np.arange(100, 112), np.arange(112, 140), NONE]  # the third class is left out
    sequence = blinded_sequence(real, synthetic, 0.5, seed=0)
    assert sorted(sequence[sequence < 100]) == [*range(18)] and len(sequence) == 36
    for start in range(0, 24, 2):
        run = sequence[start : start + 12]
        ours, theirs = run[run < 100], run[run >= 100] - 100
        assert len(ours) == len(theirs) == 6
        assert (ours < 12).sum() == (theirs < 12).sum() == 4
    assert blinded_sequence(real, synthetic, 0.5, seed=1).tolist() != sequence.tolist()


def test_the_share_holds_without_the_images_that_a_reader_knows() -> None:
    numbers = np.arange(10)
    is_real = numbers < 6
    is_judged = np.isin(numbers, [5, 9])
    assert at_share(numbers, is_real, is_judged, 0.5).tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert at_share(numbers, np.ones(10, bool), np.zeros(10, bool), 0.5).tolist() == []


def test_orders_differ_by_reader_task_and_seed_and_by_nothing_else() -> None:
    numbers = np.arange(50)
    base = in_order(numbers, 0, "curate", 7).tolist()
    assert sorted(base) == [*range(50)] and base == in_order(numbers[::-1].copy(), 0, "curate", 7).tolist()
    others = [
        in_order(numbers, 1, "curate", 7),
        in_order(numbers, 0, "blinded", 7),
        in_order(numbers, 0, "curate", 8),
    ]
    assert len({tuple(order) for order in (base, *(other.tolist() for other in others))}) == 4
    few = in_order(numbers[::2], 0, "curate", 7).tolist()
    assert few == [number for number in base if number % 2 == 0]


def test_the_curate_sequence_is_a_permutation() -> None:
    sequence = curate_sequence(np.arange(5, 25), 0)
    assert sorted(sequence) == [*range(5, 25)] and sequence.tolist() != [*range(5, 25)]
