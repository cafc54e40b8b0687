"""A process that has imported what the jobs of launch/ import, and forks for each job.

A job starts in milliseconds instead of the seconds that importing torch takes. In all else it is ``python SCRIPT
WORDS``: its own process, folder, environment and cores; of a job under ``accelerate launch``, the launcher is forked.
Requests are lines of JSON on stdin; each is answered with the process id of the job, then with its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

MODULES = (
    "cxrdist.cls.train",
    "cxrdist.gan.train",
    "cxrdist.gan.evaluation.evaluate",
    "cxrdist.synth.synthesize",
    "accelerate",
)


def answer(value: int) -> None:
    os.write(1, f"{value}\n".encode())


def become(job: dict[str, Any]) -> None:
    """Make this process the job."""
    os.setpgid(0, 0)
    for stream, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY),
        (2, job["stderr"], os.O_WRONLY),
    ):
        file = os.open(path, flags)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.sched_setaffinity(0, job["cores"])


def run(command: list[str]) -> None:
    """``python *command``, in this process."""
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


def main() -> dict[str, Any]:
    """Serve until a child has a job to be, or stdin ends."""
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        process = os.fork()
        if process == 0:
            become(job)
            return job
        answer(process)
        answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    return {}


if __name__ == "__main__":
    for module in MODULES:
        __import__(module)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads must not fork"
    gc.freeze()
    if job := main():
        run(job["command"])
