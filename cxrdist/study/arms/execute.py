"""Run jobs that depend on each other, several at a time. A failed job stops only those that need it."""

from __future__ import annotations

import functools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cxrdist.console import duration, say
from cxrdist.errors import UserError
from cxrdist.process import die_with_parent
from cxrdist.study.arms.jobs import Job
from cxrdist.study.arms.state import Ledger

STATUS_EVERY_S = 15.0
STATUS_CHARACTERS = 90


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job did not succeed."""

    job: str
    reason: str
    log: Path | None = None
    """Its output; None if it was not started."""
    follows: bool = False
    """It was not started since a job that it needs failed."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A share of the machine: the GPUs or cores of one job at a time."""

    gpus: tuple[int, ...]
    cores: tuple[int, ...]

    def environment(self, parallel: int) -> dict[str, str]:
        """The environment of its jobs."""
        environment = dict(os.environ)
        if self.gpus and parallel > 1:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpus))
        return environment


def slots(parallel: int) -> list[Slot]:
    """``parallel`` shares of this machine. Raises UserError if there are fewer GPUs, or without GPUs fewer cores."""
    import torch

    gpus = list(range(torch.cuda.device_count()))
    cores = sorted(os.sched_getaffinity(0))
    for what, count in (("GPUs", len(gpus)), ("cores", len(cores))):
        if count and count < parallel:
            raise UserError(f"parallel: {parallel} jobs at a time need as many {what}, and there are {count}")
    return [Slot(gpus=tuple(gpus[n::parallel]), cores=tuple(cores[n::parallel])) for n in range(parallel)]


class Executor:
    """Runs the jobs of a study; their output goes to ``<folder>/logs/<job>.log``, and to the terminal if they run one
    at a time."""

    def __init__(self, jobs: Sequence[Job], folder: Path, parallel: int) -> None:
        self.jobs, self.folder, self.parallel = jobs, folder, parallel
        self.ledger = Ledger(folder)
        self.done: set[str] = set()
        self.failures: list[Failure] = []
        self.seconds = 0.0
        self.last_lines: dict[str, str] = {}
        """The last line of output of each running job."""
        self._finished: queue.SimpleQueue[tuple[Job, Slot, str | None]] = queue.SimpleQueue()

    def run(self) -> list[Failure]:
        """Run every job that is not done. Returns the failures, in the order of the jobs."""
        self.began_s = time.monotonic()
        free, waiting, running = slots(self.parallel), list(self.jobs), 0
        while waiting or running:
            waiting = self.without_hopeless(waiting)
            ready = next((job for job in waiting if self.done.issuperset(job.needs)), None)
            if ready is not None and free:
                waiting.remove(ready)
                running += self.start(ready, free)
                continue
            if not running:
                break
            job, slot, reason = self.next_finished()
            running -= 1
            free.append(slot)
            self.note(job, reason)
        order = [job.name for job in self.jobs]
        return sorted(self.failures, key=lambda failure: order.index(failure.job))

    def next_finished(self) -> tuple[Job, Slot, str | None]:
        """Wait for a job to end; meanwhile show how far the running ones are."""
        while True:
            try:
                return self._finished.get(timeout=STATUS_EVERY_S)
            except queue.Empty:
                if self.parallel > 1 and (lines := sorted(self.last_lines.values())):
                    say(" | ".join(lines))

    def without_hopeless(self, waiting: list[Job]) -> list[Job]:
        """The jobs that may still run; those that need a failed one become failures."""
        failed = {failure.job for failure in self.failures}
        for job in list(waiting):
            if causes := [name for name in job.needs if name in failed]:
                self.failures.append(Failure(job=job.name, reason=f"needs {causes[0]}", follows=True))
                failed.add(job.name)
                waiting.remove(job)
        return waiting

    def start(self, job: Job, free: list[Slot]) -> int:
        """Start a job. Returns the number of processes started: 0 if there is nothing to do, or it cannot start."""
        number = f"[{self.jobs.index(job) + 1}/{len(self.jobs)}]"
        elapsed = duration(time.monotonic() - self.began_s)
        try:
            command = job.command()
        except UserError as error:
            self.failures.append(Failure(job=job.name, reason=str(error)))
            say(f"{number} {job.name} failed: {error}")
            return 0
        if self.ledger.is_done(job, command):
            self.done.add(job.name)
            say(f"{number} {job.name}: finished before")
            return 0
        say(f"\n{number} {job.name}  ({elapsed} so far)")
        slot = free.pop(0)
        threading.Thread(target=self.attend, args=(job, command, slot), daemon=True).start()
        return 1

    def attend(self, job: Job, command: list[str], slot: Slot) -> None:
        """Run a job to its end, in a thread of its own."""
        reason: str | None
        try:
            reason = self.execute(job, command, slot)
        except Exception as error:  # the main thread would wait for this job without end
            reason = str(error) or type(error).__name__
        self.last_lines.pop(job.name, None)
        self._finished.put((job, slot, reason))

    def execute(self, job: Job, command: list[str], slot: Slot) -> str | None:
        """Returns why the job failed; None if it succeeded."""
        path = self.log_of(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def prepare() -> None:
            die_with_parent(parent)
            if self.parallel > 1:
                os.sched_setaffinity(0, slot.cores)

        with path.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                preexec_fn=prepare,
                env=slot.environment(self.parallel),
            )
            forward = functools.partial(self.forward, job, log=log)
            assert process.stdout is not None and process.stderr is not None
            output = threading.Thread(target=forward, args=(process.stdout, sys.stdout))
            output.start()
            error = forward(process.stderr, sys.stderr)
            output.join()
            code = process.wait()
        if code == 0:
            self.ledger.succeeded(job, command)
            return None
        return error or f"exit code {code}"

    def forward(self, job: Job, source: IO[str], terminal: IO[str], log: IO[str]) -> str | None:
        """Copy the lines of a stream to the log, and to the terminal if jobs run one at a time. Returns the job's own
        error; what the launcher prints after it is only logged."""
        error = None
        for line in source:
            log.write(line)
            log.flush()
            if terminal is sys.stdout and line.strip():
                self.last_lines[job.name] = f"{job.name}: {line.strip()[:STATUS_CHARACTERS]}"
            if self.parallel == 1 and (error is None or line.startswith("error: ")):
                terminal.write(line)
                terminal.flush()
            if line.startswith("error: ") and error is None:
                error = line.removeprefix("error: ").strip()
        return error

    def log_of(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.name}.log"

    def note(self, job: Job, reason: str | None) -> None:
        if reason is None:
            self.done.add(job.name)
        else:
            self.failures.append(Failure(job=job.name, reason=reason, log=self.log_of(job)))
        if self.parallel > 1 or reason is not None:
            left = len(self.jobs) - len(self.done) - len(self.failures)
            what = "finished" if reason is None else f"failed: {reason} (log: {self.log_of(job)})"
            say(f"{job.name} {what}; {left} jobs left, {duration(time.monotonic() - self.began_s)} so far")
