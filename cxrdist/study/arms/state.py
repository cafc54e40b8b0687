"""What is done of a study: a job is skipped if its run is finished and its command and config files are those that
finished it.

runs/<study>/jobs/<job>.json   the command, and the digests of its config files and inputs, when it last succeeded
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cxrdist.config.yaml_files import find
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, read_json, sha256_file, write_atomic
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
