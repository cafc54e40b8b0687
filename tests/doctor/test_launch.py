"""The launch that the doctor starts, on this machine; and what it says of one that failed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdist.doctor.checks import launch as launch_check
from cxrdist.doctor.checks.launch import _of_outcome
from cxrdist.doctor.launch.config import Launch
from cxrdist.doctor.launch.reports import Report, Reporter, read_reports
from cxrdist.doctor.launch.start import Outcome, launch
from cxrdist.doctor.options import DoctorOptions
from tests.helpers.launching import CLONE, launch_environment

ONE = Launch("f", {"num_processes": 2, "num_machines": 1})
TWO = Launch(
    "f", {"num_processes": 2, "num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": 9}
)


def doctor(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cxrdist", "doctor", "--run", str(tmp_path / "runs"), *words]
    environment = {**launch_environment(), "XDG_CONFIG_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    return subprocess.run(command, cwd=CLONE, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_of_this_machine(tmp_path: Path, tiny_set: Path) -> None:
    done = doctor(tmp_path, "--config_file", "configs/accelerate/cpu2.yaml", "--shards", str(tiny_set))
    assert (done.returncode, done.stderr) == (0, "")
    section = done.stdout[done.stdout.index("\nlaunch\n") :]
    text = " ".join(section.split())
    assert re.search(
        r"ok 2 processes on \S+, connected by gloo, DDP ok all-reduce: right sums; 1.0 MiB at ", text
    )
    assert (
        f"ok {tmp_path}/runs: one folder for all processes, and a lock of one holds for the others ok" in text
    )
    assert f"ok {tiny_set}: the same set for all, digest " in text
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.slow
def test_mistakes_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--config_file", "no.yaml", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["errors"]) == (1, "", 1)
    assert found["sections"][-1]["findings"] == [
        {"level": "error", "what": f"no.yaml: no such file; looked for {CLONE}/no.yaml", "cure": ""}
    ]
    done = doctor(tmp_path, "--num-processes", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --num-processes: has no effect without --config-file; add it\n"


@pytest.mark.slow
def test_a_launch_that_does_not_start_is_ended_in_time() -> None:
    words = ["--config_file", str(CLONE / "configs/accelerate/cpu2.yaml")]
    outcome = launch(words, run="runs", shards=None, timeout_s=0.2)
    assert outcome.timed_out and outcome.reports == ()
    (error,) = _of_outcome(ONE, outcome, DoctorOptions(), 0.2)
    assert error.what == "no process was started within 0 s"


def said(plan: Launch, outcome: Outcome) -> list[tuple[str, str]]:
    return [(one.level, one.what) for one in _of_outcome(plan, outcome, DoctorOptions(), 60)]


def test_what_a_failed_launch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_check.socket, "gethostname", lambda: "node-a")
    failed = (
        Report(0, "connect", error="launched with FSDP"),
        Report(1, "connect", error="launched with FSDP"),
    )
    assert said(ONE, Outcome(failed, False, 1, "")) == [("error", "launched with FSDP")]
    apart = (Report(0, "end", result={}), Report(0, "end", result={}))
    what = "2 processes were started, and each of them takes itself for rank 0: each would do the whole job"
    assert said(ONE, Outcome(apart, False, 0, "")) == [("error", what)]
    ended = Outcome((), False, 1, "ValueError: wrong")
    assert said(ONE, ended) == [("error", "accelerate launch ended with exit code 1: ValueError: wrong")]
    waiting = (Report(0, "connect"), Report(1, "start"))
    where = "(rank 0 on node-a in 'connect', rank 1 on node-a in 'start')"
    what = f"the processes did not connect to each other within 60 s {where}"
    assert said(ONE, Outcome(waiting, True, -15, "")) == [("error", what)]
    what = "the processes were connected, and stopped in the middle, after 60 s (rank 0 on node-a in 'pairs')"
    assert said(ONE, Outcome((Report(0, "pairs"),), True, -15, "")) == [("error", what)]


def test_launchers_that_do_not_meet() -> None:
    silence = Outcome((), True, -15, "")
    met = "the launchers of 2 machines did not meet at 127.0.0.1:9 within 60 s"
    assert said(TWO, silence) == [("error", f"{met}: the others did not come")]
    second = Launch("f", {**TWO.values, "machine_rank": 1})
    assert said(second, silence) == [("error", f"{met}: nothing listens there")]


def test_reports_are_read_while_they_are_written(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, 3)
    reporter.write(stage="start")
    with reporter.path.open("a") as file:
        file.write('{"stage": "conn')
    assert read_reports(tmp_path) == [Report(3, "start")]


def test_a_library_that_can_not_be_imported_ends_no_other_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cxrdist.doctor import checkup

    def no_torch(name: str) -> object:
        if name.endswith(".gpus"):
            raise ImportError("libcudart.so.13: cannot open shared object file")
        return real(name)

    real = checkup.import_module
    monkeypatch.setattr(checkup, "import_module", no_torch)
    monkeypatch.setattr(checkup, "CHECKS", {"GPUs": "gpus", "clock": "clock"})
    gpus, clock = checkup.checkup(DoctorOptions(run=str(tmp_path)))
    assert [(one.level, one.what, one.cure) for one in gpus.findings] == [
        ("error", "not checked: libcudart.so.13: cannot open shared object file", "see the section versions")
    ]
    assert [one.level for one in clock.findings] == ["ok"]
