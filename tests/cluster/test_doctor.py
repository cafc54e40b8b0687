"""`cxrdist doctor` on two hosts: what it finds of the network between them, their folders, and a lost one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hosts import Host, hosts, why_not
from tests.helpers.launching import CLONE, launch_environment

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TIMEOUT_S = 40
PORT = 29544
CONFIG = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 2
num_processes: 2
machine_rank: 0
main_process_ip: 10.77.0.1
main_process_port: 29544
mixed_precision: "no"
"""
Found = list[tuple[str, str, str]]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Host]]:
    if reason := why_not():
        pytest.skip(reason)
    with hosts(tmp_path) as made:
        yield made


def start(
    host: Host, number: int, folder: Path, *, own: bool = False, timeout_s: int = TIMEOUT_S
) -> subprocess.Popen[str]:
    """The doctor on a host. ``own``: the host has a folder of its own where runs lie."""
    config = folder / "two.yaml"
    config.write_text(CONFIG)
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cxrdist", "doctor", "--config_file", str(config), "--json"]
    command += ["--machine_rank", str(number), "--run", str(shared / "runs"), "--timeout", str(timeout_s)]
    environment = {**launch_environment(), "XDG_CONFIG_HOME": str(folder)}
    return host.start(*command, cwd=CLONE, env=environment, mounted=shared if own else None)


def findings(doctor: subprocess.Popen[str]) -> tuple[int, Found]:
    """Exit code, and level, text and cure of what the launch found."""
    stdout, stderr = doctor.communicate(timeout=4 * TIMEOUT_S)
    assert stderr == ""
    (launch,) = [section for section in json.loads(stdout)["sections"] if section["title"] == "launch"]
    return doctor.returncode, [(each["level"], each["what"], each["cure"]) for each in launch["findings"]]


def both(two: list[Host], folder: Path, **options: Any) -> list[tuple[int, Found]]:
    started = [start(host, number, folder, **options) for number, host in enumerate(two)]
    return [findings(doctor) for doctor in started]


def speed_of(found: Found, size: str) -> float:
    """MB/s of an all-reduce of ``size`` in the line that has it."""
    (line,) = [what for _, what, _ in found if what.startswith("all-reduce: right sums; ")]
    return float(line.split(f"{size} at ")[1].split(" MB/s")[0])


def test_a_shared_folder_and_a_narrow_network(two: list[Host], tmp_path: Path) -> None:
    for host in two:
        host.shape("tbf", "rate", "8mbit", "burst", "32k", "latency", "400ms")
    for code, found in both(two, tmp_path):
        assert code == 0, found
        assert found[0] == ("ok", "2 processes on node-a, node-b, connected by gloo, DDP", "")
        # 8 Mbit/s are 1 MB/s, with what TCP adds; the first 32 KiB go through at once.
        assert 0.7 < speed_of(found, "1.0 MiB") < 1.1
        assert [level for level, _, _ in found] == ["ok", "warning", "ok", "ok", "ok"]
        assert found[1][1].endswith(": slower than Ethernet of 1 Gbit/s")
        assert found[2][1].startswith("clocks of the machines agree within 0.")
        assert found[3][1] == "all machines have the same versions and commit"
        runs = tmp_path / "shared" / "runs"
        assert found[4][1] == f"{runs}: one folder for all 2 machines, and a lock of one holds for the others"
        assert not runs.exists()


def test_a_folder_of_each_host_is_said_on_both(two: list[Host], tmp_path: Path) -> None:
    runs = tmp_path / "shared" / "runs"
    for code, found in both(two, tmp_path, own=True):
        assert code == 1
        (error,) = [each for each in found if each[0] == "error"]
        assert error[1] == (
            f"{runs}: node-b does not see what node-a writes there: a run can't be resumed, and evaluation and "
            "synthesis do not find it"
        )
        assert error[2] == "give a --run on a file system that all machines mount, at the same path"


def test_a_master_that_can_not_be_reached_is_named_in_bounded_time(two: list[Host], tmp_path: Path) -> None:
    two[0].connect(False)
    began_s = time.monotonic()
    (code_a, found_a), (code_b, found_b) = both(two, tmp_path, own=True)
    assert time.monotonic() - began_s < TIMEOUT_S + 40
    assert (code_a, code_b) == (1, 1)
    ((level, what, cure),) = found_a
    assert (level, what.partition(" within ")[0]) == (
        "error",
        f"the launchers of 2 machines did not meet at 10.77.0.1:{PORT}",
    )
    assert what.endswith(": the others did not come") and "--machine_rank 1" in cure
    ((level, what, cure),) = found_b
    assert (level, what.partition(" within ")[0]) == (
        "error",
        f"the launchers of 2 machines did not meet at 10.77.0.1:{PORT}",
    )
    assert what.endswith((": it can't be reached (No route to host)", ": it can't be reached (no answer)"))
    assert cure == f"check main_process_ip, the cable, and the firewall of machine 0 for port {PORT}"


def test_a_network_that_stands_still_ends_in_bounded_time(two: list[Host], tmp_path: Path) -> None:
    for host in two:
        host.shape("tbf", "rate", "64kbit", "burst", "32k", "latency", "4s")  # two minutes for 1 MiB
    began_s = time.monotonic()
    for number, (code, found) in enumerate(both(two, tmp_path, timeout_s=20)):
        ((level, what, cure),) = found
        assert (code, level) == (1, "error")
        assert what.startswith("the processes were connected, and stopped in the middle, after ")
        assert what.endswith(f" s (rank {number} on node-{'ab'[number]} in 'all-reduce')")
        assert cure.startswith("a machine or its network was lost, or is very slow: try --timeout 300")
    assert time.monotonic() - began_s < 80
    assert [host.processes() for host in two] == [[], []]


def test_a_host_that_starts_alone_is_told_to_start_the_master(two: list[Host], tmp_path: Path) -> None:
    code, found = findings(start(two[1], 1, tmp_path, timeout_s=15))
    ((level, what, cure),) = found
    assert (code, level) == (1, "error")
    assert what.endswith(": nothing listens there") and "--machine_rank 0" in cure
