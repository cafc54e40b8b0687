"""What is done of a study, and by whom: a job is skipped if its run is finished and its command and config files are
those that finished it, or if another process that shares the study runs it.

runs/<study>/jobs/<job>.json             the command, and the digests of its config files and inputs, when it last
                                         succeeded
runs/<study>/jobs/<job>/.lock            held by a process that shares the study and runs the job
runs/<study>/shared/<name>/<job>.json    how the job ended, for the others
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cxrdist.config.yaml_files import find
from cxrdist.errors import UserError
from cxrdist.files import FolderLock, canonical_json, is_listed, read_json, sha256_file, slug, write_atomic
from cxrdist.study.arms.jobs import SOFT_LABELS, Job
from cxrdist.study.report.reading.evaluation import read_evaluation


class Ledger:
    """The jobs of a study that have succeeded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"

    def is_done(self, job: Job, command: Sequence[str]) -> bool:
        """True if there is nothing left to do. Changed options are for the job itself to refuse."""
        return self._was_this(job, command) and is_finished(job)

    def succeeded(self, job: Job, command: Sequence[str]) -> None:
        write_atomic(self._path(job), canonical_json(_identity(job, command)))

    def _was_this(self, job: Job, command: Sequence[str]) -> bool:
        try:
            return bool(read_json(self._path(job)) == _identity(job, command))
        except (UserError, OSError):
            return False

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"


def _identity(job: Job, command: Sequence[str]) -> dict[str, Any]:
    """``--config`` files and inputs may change under the same command line."""
    files = [word for option, word in pairwise(command) if option == "--config"]
    files += [word.removeprefix("--config=") for word in command if word.startswith("--config=")]
    digests = {file: sha256_file(find(file)) for file in files}
    digests |= {str(path): sha256_file(path) for path in job.inputs}
    return {"command": list(command[1:]), "files": digests}


def is_finished(job: Job) -> bool:
    """True if the run of a job says that it is finished; an import finds out itself."""
    if job.run is None:
        return False
    if job.kind == "prediction":
        return (job.run / SOFT_LABELS).is_file()
    if job.kind == "evaluation":
        evaluation = read_evaluation(job.run)
        return evaluation is not None and evaluation.is_current
    return (job.run / "summary.json").is_file() and read_json(job.run / "summary.json").get(
        "status"
    ) == "finished"


class Share:
    """This process's part of a study that several processes run, each the jobs that no other one does.

    ``name``: of the attempt, the same in all of them. A job ends once in each attempt: one that has failed is not
    tried again by the others, but in the next attempt.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._locks, self._ends = folder / "jobs", folder / "shared" / slug(name)
        self._held: dict[str, FolderLock] = {}

    def end_of(self, name: str) -> dict[str, Any] | None:
        """How a job ended: ``reason`` (None for success) and ``log``; None if it has not."""
        path = self._ends / f"{name}.json"
        return dict(read_json(path)) if is_listed(path) else None

    def take(self, name: str) -> bool:
        """False if another process has the job; then it is that one's to run. What has ended is nobody's any more."""
        if self.end_of(name) is not None or name in self._held:
            return True
        try:
            lock = FolderLock(self._locks / name, "a study")
        except UserError:
            return False
        if self.end_of(name) is not None:  # between the look and the lock
            lock.release()
        else:
            self._held[name] = lock
        return True

    def end(self, name: str, reason: str | None, log: Path | None = None) -> None:
        """Tell the others how a job that this process has taken ended, and give it up."""
        end = {"reason": reason, "log": None if log is None else str(log)}
        write_atomic(self._ends / f"{name}.json", canonical_json(end))
        self._held.pop(name).release()
