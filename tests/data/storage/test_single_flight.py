from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrdist.data.storage.single_flight import SingleFlight


def test_the_last_results_are_kept() -> None:
    read: list[int] = []

    def double(number: int) -> int:
        read.append(number)
        return 2 * number

    reader = SingleFlight(double, 2)
    assert [reader(n) for n in (1, 2, 1, 3, 1, 2, 2)] == [2, 4, 2, 6, 2, 4, 4]
    assert read == [1, 2, 3, 2]


def test_one_thread_reads_for_all_and_another_result_is_read_meanwhile() -> None:
    read: list[int] = []
    go_on = threading.Event()

    def slow(number: int) -> int:
        read.append(number)
        assert number == 2 or go_on.wait(30)
        return 2 * number

    reader = SingleFlight(slow, 2)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(reader, 1) for _ in range(4)]
        assert reader(2) == 4
        go_on.set()
        assert [future.result(30) for future in waiting] == [2] * 4
    assert sorted(read) == [1, 2]


def test_an_error_is_raised_to_all_that_wait_and_not_kept() -> None:
    read: list[int] = []

    def fail(number: int) -> int:
        read.append(number)
        if len(read) == 1:
            raise ValueError("once")
        return number

    reader = SingleFlight(fail, 2)
    with pytest.raises(ValueError, match="once"):
        reader(1)
    assert reader(1) == 1 and read == [1, 1]
