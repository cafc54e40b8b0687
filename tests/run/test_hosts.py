"""What hosts of a job must have alike, and which folders they see: two ranks, as threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxrdist import ranks
from cxrdist.errors import UserError
from cxrdist.run import hosts
from tests.helpers.checkpoints import save

NAMES = ("node-a", "node-b")


class Rank:
    """One of two ranks: the collectives that ``hosts`` uses."""

    world_size = 2

    def __init__(self, rank: int, met: threading.Barrier, values: list[Any]) -> None:
        self.rank, self._met, self._values = rank, met, values
        self.is_main = rank == 0

    def gather_objects(self, values: list[Any]) -> list[Any]:
        self._values[self.rank] = values[0]
        self._met.wait(10)
        found = list(self._values)
        self._met.wait(10)
        return found

    def on_main(self, function: Callable[[], Any]) -> Any:
        return self.gather_objects([function() if self.is_main else None])[0]


@pytest.fixture(autouse=True)
def two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.current_thread

    monkeypatch.setattr(ranks, "spans_hosts", lambda: True)
    monkeypatch.setattr(ranks, "place", lambda: f"rank {NAMES.index(here().name)} on {here().name}")
    monkeypatch.setattr(hosts.socket, "gethostname", lambda: here().name)
    monkeypatch.setattr(hosts, "SEEN_WITHIN_S", 0.3)


def on_both(*calls: Callable[[Any], Any]) -> list[Any]:
    """What each rank's call returns, or the UserError that it raises."""
    met, values = threading.Barrier(2), [None, None]

    def call(rank: int) -> Any:
        threading.current_thread().name = NAMES[rank]
        try:
            return calls[rank](Rank(rank, met, values))
        except UserError as error:
            assert error.is_named
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(call, (0, 1)))


def options_of(*options: dict[str, Any]) -> list[Any]:
    return on_both(*(lambda dist, own=own: hosts.check_options(dist, "gan", own) for own in options))


def test_hosts_that_have_other_options_are_named() -> None:
    said = "--batch is 32 for rank 1 on node-b, and 16 for rank 0 on node-a: start the same command on every host"
    assert options_of({"batch": 16, "seed": 0}, {"batch": 32, "seed": 0}) == [said, said]
    # Where things lie may differ.
    a = {"batch": 16, "shards": "/data/set", "run": "runs/gan", "loader": {"workers": 2}}
    assert options_of(a, {**a, "shards": "/scratch/set", "loader": {"workers": 8}}) == [None, None]
    said = "the job is cls for rank 1 on node-b, and gan for rank 0 on node-a: start the same command on every host"
    calls = [lambda dist, job=job: hosts.check_options(dist, job, {}) for job in ("gan", "cls")]
    assert on_both(*calls) == [said, said]


def test_hosts_with_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_of = {"node-a": "2.13.0", "node-b": "2.12.1"}
    monkeypatch.setattr(hosts, "versions", lambda: {"torch": torch_of[threading.current_thread().name]})
    said = "torch is 2.12.1 for rank 1 on node-b, and 2.13.0 for rank 0 on node-a: install the same versions on every"
    assert all(error.startswith(said) for error in options_of({}, {}))


def test_hosts_that_read_other_data_are_named() -> None:
    digests = [
        {"the real set": "1" * 64, "soft labels": None},
        {"the real set": "1" * 64, "soft labels": "2" * 64},
    ]
    calls = [lambda dist, own=own: hosts.check_data(dist, own) for own in digests]
    said = "soft labels is 222222222222 for rank 1 on node-b, and None for rank 0 on node-a: copy it from one host"
    assert all(error.startswith(said) for error in on_both(*calls))
    assert on_both(calls[1], calls[1]) == [None, None]


@pytest.mark.parametrize("exists", [True, False])
def test_a_host_sees_a_folder_if_it_is_the_same_one(tmp_path: Path, exists: bool) -> None:
    for name in NAMES:
        (tmp_path / name / "runs/gan" if exists else tmp_path / name).mkdir(parents=True)
    a, b = (tmp_path / name / "runs/gan" for name in NAMES)

    def blind(*folders: Path) -> list[Any]:
        return on_both(*(lambda dist, own=own: hosts.blind_hosts(dist, own) for own in folders))

    assert blind(a, b) == [["node-b"], ["node-b"]]
    assert blind(a, a) == [[], []]
    # Another name in a folder that both see.
    assert blind(a, a.with_name("cls")) == [["node-b"], ["node-b"]]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    said = (
        f"{a}: node-b does not see the folder that node-a has there, but it must: give a folder that all hosts see, "
        "or use one host"
    )
    first, _ = on_both(*(lambda dist, own=own: hosts.check_seen(dist, own, "it must") for own in (a, b)))
    assert first == said


def test_a_run_that_another_host_has_further_is_not_begun_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = (tmp_path / name for name in NAMES)
    a.mkdir()

    def check(*folders: Path) -> list[Any]:
        return on_both(*(lambda dist, own=own: hosts.check_left_behind(dist, own) for own in folders))

    with caplog.at_level("INFO", "cxrdist"):
        assert check(a, b) == [None, None]
        assert f"{a}: written on node-a alone; node-b has another folder there, or none" in caplog.messages
    save(b / "normal/checkpoints", 24)
    has_none, _ = check(a, b)
    assert has_none == (
        f"{a}: node-b has this run with 24 images, and node-a, which rank 0 is on now, has none: start the job with "
        f"rank 0 on node-b (--machine_rank 0 there), copy the folder to node-a, or give another --run"
    )
    save(a / "normal/checkpoints", 16)
    assert "which rank 0 is on now, has an earlier state of it" in check(a, b)[0]
    # What a host was left with by an earlier copy does no harm.
    save(a / "normal/checkpoints", 24)
    assert check(a, b) == [None, None]
    assert check(b, b) == [None, None]


def test_all_ranks_get_the_checkpoint_that_rank_0_sees(tmp_path: Path) -> None:
    save(tmp_path, 8)
    path = tmp_path / "images-000000000008"
    networks = [nn.Linear(64, 64), nn.Linear(64, 64)]
    calls = [
        lambda dist, own=own, at=at: hosts.load_on_all(dist, at, {"net": own})
        for own, at in zip(networks, (path, tmp_path / "none"), strict=True)
    ]
    a, b = on_both(*calls)
    assert a.images == b.images == 8 and a.state == b.state
    assert all(
        torch.equal(x, y) for x, y in zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    )
