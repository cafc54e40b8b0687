"""A rank that is silent is named on all others; one that works, or works alone, is not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from cxrdist.distributed.watch import Watch, late_s, pause_s
from tests.helpers.processes import wait_until

TIMEOUT_S = 0.8
PLACES = ["rank 0 on node-a", "rank 1 on node-a", "rank 2 on node-b"]
SILENT = "stopped: rank {} did not answer for 1 s (--collective-timeout): it hangs, or its host or the network to it "
SILENT += "is lost; the same command resumes"


class Job:
    """The watches of three ranks in this process, and what each ended with."""

    def __init__(self) -> None:
        self.server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
        store = torch.distributed.PrefixStore("start", self.server)
        self.ended: dict[int, list[str]] = {rank: [] for rank in range(len(PLACES))}
        self.watches = [Watch(store, r, PLACES, TIMEOUT_S, self.ended[r].append) for r in self.ended]

    def silence(self, rank: int) -> None:
        """As a process that is stopped: it neither writes nor ends."""
        self.watches[rank].close()


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    for watch in job.watches:
        watch.close()


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_all_others_end_once_with_the_name_of_the_silent_rank(job: Job, silent: int) -> None:
    began_s = time.monotonic()
    job.silence(silent)
    others = [rank for rank in range(len(PLACES)) if rank != silent]
    wait_until(lambda: all(job.ended[rank] for rank in others), timeout_s=late_s(TIMEOUT_S))
    assert time.monotonic() - began_s > TIMEOUT_S
    time.sleep(4 * pause_s(TIMEOUT_S))
    message = SILENT.format(f"{silent} on {PLACES[silent].split()[-1]}")
    assert job.ended == {rank: [] if rank == silent else [message] for rank in range(len(PLACES))}


def test_ranks_that_are_there_go_on(job: Job) -> None:
    time.sleep(3 * TIMEOUT_S)
    assert not any(job.ended.values())


def test_a_rank_that_works_alone_ends_when_it_needs_the_others_again(job: Job) -> None:
    for rank in (0, 1):
        job.watches[rank].is_judging = False
    job.silence(2)
    time.sleep(3 * TIMEOUT_S)
    assert not any(job.ended.values())
    for rank in (0, 1):
        job.watches[rank].is_judging = True
    wait_until(lambda: job.ended[0] and job.ended[1], timeout_s=late_s(TIMEOUT_S))
    assert job.ended[0] == job.ended[1] == [SILENT.format("2 on node-b")]


def test_a_store_that_is_gone_is_its_host(job: Job) -> None:
    class Gone:
        def clone(self) -> Gone:
            return self

        def set(self, key: str, value: str) -> None:
            raise torch.distributed.DistNetworkError("Broken pipe")

    ended: list[str] = []
    Watch(Gone(), 2, PLACES, TIMEOUT_S, ended.append)  # type: ignore[arg-type]
    wait_until(lambda: ended, timeout_s=late_s(TIMEOUT_S))
    assert ended == [SILENT.format("0 on node-a")]


def test_a_pause_is_short_beside_the_timeout() -> None:
    assert [pause_s(t) for t in (8.0, 60.0, 1800.0)] == [1.0, 7.5, 10.0]
    # 30 minutes: nothing else ends a rank before the watch has named the silent one.
    assert late_s(1800.0) == 1865.0
