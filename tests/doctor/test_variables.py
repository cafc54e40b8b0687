"""Variables of the environment, and what W&B finds in it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from wandb.sdk import wandb_setup

from cxrdist.distributed.launch_settings import SETTINGS
from cxrdist.doctor.checks import tracking, variables
from cxrdist.doctor.checks.variables import OF_RANKS, THREADS
from cxrdist.doctor.findings import Look, section
from cxrdist.doctor.options import DoctorOptions
from cxrdist.run.tracking.login import Login, why_unreachable

Patch = pytest.MonkeyPatch


def found(look: Look, **options: object) -> list[tuple[str, str]]:
    found = section("", look, DoctorOptions(**options)).findings  # type: ignore[arg-type]
    return [(one.level, one.what) for one in found]


@pytest.fixture(autouse=True)
def clean(monkeypatch: Patch) -> None:
    for name in (
        *OF_RANKS,
        *THREADS,
        *(setting.variable for setting in SETTINGS),
        "WANDB_MODE",
        "WANDB_DISABLED",
    ):
        monkeypatch.delenv(name, raising=False)


def test_a_clean_environment() -> None:
    assert found(variables.look) == [("ok", "nothing that an earlier job left, and nothing that jobs refuse")]


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
            (
                "warning",
                "MASTER_ADDR=10.0.0.1, MASTER_PORT=29500: set in this shell, though launchers set them for "
                "their ranks",
            ),
        ),
        (
            {"RANK": "1"},
            (
                "error",
                "RANK=1, but WORLD_SIZE is not set: an earlier job may have left it; unset RANK, or start the job "
                "with accelerate launch or torchrun",
            ),
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, ("error", "ACCELERATE_USE_FSDP=true is refused by the jobs")),
        ({"ACCELERATE_LOG_LEVEL": "info"}, ("warning", "ACCELERATE_LOG_LEVEL=info is not used by the jobs")),
        ({"OMP_NUM_THREADS": "1"}, ("ok", "OMP_NUM_THREADS=1: threads of each process on CPU")),
        (
            {"OMP_NUM_THREADS": "all"},
            ("warning", "OMP_NUM_THREADS=all is no number of threads, so it is ignored"),
        ),
        (
            {"GLOO_SOCKET_IFNAME": "ib9"},
            ("error", "GLOO_SOCKET_IFNAME=ib9, and this machine has no such network interface"),
        ),
        (
            {"NCCL_SOCKET_IFNAME": "^docker0,lo"},
            ("ok", "nothing that an earlier job left, and nothing that jobs refuse"),
        ),
    ],
)
def test_each_variable(environment: dict[str, str], line: tuple[str, str], monkeypatch: Patch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert found(variables.look) == [line]


def test_more_threads_than_cores(monkeypatch: Patch) -> None:
    monkeypatch.setattr(variables, "available_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    what = "OMP_NUM_THREADS=8 threads for each process, on 4 cores: they wait for each other"
    assert found(variables.look) == [("warning", what)]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_left_in_time(silent_server: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(tracking, "login", lambda: Login("online", "WANDB_API_KEY", silent_server))
    monkeypatch.setattr(tracking, "TIMEOUT_S", 0.3)
    began_s = time.monotonic()
    ((level, what),) = found(tracking.look)
    assert time.monotonic() - began_s < 2
    assert level == "warning"
    assert what.startswith(f"online, with the key of WANDB_API_KEY, but {silent_server} does not answer (")


def test_a_server_that_answers_gets_no_key(monkeypatch: Patch) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            asked.append(connection.recv(10_000))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(tracking, "login", lambda: Login("online", "WANDB_API_KEY", address))
        what = f"online: {address} answers, and WANDB_API_KEY has a key (whether it is valid was not asked)"
        assert found(tracking.look) == [("ok", what)]
        thread.join()
    assert asked[0].startswith(b"HEAD / HTTP/1.1") and b"kkk" not in asked[0]
    assert "refused" in why_unreachable(address, 1.0)


def test_modes_of_wandb(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert found(tracking.look) == [
        ("ok", "disabled by WANDB_MODE or WANDB_DISABLED: metrics are in metrics.jsonl")
    ]
    monkeypatch.setenv("WANDB_MODE", "on")
    assert found(tracking.look) == [("error", "WANDB_MODE is 'on': set it to online, offline or disabled")]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert found(tracking.look) == [
        ("ok", "offline, since WANDB_MODE or WANDB_DISABLED says so: `wandb sync` uploads runs later")
    ]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tracking, "login", lambda: Login("online", "", "https://api.wandb.ai"))
    ((level, what),) = found(tracking.look)
    assert (level, what) == ("warning", "WANDB_MODE is online, and there is no key for https://api.wandb.ai")


def test_a_password_in_the_address_of_the_server_is_not_shown(monkeypatch: Patch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    # wandb reads WANDB_BASE_URL once in a process.
    settings = SimpleNamespace(base_url="http://user:secret@127.0.0.1:1")
    monkeypatch.setattr(wandb_setup, "singleton", lambda: SimpleNamespace(settings=settings))
    ((level, what),) = found(tracking.look)
    assert level == "warning"
    assert what.startswith("online, with the key of WANDB_API_KEY, but http://127.0.0.1:1 does not answer (")
    assert "secret" not in what and "refused" in what


def test_an_answer_that_is_not_http_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(10_000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert (
            why_unreachable(f"http://127.0.0.1:{server.getsockname()[1]}", 5.0) == "SSH-2.0-OpenSSH_9.2\r\n"
        )
        thread.join()
