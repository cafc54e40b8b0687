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
from typing import IO, Any

from cxrdist.console import duration, say
from cxrdist.errors import UserError
from cxrdist.process import die_with_parent
from cxrdist.study.arms.jobs import Job
from cxrdist.study.arms.state import Ledger, Share

STATUS_EVERY_S = 15.0
LOOK_AGAIN_S = 3.0
"""For jobs that others have finished, in a study that is shared."""
STOPS_WITHIN_S = 30.0
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

    def __init__(self, jobs: Sequence[Job], folder: Path, parallel: int, share: Share | None = None) -> None:
        self.jobs, self.folder, self.parallel, self.share = jobs, folder, parallel, share
        self.ledger = Ledger(folder)
        self.left: list[str] = []
        """Jobs that other processes still run."""
        self.done: set[str] = set()
        self.failures: list[Failure] = []
        self.seconds = 0.0
        self.last_lines: dict[str, str] = {}
        """The last line of output of each running job."""
        self._finished: queue.SimpleQueue[tuple[Job, Slot, str | None]] = queue.SimpleQueue()
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._attending: list[threading.Thread] = []
        self._status_s = 0.0

    def run(self) -> list[Failure]:
        """Run every job that is not done. Returns the failures, in the order of the jobs. If a signal stops this
        process, its jobs are stopped first."""
        try:
            self.run_all()
        except BaseException:
            self.stop()
            raise
        order = [job.name for job in self.jobs]
        return sorted(self.failures, key=lambda failure: order.index(failure.job))

    def run_all(self) -> None:
        self.began_s = time.monotonic()
        free, waiting, running = slots(self.parallel), list(self.jobs), 0
        while waiting or running:
            waiting = self.without_hopeless(waiting)
            ready = [job for job in waiting if self.done.issuperset(job.needs)]
            mine = next((job for job in ready if self.take(job)), None) if free else None
            if mine is not None:
                waiting.remove(mine)
                running += self.start(mine, free)
            elif running:
                finished = self.next_finished()
                if finished is not None:
                    job, slot, reason = finished
                    running -= 1
                    free.append(slot)
                    self.note(job, reason)
            elif self.share is None:
                break
            elif len(ready) == len(waiting):  # others run them, and nothing waits for them
                self.left = [job.name for job in waiting]
                break
            else:
                time.sleep(LOOK_AGAIN_S)

    def take(self, job: Job) -> bool:
        return self.share is None or self.share.take(job.name)

    def stop(self) -> None:
        """Stop the running jobs and wait for them, since a scheduler kills what is left when this process has ended.
        Trainings write a checkpoint."""
        for process in list(self._processes.values()):
            process.terminate()
        end_s = time.monotonic() + STOPS_WITHIN_S
        for thread in self._attending:
            thread.join(max(0.0, end_s - time.monotonic()))

    def next_finished(self) -> tuple[Job, Slot, str | None] | None:
        """Wait for a job to end; meanwhile show how far the running ones are. None: it is time to look what others
        have finished."""
        while True:
            try:
                return self._finished.get(timeout=STATUS_EVERY_S if self.share is None else LOOK_AGAIN_S)
            except queue.Empty:
                is_due = time.monotonic() - self._status_s >= STATUS_EVERY_S
                if self.parallel > 1 and is_due and (lines := sorted(self.last_lines.values())):
                    say(" | ".join(lines))
                    self._status_s = time.monotonic()
                if self.share is not None:
                    return None

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
        if self.share is not None and (end := self.share.end_of(job.name)) is not None:
            self.note_of_another(job, end)
            return 0
        try:
            command = job.command()
        except UserError as error:
            self.failures.append(Failure(job=job.name, reason=str(error)))
            self.tell_others(job, str(error))
            say(f"{number} {job.name} failed: {error}")
            return 0
        if self.ledger.is_done(job, command):
            self.done.add(job.name)
            self.tell_others(job, None)
            say(f"{number} {job.name}: finished before")
            return 0
        say(f"\n{number} {job.name}  ({elapsed} so far)")
        thread = threading.Thread(target=self.attend, args=(job, command, free.pop(0)), daemon=True)
        self._attending.append(thread)
        thread.start()
        return 1

    def note_of_another(self, job: Job, end: dict[str, Any]) -> None:
        """A job that another process has run."""
        if end["reason"] is None:
            self.done.add(job.name)
        else:
            log = None if end["log"] is None else Path(end["log"])
            self.failures.append(Failure(job=job.name, reason=end["reason"], log=log))

    def tell_others(self, job: Job, reason: str | None, log: Path | None = None) -> None:
        if self.share is not None:
            self.share.end(job.name, reason, log)

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
            self._processes[job.name] = process
            forward = functools.partial(self.forward, job, log=log)
            assert process.stdout is not None and process.stderr is not None
            output = threading.Thread(target=forward, args=(process.stdout, sys.stdout))
            output.start()
            error = forward(process.stderr, sys.stderr)
            output.join()
            code = process.wait()
        del self._processes[job.name]
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
        self.tell_others(job, reason, self.log_of(job))
        if self.parallel > 1 or reason is not None:
            left = len(self.jobs) - len(self.done) - len(self.failures)
            what = "finished" if reason is None else f"failed: {reason} (log: {self.log_of(job)})"
            say(f"{job.name} {what}; {left} jobs left, {duration(time.monotonic() - self.began_s)} so far")
