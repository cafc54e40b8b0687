"""Start the jobs of launch/ as users do, on CPU."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[2]
JOB_TIMEOUT_S = 300


def launch(
    script: str, *words: str, cwd: Path, processes: int = 1, config: str = "cpu2.yaml"
) -> subprocess.CompletedProcess[str]:
    """``launch/<script>`` on CPU, under ``accelerate launch`` if there are several processes.

    The first process is forked from one that has imported torch: see ``job_server``.
    """
    command = launch_command(script, *words, processes=processes, config=config)
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        stdout.touch()
        stderr.touch()
        job: dict[str, Any] = {"command": command[1:], "cwd": str(cwd), "env": launch_environment()}
        job |= {"cores": sorted(os.sched_getaffinity(0)), "stdout": str(stdout), "stderr": str(stderr)}
        code = _server().run(job)
        return subprocess.CompletedProcess(command, code, stdout.read_text(), stderr.read_text())


class _Server:
    """A ``job_server`` of this process; it ends with its stdin, so with this process at the latest."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.job_server"],
            cwd=CLONE,
            env=launch_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: dict[str, Any]) -> int:
        """The job's exit code, negative for a signal."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        process = self._answer()
        timer = threading.Timer(JOB_TIMEOUT_S, os.killpg, (process, signal.SIGKILL))
        timer.start()
        try:
            return self._answer()
        finally:
            timer.cancel()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the job server has ended"
        return int(line)


@functools.cache
def _server() -> _Server:
    return _Server()


def launch_command(script: str, *words: str, processes: int = 1, config: str = "cpu2.yaml") -> list[str]:
    command = [sys.executable]
    if processes > 1:
        file = str(CLONE / "configs/accelerate" / config)
        command += ["-m", "accelerate.commands.launch", "--config_file", file]
        command += ["--num_processes", str(processes)]
    return [*command, str(CLONE / "launch" / script), *words]


def launch_environment() -> dict[str, str]:
    # W&B's background process of this process would write a job's files too, and not where the job runs.
    ours = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {
        **ours,
        "PYTHONPATH": str(CLONE),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while others use the cores double a job's time
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
    }


def run(script: str, *words: str, cwd: Path, processes: int = 1) -> str:
    done = launch(script, *words, cwd=cwd, processes=processes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def replaced(words: list[str], *changes: str) -> list[str]:
    """Words of a command line with some options and values replaced or added: an option may be given only once."""
    options = dict(zip(changes[::2], changes[1::2], strict=True))
    kept = list(words)
    for option in options:
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return [*kept, *changes]
