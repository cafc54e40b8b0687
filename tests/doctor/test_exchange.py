"""The arithmetic of what ranks exchange: who with whom, clocks, bandwidth; and the lines that follow from it."""

from __future__ import annotations

from typing import Any

import pytest

from cxrdist.doctor.launch.exchange import bus_gb_per_s, offset, partners
from cxrdist.doctor.launch.verdict import findings


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 13, 16])
def test_every_pair_meets_once_and_partners_have_each_other(ranks: int) -> None:
    rounds = [partners(rank, ranks) for rank in range(ranks)]
    assert len({len(each) for each in rounds}) == 1
    met = []
    for turn in range(len(rounds[0])):
        for rank in range(ranks):
            other = rounds[rank][turn]
            if other is not None:
                assert rounds[other][turn] == rank
                met.append((rank, other))
    assert sorted(met) == [(a, b) for a in range(ranks) for b in range(ranks) if a != b]


@pytest.mark.parametrize("ranks", [17, 18, 64])
def test_many_ranks_meet_their_neighbours(ranks: int) -> None:
    rounds = [partners(rank, ranks) for rank in range(ranks)]
    for turn in range(2):
        for rank in range(ranks):
            other = rounds[rank][turn]
            assert other is None or (rounds[other][turn] == rank and (rank - other) % ranks in (1, ranks - 1))
    without = [rank for rank in range(ranks) if None in rounds[rank]]
    assert without == ([0, ranks - 1] if ranks % 2 else [])


def test_the_clock_of_another_machine_from_the_quickest_trip() -> None:
    # sent, the other's time, answered: the second trip takes 0.2 s, and the other's clock is 7 s ahead
    assert offset([(100.0, 108.5, 102.0), (200.0, 207.1, 200.2)]) == pytest.approx((7.0, 0.1))


def test_bandwidth_counts_what_a_rank_sends_in_a_ring() -> None:
    assert bus_gb_per_s(10**9, 2, 1.0) == 1.0
    assert bus_gb_per_s(10**9, 4, 0.5) == 3.0


def result(**changes: Any) -> dict[str, Any]:
    versions = {"torch": "2.13.0", "commit": "abc"}
    rank = {"device": "cpu", "gpu": "", "versions": versions, "digest": "d" * 64, "set_error": None}
    found = {
        "world_size": 3,
        "engine": "DDP",
        "backend": "gloo",
        "wrong_sums": ["", "", ""],
        "latency_s": 1e-4,
        "bandwidths": [{"size_bytes": 2**20, "seconds": 1e-3, "gb_per_s": 1.5}],
        "pairs": [{"1": 0.001, "2": 0.001}, {"0": 0.001, "2": 0.001}, {"0": 0.001, "1": 0.001}],
        "ahead_s": {"1": [0.001, 0.0005], "2": [-0.002, 0.0005]},
        "folders": {"seen": [True] * 3, "locked": [True] * 3},
        "ranks": [{**rank, "host": host} for host in ("a", "b", "c")],
    }
    return {**found, **changes}


def said(found: dict[str, Any], planned: int = 3) -> list[tuple[str, str]]:
    lines = findings(found, planned=planned, run="runs", shards="set")
    return [(one.level, one.what) for one in lines]


def test_a_sound_launch() -> None:
    assert said(result()) == [
        ("ok", "3 processes on a, b, c, connected by gloo, DDP"),
        ("ok", "all-reduce: right sums; 1.0 MiB at 1.5 GB/s; one number in 0.1 ms"),
        ("ok", "slowest pair: rank 0 on a and rank 1 on b, 1 GB/s each way; the median is 1 GB/s"),
        ("ok", "clocks of the machines agree within 0.003 s"),
        ("ok", "all machines have the same versions and commit"),
        ("ok", "runs: one folder for all 3 machines, and a lock of one holds for the others"),
        ("ok", f"set: the same set for all, digest {'d' * 12}"),
    ]


