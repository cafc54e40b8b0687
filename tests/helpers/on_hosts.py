"""Start the jobs of launch/ on several hosts of ``hosts.py``, as docs/scaling.md says: one launcher on each."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.helpers.hosts import Host
from tests.helpers.launching import CLONE, JOB_TIMEOUT_S, launch_environment

C10D = ("--rdzv_backend", "c10d")
"""The hosts find each other in any order, and rank 0 is on the one whose name comes first."""
CONFIG = str(CLONE / "configs/accelerate/multi-node.yaml")
Done = subprocess.CompletedProcess[str]


def start_on(
    hosts: Sequence[Host],
    script: str | Path,
    *words: str,
    cwd: Path,
    processes: int | None = None,
    mounted: Path | None = None,
    only: Mapping[Host, Sequence[str]] | None = None,
    launcher: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> list[subprocess.Popen[str]]:
    """``accelerate launch`` on each host, the first of which has rank 0. ``script``: in launch/;
    ``processes``: of all hosts, by default one on each; ``mounted``: see ``Host.command``; ``only``: more words on
    some hosts; ``launcher``: more words of accelerate's."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG]
    command += ["--num_machines", str(len(hosts)), "--num_processes", str(processes or len(hosts))]
    command += ["--main_process_ip", hosts[0].address, *launcher]
    job = [str(CLONE / "launch" / script), *words]
    return [
        host.start(
            *command,
            *("--machine_rank", str(rank)),
            *job,
            *(only or {}).get(host, ()),
            cwd=cwd,
            env={**launch_environment(), **(env or {})},
            mounted=mounted,
        )
        for rank, host in enumerate(hosts)
    ]


def ended(started: Iterable[subprocess.Popen[str]], timeout_s: float = JOB_TIMEOUT_S) -> list[Done]:
    """What they said, once all have ended; after ``timeout_s`` they are killed."""
    done = []
    for process in started:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        done.append(Done(process.args, process.returncode, stdout, stderr))
    return done


def launch_on(hosts: Sequence[Host], script: str, *words: str, cwd: Path, **options: Any) -> list[Done]:
    """``start_on``, to the end."""
    return ended(start_on(hosts, script, *words, cwd=cwd, **options))


def run_on(hosts: Sequence[Host], script: str, *words: str, cwd: Path, **options: Any) -> list[Done]:
    """``launch_on``, which succeeds on every host."""
    done = launch_on(hosts, script, *words, cwd=cwd, **options)
    for of in done:
        assert of.returncode == 0, of.stdout + of.stderr
    return done
