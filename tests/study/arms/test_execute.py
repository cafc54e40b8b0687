"""Running jobs: order, several at a time, failures, and what a second start does."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from cxrdist.errors import UserError
from cxrdist.study.arms import execute
from cxrdist.study.arms.execute import Executor, Slot, slots
from cxrdist.study.arms.jobs import Job
from cxrdist.study.arms.state import Share
from tests.helpers.processes import wait_until


def job(name: str, *needs: str, code: str = "", run: Path | None = None) -> Job:
    command = [sys.executable, "-S", "-c", code or f"open({name!r}, 'a').write('x')"]
    return Job(name=name, kind="classifier", command=lambda: command, needs=needs, run=run)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_failed_job_stops_those_that_need_it_and_no_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fail = "import sys; print('half way'); print('error: no disk', file=sys.stderr); sys.exit(2)"
    chain = [job("a"), job("b", "a", code=fail), job("c", "b"), job("d", "c"), job("e", "a")]
    failures = Executor(chain, tmp_path / "study", 1).run()
    log = tmp_path / "study/logs/b.log"
    assert [(f.job, f.reason, f.log) for f in failures] == [
        ("b", "no disk", log),
        ("c", "needs b", None),
        ("d", "needs c", None),
    ]
    assert sorted(log.read_text().splitlines()) == ["error: no disk", "half way"]
    assert Path("a").is_file() and Path("e").is_file() and not Path("c").exists()
    assert f"b failed: no disk (log: {log})" in capfd.readouterr().out


def test_a_second_start_runs_what_is_missing_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json").write_text('{"status": "finished"}')
    first = job("a", run=run)
    assert Executor([first, job("b", "a", code="raise SystemExit(3)")], tmp_path / "study", 1).run() != []
    capfd.readouterr()
    assert Executor([first, job("b", "a")], tmp_path / "study", 1).run() == []
    assert Path("a").read_text() == "x" and Path("b").read_text() == "x"
    assert "[1/2] a: finished before" in capfd.readouterr().out


def test_independent_jobs_run_at_the_same_time_each_on_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = (
        "import os, time, pathlib; pathlib.Path('{0}').touch()\n"
        "began = time.monotonic()\n"
        "while not pathlib.Path('{1}').exists():\n"
        "    assert time.monotonic() - began < 20; time.sleep(0.01)\n"
        "pathlib.Path('{0}.cores').write_text(repr(sorted(os.sched_getaffinity(0))))"
    )
    core = min(os.sched_getaffinity(0))
    monkeypatch.setattr(execute, "slots", lambda parallel: [Slot(gpus=(), cores=(core,))] * 2)
    pair = [job("a", code=meet.format("a", "b")), job("b", code=meet.format("b", "a"))]
    began_s = time.monotonic()
    assert Executor(pair, tmp_path / "study", 2).run() == []
    assert time.monotonic() - began_s < 20
    assert Path("a.cores").read_text() == Path("b.cores").read_text() == f"[{core}]"


def test_slots_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    assert [slot.cores for slot in slots(2)] == [(0, 2, 4), (1, 3)]
    with pytest.raises(UserError, match="parallel: 6 jobs at a time need as many cores, and there are 5"):
        slots(6)
    gpus = Slot(gpus=(2, 3), cores=(0,))
    assert gpus.environment(2)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert gpus.environment(1) == dict(os.environ)


def test_a_job_that_cannot_be_planned_fails_alone(tmp_path: Path) -> None:
    def refuse() -> list[str]:
        raise UserError("no manifest")

    broken = Job(name="a", kind="classifier", command=refuse)
    failures = Executor([broken, job("b"), job("c", "a")], tmp_path / "study", 1).run()
    assert [(f.job, f.reason) for f in failures] == [("a", "no manifest"), ("c", "needs a")]
    assert Path("b").exists()


def test_a_fault_while_a_job_is_attended_is_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the study would wait for it without end."""

    def fault(*_: object) -> str:
        raise ValueError("odd")

    monkeypatch.setattr(Executor, "execute", fault)
    failures = Executor([job("a"), job("b", "a")], tmp_path / "study", 1).run()
    assert [(f.job, f.reason, f.follows) for f in failures] == [("a", "odd", False), ("b", "needs a", True)]


def shared(jobs: list[Job], folder: Path, name: str = "7") -> Executor:
    return Executor(jobs, folder, 1, Share(folder, name))


def test_a_study_that_is_shared_runs_each_job_once_and_all_learn_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "LOOK_AGAIN_S", 0.02)
    fail = "open('bad', 'a').write('x'); raise SystemExit(3)"
    jobs = [*(job(f"a{n}") for n in range(4)), job("bad", code=fail), job("b", *(f"a{n}" for n in range(4)))]
    jobs += [job("c", "b"), job("d", "bad")]
    executors = [shared(jobs, tmp_path / "study") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(Executor.run, executors))
    assert {name: Path(name).read_text() for name in ("a0", "a1", "a2", "a3", "bad", "b", "c")} == {
        name: "x" for name in ("a0", "a1", "a2", "a3", "bad", "b", "c")
    }
    assert not Path("d").exists()
    stayed = [found for executor, found in zip(executors, ended) if not executor.left]
    assert stayed
    for found in stayed:
        assert [(f.job, f.reason) for f in found] == [("bad", "exit code 3"), ("d", "needs bad")]
    # The next attempt tries what has failed again.
    assert [f.job for f in shared(jobs, tmp_path / "study", "8").run()] == ["bad", "d"]
    assert Path("bad").read_text() == "xx"


def test_who_finds_that_others_run_all_that_is_left_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    other = Share(folder, "7")
    assert other.take("b")
    here = shared([job("a"), job("b")], folder)
    assert here.run() == [] and here.left == ["b"] and here.done == {"a"}
    assert Path("a").exists() and not Path("b").exists()
    other.end("b", "no disk", tmp_path / "b.log")
    late = shared([job("a"), job("b")], folder)
    assert [(f.job, f.reason, f.log) for f in late.run()] == [("b", "no disk", tmp_path / "b.log")]
    assert late.left == [] and Path("a").read_text() == "x"


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3); pathlib.Path("saved").touch(); sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("begun").touch()
time.sleep(60)
"""


def test_a_study_that_is_stopped_stops_its_jobs_and_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: Executor) -> NoReturn:
        wait_until(Path("begun").exists)
        raise KeyboardInterrupt

    monkeypatch.setattr(Executor, "next_finished", stopped)
    with pytest.raises(KeyboardInterrupt):
        Executor([job("a", code=SAVES)], tmp_path / "study", 1).run()
    assert Path("saved").exists()
