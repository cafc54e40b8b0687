"""Who prints an error, and how often, when several ranks have one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.launching import CLONE

RANK = """
import sys
from cxrdist.process import main
from cxrdist.errors import UserError

def fail():
    raise UserError(sys.argv[1], is_named=sys.argv[2:] == ["named"])

main(fail)
"""


def ranks(*errors: str, local: int | None = None, words: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """A process for each rank of one launcher (this process), which ends with its error."""
    started = []
    for rank, error in enumerate(errors):
        environment = {**os.environ, "PYTHONPATH": str(CLONE), "RANK": str(rank)}
        environment |= {"WORLD_SIZE": str(len(errors)), "LOCAL_WORLD_SIZE": str(local or len(errors))}
        command = [sys.executable, "-c", RANK, error, *words]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return started


def said(started: list[subprocess.Popen[str]]) -> list[str]:
    lines = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [2] * len(started)
    return lines


def test_the_same_error_of_all_ranks_is_said_once_by_rank_0() -> None:
    assert said(ranks("--lr: must be above 0", "--lr: must be above 0", "--lr: must be above 0")) == [
        "error: --lr: must be above 0\n",
        "",
        "",
    ]


def test_an_error_of_one_rank_names_it_and_its_machine() -> None:
    host = os.uname().nodename
    assert said(ranks("a", "b"))[1] == f"error: rank 1 on {host}: b\n"
    # On several machines rank 0 needs its name too; an error that has one gets no other.
    assert said(ranks("a", "b", local=1))[0] == f"error: rank 0 on {host}: a\n"
    assert said(ranks("rank 1 on x: a", "rank 1 on x: a", local=1, words=("named",))) == [
        "error: rank 1 on x: a\n",
        "",
    ]


def test_a_process_alone_ends_at_once() -> None:
    began_s = time.monotonic()
    assert said(ranks("a")) == ["error: a\n"]
    alone_s = time.monotonic() - began_s
    began_s = time.monotonic()
    said(ranks("a", "a"))
    assert time.monotonic() - began_s > max(2, alone_s)


UNEXPECTED = """
from cxrdist.process import main

def fail():
    raise ZeroDivisionError("so it is")

main(fail)
"""


def test_an_unexpected_error_of_a_launched_process_has_its_traceback_in_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    environment = {**os.environ, "PYTHONPATH": str(CLONE)}
    done = subprocess.run([sys.executable, "-c", UNEXPECTED], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    told = json.loads((tmp_path / "error.json").read_text())["message"]["extraInfo"]["py_callstack"]
    for text in (done.stderr, told):
        assert text.startswith("Traceback") and text.rstrip().endswith("ZeroDivisionError: so it is")


def test_the_launcher_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    said(ranks("it is so"))
    assert (
        json.loads((tmp_path / "error.json").read_text())["message"]["extraInfo"]["py_callstack"]
        == "it is so"
    )
