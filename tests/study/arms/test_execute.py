"""Running jobs: order, several at a time, failures, and what a second start does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from cxrdist.errors import UserError
from cxrdist.study.arms import execute
from cxrdist.study.arms.execute import Executor, Slot, slots
from cxrdist.study.arms.jobs import Job


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
