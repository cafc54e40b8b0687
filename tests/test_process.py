from __future__ import annotations

import subprocess
import sys

import pytest

from cxrdist import process

NAMES_ITS_PARENT = """
import os, subprocess, sys
from cxrdist.process import die_with_parent
die_with_parent({parent})
print("lives")
"""


def child(parent: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NAMES_ITS_PARENT.format(parent=parent)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_child_of_the_parent_it_names_lives() -> None:
    assert child("os.getppid()").stdout == "lives\n"


def test_a_child_whose_parent_is_gone_says_so_and_ends() -> None:
    done = child("os.getppid() + 1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "stopped: the process that started this one has ended\n"


def test_a_command_that_is_process_1_may_have_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: the parent is process 1, and it is the one that the child was told of."""
    monkeypatch.setattr(process.os, "getppid", lambda: 1)
    monkeypatch.setattr(process.os, "_exit", lambda _: pytest.fail("killed itself"))
    monkeypatch.setattr(process.ctypes, "CDLL", lambda *_, **__: type("C", (), {"prctl": lambda *_: 0})())
    process.die_with_parent(1)
