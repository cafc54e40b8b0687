"""The ranks of a job agree on a start of it, in a store that has the keys of starts before."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch

from cxrdist.distributed.connect import agreed_start, check_backend, connect
from cxrdist.errors import UserError
from tests.helpers.launching import CLONE, launch_environment


@pytest.fixture
def store() -> torch.distributed.Store:
    return torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)


def clone(store: Any) -> torch.distributed.Store:
    """For another thread; torch's stubs lack the method."""
    return store.clone()


def start(store: torch.distributed.Store, size: int) -> str:
    """What all ranks of a start agree on, each from a thread."""
    with ThreadPoolExecutor(size) as ranks:
        names = [ranks.submit(agreed_start, clone(store), rank, size) for rank in range(size)]
        (name,) = {one.result(10) for one in names}
    return name


def test_every_start_has_a_name_of_its_own_for_any_number_of_ranks(store: torch.distributed.Store) -> None:
    names = [start(store, size) for size in (3, 3, 1, 2, 4)]
    assert len({*names}) == 5


def test_a_rank_takes_no_answer_to_a_rank_of_an_earlier_start(store: torch.distributed.Store) -> None:
    """Rank 1 asks first, when the store has all keys of the start before; rank 0 comes later."""
    before = start(store, 2)
    with ThreadPoolExecutor(2) as ranks:
        other = ranks.submit(agreed_start, clone(store), 1, 2)
        with pytest.raises(TimeoutError):
            other.result(0.3)
        name = agreed_start(clone(store), 0, 2)
        assert other.result(10) == name != before


def test_ranks_that_do_not_start_are_named(store: torch.distributed.Store) -> None:
    within = timedelta(seconds=0.3)
    with ThreadPoolExecutor(2) as ranks:
        zero = ranks.submit(agreed_start, clone(store), 0, 4, within)
        ranks.submit(agreed_start, clone(store), 2, 4, within).result(10)
        with pytest.raises(UserError, match=r"^ranks 1, 3 of 4 did not start within 0.005 minutes"):
            zero.result(10)
    with pytest.raises(UserError, match=r"^rank 0 of 4 did not start within"):
        agreed_start(clone(store), 3, 4, within)


def test_ranks_with_and_without_gpus_are_refused(store: torch.distributed.Store) -> None:
    check_backend(store, 0, "nccl")
    check_backend(store, 1, "nccl")
    with pytest.raises(
        UserError, match=r"^no GPU is used here, but one by rank 0: start on hosts that have GPUs"
    ):
        check_backend(store, 2, "gloo")


@pytest.fixture
def rank_0(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """This process is rank 0 of two. Its port, which is in use until it is closed."""
    with socket.socket() as port:
        port.bind(("", 0))
        ours = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        ours |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1])}
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        yield port


def test_a_port_in_use_is_said_in_one_line(rank_0: socket.socket) -> None:
    rank_0.listen()
    with pytest.raises(UserError, match=r"^rank 0 did not meet .* at 127.0.0.1:\d+: .*EADDRINUSE.*port$"):
        connect("gloo", timedelta(seconds=1), timedelta(seconds=1))


def test_a_rank_that_meets_no_other_says_so_in_one_line(rank_0: socket.socket) -> None:
    rank_0.close()
    with pytest.raises(
        UserError, match=r"^rank 0 did not meet .* 1/2 clients joined; see the others' errors"
    ):
        connect("gloo", timedelta(seconds=1), timedelta(seconds=1))


LOST = """
import time
from datetime import timedelta
from cxrdist.distributed.connect import connect
from cxrdist.distributed.dist import Dist
from cxrdist.process import main
import os
if os.environ["RANK"] == "0":
    main(lambda: Dist(collective_timeout=0.005))
connect("gloo", timedelta(seconds=30))
time.sleep(60)
"""


def test_a_rank_that_is_lost_before_anybody_watches_is_not_waited_for_without_end(
    rank_0: socket.socket,
) -> None:
    """Rank 1 hangs once it is connected, before the ranks have made their groups."""
    rank_0.close()
    environment = {**launch_environment(), "ACCELERATE_USE_CPU": "true"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LOST],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=CLONE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        _, said = ranks[0].communicate(timeout=50)
        assert ranks[0].returncode == 1
        assert said.count("stopped: another process of this job") == 1 and "Traceback" not in said
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