def ranks_with(number: int, **changes: Any) -> list[dict[str, Any]]:
    ranks = result()["ranks"]
    ranks[number] |= changes
    return ranks


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"wrong_sums": ["", "4 instead of 6", ""]},
            ("error", "an all-reduce gives wrong sums: rank 1 on b got 4 instead of 6"),
        ),
        (
            {"latency_s": 0.05},
            (
                "warning",
                "all-reduce: right sums; 1.0 MiB at 1.5 GB/s; one number in 50 ms: every step waits for several "
                "small exchanges",
            ),
        ),
        (
            {"pairs": [{"1": 0.001, "2": 0.001}, {"0": 0.001, "2": 0.01}, {"0": 0.001, "1": 0.02}]},
            ("warning", "slowest pair: rank 1 on b and rank 2 on c, 52 MB/s each way; the median is 1 GB/s"),
        ),
        ({"ahead_s": {"1": [7.0, 0.1]}}, ("warning", "the clock of b is 7.0 s ahead of that of a")),
        (
            {"ahead_s": {"2": [-900.0, 0.1]}},
            ("error", "the clock of c is 900.0 s behind that of a: S3 and Kerberos refuse requests"),
        ),
        ({"ahead_s": {"1": [2.5, 1.0]}}, ("ok", "clocks of the machines agree within 3.500 s")),
        (
            {"ranks": ranks_with(2, versions={"torch": "2.12.0", "commit": "abc"})},
            ("error", "torch is 2.13.0 on a, and 2.12.0 on c"),
        ),
        (
            {"ranks": ranks_with(2, digest="e" * 64)},
            (
                "error",
                "set is not the same set everywhere: dddddddddddd on a, dddddddddddd on b, eeeeeeeeeeee on c",
            ),
        ),
        (
            {"ranks": ranks_with(1, digest=None, set_error="set: no such set")},
            ("error", "on b: set: no such set"),
        ),
        (
            {"ranks": ranks_with(1, device="NVIDIA T4")},
            ("warning", "devices of different kinds: NVIDIA T4, cpu: every step waits for the slowest"),
        ),
        (
            {"ranks": [{**rank, "host": "a", "gpu": "GPU-1"} for rank in result()["ranks"]]},
            ("error", "ranks 0 and 1 and 2 share one GPU of a"),
        ),
        (
            {"folders": {"seen": [True, True, True], "locked": [True, False, True]}},
            ("error", "runs: a lock that a holds does not hold on b"),
        ),
    ],
)  # fmt: skip
def test_each_trouble_is_named(changes: dict[str, Any], line: tuple[str, str]) -> None:
    lines = said(result(**changes))
    assert line in lines
    assert sum(level != "ok" for level, _ in lines) == (line[0] != "ok")


def test_fewer_processes_than_the_config_says() -> None:
    assert said(result(), planned=4)[0] == ("error", "3 processes on a, b, c, and the config says 4")


def on_hosts_of_eight(slow: dict[tuple[int, int], float]) -> dict[str, Any]:
    """24 ranks, 8 a host, with their neighbours: 50 us on a host and 0.3 ms between hosts, but for ``slow``."""

    def seconds(a: int, b: int) -> float:
        return slow.get((min(a, b), max(a, b)), 5e-5 if a // 8 == b // 8 else 3e-4)

    rank = result()["ranks"][0]
    return result(
        world_size=24,
        wrong_sums=[""] * 24,
        pairs=[{str(b): seconds(a, b) for b in partners(a, 24) if b is not None} for a in range(24)],
        folders={"seen": [True] * 24, "locked": [True] * 24},
        ranks=[{**rank, "host": "abc"[number // 8]} for number in range(24)],
    )


@pytest.mark.parametrize(
    ("slow", "line"),
    [
        (
            {},
            "ok rank 0 on a and rank 23 on c, 3.5 GB/s each way; the median of pairs between machines is 3.5 GB/s",
        ),
        (
            {(2, 3): 2e-4},
            "warning rank 2 on a and rank 3 on a, 5.2 GB/s each way; the median of pairs on one machine is 21 GB/s",
        ),
        (
            {(7, 8): 1e-3},
            "warning rank 7 on a and rank 8 on b, 1 GB/s each way; the median of pairs between machines is 3.5 GB/s",
        ),
    ],
    ids=["sound", "slow GPU", "slow cable"],
)
def test_a_pair_is_slow_beside_pairs_of_its_kind(slow: dict[tuple[int, int], float], line: str) -> None:
    (found,) = [one for one in said(on_hosts_of_eight(slow), planned=24) if "slowest pair: " in one[1]]
    assert " ".join(found).replace("slowest pair: ", "") == line
