"""The folder of a run: its lock, ``config.yaml`` and ``summary.json``, and whether a job may resume it."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cxrdist import __version__
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.files import (
    LOCK_NAME,
    FolderLock,
    canonical_json,
    read_json,
    remove_temporaries,
    sha256_bytes,
    write_atomic,
)

CONFIG = "config.yaml"
SUMMARY = "summary.json"
# Options that may differ when a run is resumed.
FREE_KEYS = frozenset(
    {
        "run",
        "shards",
        "synthetic",
        "gan",
        "tracking",
        "classes",
        "out",
        "loader",
        "threads",
        "collective_timeout",
    }
    | {"placement", "keep", "checkpoint_minutes", "on_collapse", "preset", "extend", "classifiers"}
)
_LONGER = {
    "gan": "; --extend trains a finished run on",
    "cls": "; a classifier cannot be trained on, since its learning rate follows the budget",
}
"""What may be done about another budget."""


class RunFolder:
    """The folder of a run, locked by this process.

    Raises UserError if another job has locked it, if it has other files, or if it has a run with another config.
    """

    def __init__(self, folder: Path, job: str, config: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give a folder with --run")
        self.lock = FolderLock(folder, f"a {job} job")
        try:
            remove_temporaries(folder)
            self._refuse_other_files()
            if self._has_begun():
                self._check_config(job, config)
            else:
                _write_config(folder, {**config, **({"extend": False} if "extend" in config else {})})
        except BaseException:
            self.lock.release()
            raise

    def _refuse_other_files(self) -> None:
        found = [p.name for p in self.folder.iterdir() if p.name != LOCK_NAME]
        if found and not (self.folder / CONFIG).exists():
            raise UserError(
                f"{self.folder} is not empty (it holds {found[0]}) and is not a run folder: give another --run"
            )

    def _has_begun(self) -> bool:
        """True if the run has results: from then on its config is fixed."""
        return (self.folder / SUMMARY).exists() or any(self.folder.glob("**/checkpoints/i*-*"))

    def _check_config(self, job: str, config: Mapping[str, Any]) -> None:
        free = FREE_KEYS | ({"budget"} if config.get("extend") else set())
        before = yaml.safe_load((self.folder / CONFIG).read_text())
        if new := [key for key in config if key not in free and key not in before]:
            raise UserError(
                f"{self.folder} has a run of another version of cxrdist, without the option {new[0]}: resume it with "
                "that version, or give another --run"
            )
        changed = {
            key: f"{key} {before.get(key)!r}, now {value!r}"
            for key, value in yaml.safe_load(yaml.safe_dump(dict(config))).items()
            if key not in free
            and before.get(key) != value
            # An earlier version kept what was asked for, not what it came to.
            and (key, before.get(key)) != ("precision", "auto")
        }
        if changed:
            longer = _LONGER.get(job, "") if "budget" in changed else ""
            raise UserError(
                f"{self.folder} has a run with another config ({'; '.join([*changed.values()][:3])}): "
                f"give the old options to resume it, or give another --run{longer}"
            )

    def release(self) -> None:
        """Release the lock."""
        self.lock.release()


def budget_of(folder: Path) -> str:
    """The budget in the config of a run."""
    return str(yaml.safe_load((folder / CONFIG).read_text())["budget"])


def change_budget(folder: Path, budget: str) -> None:
    """Of a run that is trained on."""
    config = yaml.safe_load((folder / CONFIG).read_text())
    _write_config(folder, {**config, "budget": budget})


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomic(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def locked_run(folder: Path, job: str, config: Mapping[str, Any], dist: Dist) -> Iterator[None]:
    """Lock a run's folder for the ``with`` block. Rank 0 locks it; if that fails, all ranks raise its UserError."""
    with dist.hold_on_main(_locked(folder, job, config)):
        yield


@contextlib.contextmanager
def _locked(folder: Path, job: str, config: Mapping[str, Any]) -> Iterator[None]:
    run_folder = RunFolder(folder, job, config)
    try:
        yield
    finally:
        run_folder.release()


def finished_summary(folder: Path, shards: Mapping[str, str | None]) -> dict[str, Any] | None:
    """The summary of a finished run; None if it is not finished. ``shards``: digests of the sets, and of other data,
    that it must have read. Raises UserError if it read others."""
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = read_json(path)
    if summary.get("status") != "finished":
        return None
    if summary["shards"] != dict(shards):
        raise UserError(
            f"{folder} has a finished run on {_what_differs(summary['shards'], shards)}: give another --run"
        )
    return summary


def _what_differs(read: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> str:
    sets = ("real", "synthetic")
    return (
        "another shard set"
        if any(read.get(name) != wanted.get(name) for name in sets)
        else "other soft labels"
    )


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``, complete or not at all."""
    write_atomic(folder / SUMMARY, canonical_json(dict(summary)))


def joint_digest(summaries: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """SHA-256 of the digests under ``key`` in several summaries, in the order of the summaries' names."""
    return sha256_bytes("".join(summaries[name][key] for name in sorted(summaries)).encode())


def environment(
    packages: Iterable[str] = ("torch", "accelerate", "numpy", "pillow", "webdataset"),
) -> dict[str, Any]:
    """Versions of packages, and the commit, for the summary."""
    versions = {"cxrdist": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in packages}
    return {"versions": versions, "git_commit": git_commit()}


def git_commit() -> str | None:
    """The commit of the clone that this code belongs to, with ``+`` if tracked files were changed; None outside a
    clone."""
    clone = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(clone), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
