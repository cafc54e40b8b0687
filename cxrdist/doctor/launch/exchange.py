"""What the ranks of a launch exchange: sums, times of all-reduces, of pairs, and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

LATENCY_REPEATS = 20
REPEATS = 3
SIZES = tuple(2**20 * mib for mib in (1, 8, 64))
LONGEST_S = 4.0
"""A size is left out if it would take longer."""
PAIR_BYTES = 2**20
MOST_PAIRED = 16
"""With more ranks, each exchanges data with its neighbours only."""
PINGS = 8


@dataclass(frozen=True)
class Timed:
    """One size of all-reduce. ``gb_per_s``: bytes that each rank sends (2 (n - 1) / n of the size, as in a ring) per
    second, in 10^9."""

    size_bytes: int
    seconds: float
    gb_per_s: float


def wrong_sum(world_size: int, rank: int, device: torch.device) -> str:
    """What an all-reduce of ``rank + 1`` gave, if it is not the sum; empty if it is."""
    numbers = torch.full((1000,), float(rank + 1), device=device)
    dist.all_reduce(numbers)
    expected = world_size * (world_size + 1) / 2
    wrong = numbers[numbers != expected]
    return f"{float(wrong[0]):g} instead of {expected:g}" if len(wrong) else ""


def latency_s(device: torch.device) -> float:
    """Seconds of an all-reduce of one number: the median of the slowest rank."""
    one = torch.ones(1, device=device)
    return _slowest(device, _median_s(lambda: dist.all_reduce(one), device, LATENCY_REPEATS))


def bandwidths(world_size: int, device: torch.device) -> Iterator[Timed]:
    """Of the sizes that take less than ``LONGEST_S``; at least of the first one."""
    for size in SIZES:
        data = torch.ones(size // 4, device=device)
        first = _slowest(device, _median_s(lambda: dist.all_reduce(data), device, 1))  # noqa: B023
        repeats = REPEATS if first < LONGEST_S / REPEATS else 0
        seconds = first
        if repeats:
            seconds = _slowest(device, _median_s(lambda: dist.all_reduce(data), device, repeats))  # noqa: B023
        yield Timed(size, seconds, bus_gb_per_s(size, world_size, seconds))
        if 8 * seconds > LONGEST_S:
            break


def bus_gb_per_s(size_bytes: int, world_size: int, seconds: float) -> float:
    return 2 * (world_size - 1) / world_size * size_bytes / seconds / 1e9


def pair_seconds(rank: int, world_size: int, device: torch.device, group: Any) -> dict[int, float]:
    """Seconds that this rank and another one take to send each other ``PAIR_BYTES``, by the other's number."""
    sent, received = (torch.ones(PAIR_BYTES // 4, device=device) for _ in range(2))
    found = {}
    for other in partners(rank, world_size):
        dist.barrier(group=group)
        if other is None:
            continue
        _exchange(sent, received, rank, other)  # the first one connects them
        _wait(device)
        began = time.perf_counter()
        _exchange(sent, received, rank, other)
        _wait(device)
        found[other] = time.perf_counter() - began
    return found


def _exchange(sent: torch.Tensor, received: torch.Tensor, rank: int, other: int) -> None:
    work = [dist.P2POp(dist.isend, sent, other), dist.P2POp(dist.irecv, received, other)]
    for each in dist.batch_isend_irecv(work if rank < other else work[::-1]):
        each.wait()


def partners(rank: int, world_size: int) -> list[int | None]:
    """Of each round the rank to exchange data with; None: none in this round. All ranks have equally many rounds, and
    partners have each other: a round-robin tournament, or with many ranks the neighbours in a ring."""
    if world_size > MOST_PAIRED:
        right, left = (rank + 1) % world_size, (rank - 1) % world_size
        rounds: list[int | None] = [right, left] if rank % 2 == 0 else [left, right]
        if world_size % 2:  # the last rank's right neighbour, 0, is even as it is
            last = world_size - 1
            rounds = [None if {rank, each} == {0, last} else each for each in rounds]
        return rounds
    even = world_size + world_size % 2
    found: list[int | None] = []
    for turn in range(even - 1):
        # Circle method: the last place stays, the others turn.
        if rank == even - 1:
            other = turn * (even // 2) % (even - 1)
        else:
            other = (turn - rank) % (even - 1)
            other = even - 1 if other == rank else other
        found.append(other if other < world_size else None)
    return found


def ahead_s(rank: int, others: list[int], group: Any) -> dict[int, tuple[float, float]]:
    """On rank 0, of each of ``others``: the seconds that its clock is ahead, and by how much that may be wrong; from
    the quickest of some round trips. Every rank of ``others``, and rank 0, calls this."""
    found = {}
    for other in others:
        now = torch.zeros(1, dtype=torch.float64)
        trips = []
        for _ in range(PINGS):
            if rank == 0:
                before = time.time()
                dist.send(now, other, group=group)
                dist.recv(now, other, group=group)
                trips.append((before, float(now), time.time()))
            elif rank == other:
                dist.recv(now, 0, group=group)
                dist.send(torch.tensor([time.time()], dtype=torch.float64), 0, group=group)
        if rank == 0:
            found[other] = offset(trips)
    return found


def offset(trips: list[tuple[float, float, float]]) -> tuple[float, float]:
    """``(sent, the other's time, answered)`` of some round trips -> seconds that the other's clock is ahead, and half
    of the quickest trip, by which that may be wrong (as NTP computes it)."""
    before, theirs, after = min(trips, key=lambda trip: trip[2] - trip[0])
    return theirs - (before + after) / 2, (after - before) / 2


def _median_s(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _slowest(device: torch.device, seconds: float) -> float:
    """Of all ranks, so that all go on alike."""
    slowest = torch.tensor([seconds], device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
