"""Watch other processes: their children, and whether they still run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def wait_until(
    is_so: Callable[[], Any],
    process: subprocess.Popen[Any] | None = None,
    *,
    timeout_s: float = 120,
) -> None:
    """Poll until ``is_so()``; fail if ``process`` ends first."""
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert process is None or process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end_s, f"not so after {timeout_s:g} s"
        time.sleep(0.05 if process is None else 0.001)  # a process to be killed at that moment: 1 ms


def children(process: int) -> list[int]:
    """The processes that any thread of ``process`` started."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def descendants(process: int) -> list[int]:
    found = children(process)
    return [*found, *(grandchild for child in found for grandchild in descendants(child))]


def workers_of(process: int) -> list[int]:
    """Spawned workers, without the resource tracker that the parent also starts."""
    return [child for child in children(process) if b"--multiprocessing-fork" in _command_line(child)]


def _command_line(process: int) -> bytes:
    """Empty for a process that has ended since it was listed."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(processes: list[int]) -> list[int]:
    return [process for process in processes if is_running(process)]
