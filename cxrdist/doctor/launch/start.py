"""Start the processes of a config by ``accelerate launch`` on this machine, and wait a bounded time for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cxrdist.doctor.launch.rank import Task
from cxrdist.doctor.launch.reports import Report, read_reports

POLL_S = 0.1
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
ROOT = Path(__file__).resolve().parents[3]
_NOISE = ("warnings.warn", "Traceback", "FutureWarning", "UserWarning")


@dataclass(frozen=True)
class Outcome:
    """``reports``: of this machine's processes; ``timed_out``: they made no progress, and were ended; ``code``: the
    launcher's exit code otherwise; ``last_words``: its last line of text."""

    reports: tuple[Report, ...]
    timed_out: bool
    code: int
    last_words: str


def launch(words: Sequence[str], *, run: str, shards: str | None, timeout_s: float) -> Outcome:
    """Start ``accelerate launch`` with ``words``, and end it after ``timeout_s`` in which no rank went on."""
    # Ranks that are killed may still be there for a moment.
    with tempfile.TemporaryDirectory(prefix="cxrdist-doctor-", ignore_cleanup_errors=True) as folder:
        reports, log = Path(folder, "reports"), Path(folder, "log")
        reports.mkdir()
        task = json.dumps(asdict(Task(str(reports), run, shards)))
        command = [sys.executable, "-m", "accelerate.commands.launch", *words]
        command += ["--module", "cxrdist.doctor.launch.rank", task]
        with log.open("wb") as output:
            launcher = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])},
                start_new_session=True,
            )
            try:
                timed_out = _timed_out(launcher, reports, timeout_s)
            finally:
                _end(launcher)
        return Outcome(
            tuple(read_reports(reports)),
            timed_out,
            launcher.returncode,
            _last_words(log.read_text(errors="replace")),
        )


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def _timed_out(launcher: subprocess.Popen[bytes], reports: Path, timeout_s: float) -> bool:
    """Wait until the launcher has ended, or no rank has gone on for ``timeout_s``."""
    before: list[Report] = []
    since = time.monotonic()
    while launcher.poll() is None:
        now = read_reports(reports)
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > timeout_s:
            return True
        time.sleep(POLL_S)
    return False


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """The ranks end with their launcher, which passes SIGTERM on to them."""
    if launcher.poll() is not None:
        return
    launcher.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(GRACE_S)
        return
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not any(word in line for word in _NOISE)]
    errors = [line for line in said if "Error: " in line or line.startswith("error: ")]
    return (errors or said or [""])[-1][:300]
