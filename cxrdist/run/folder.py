"""One run, one folder: locked while a job writes it; ``config.yaml``, ``summary.json``, resume or refuse."""

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
# What may change between a run and its resumption without making it another run.
FREE_KEYS = frozenset(
    {"run", "shards", "synthetic", "gan", "tracking", "classes", "out", "loader"}
    | {"placement", "keep", "on_collapse", "preset"}
)


class RunFolder:
    """A run's folder, held by this process alone.

    Raises UserError where another job holds it, or where it holds a run with another config.
    """

    def __init__(self, folder: Path, job: str, config: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder with --run")
        self.lock = FolderLock(folder, f"a {job} job")
        try:
            remove_temporaries(folder)
            self._refuse_strangers()
            if self._has_begun():
                self._check_config(config)
            else:
                write_atomic(
                    folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
                )
        except BaseException:
            self.lock.release()
            raise

    def _refuse_strangers(self) -> None:
        found = [p.name for p in self.folder.iterdir() if p.name != LOCK_NAME]
        if found and not (self.folder / CONFIG).exists():
            raise UserError(
                f"{self.folder} is not empty and holds no run (it holds {found[0]}): name another --run"
            )

    def _has_begun(self) -> bool:
        """Something was trained under the config that stands here; before that it may still be put right."""
        return (self.folder / SUMMARY).exists() or any(self.folder.glob("**/checkpoints/images-*"))

    def _check_config(self, config: Mapping[str, Any]) -> None:
        before = yaml.safe_load((self.folder / CONFIG).read_text())
        if new := [key for key in config if key not in FREE_KEYS and key not in before]:
            raise UserError(
                f"{self.folder} holds a run that another version of cxrdist began, without the option {new[0]}: go "
                "on with that version, or name another --run"
            )
        differing = [
            f"{key} {before.get(key)!r}, now {value!r}"
            for key, value in yaml.safe_load(yaml.safe_dump(dict(config))).items()
            if key not in FREE_KEYS and before.get(key) != value
        ]
        if differing:
            raise UserError(
                f"{self.folder} holds a run with another config ({'; '.join(differing[:3])}): "
                "give the old options to resume it, or name another --run"
            )

    def release(self) -> None:
        self.lock.release()


@contextlib.contextmanager
def holding(folder: Path, job: str, config: Mapping[str, Any], dist: Dist) -> Iterator[None]:
    """Hold a run's folder for the time of the block: rank 0 claims it, and all ranks learn the outcome."""
    held: list[RunFolder] = []
    dist.on_main(lambda: held.append(RunFolder(folder, job, config)))
    try:
        yield
    finally:
        for run_folder in held:
            run_folder.release()


def finished_summary(folder: Path, shards: Mapping[str, str | None]) -> dict[str, Any] | None:
    """The summary of a run that is finished, else None. ``shards``: the digests that it should have read.

    Raises UserError where it read others: the same command on another set is another run.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = read_json(path)
    if summary.get("status") != "finished":
        return None
    if summary["shards"] != dict(shards):
        raise UserError(f"{folder} is a finished run on another shard set: name another --run")
    return summary


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomic(folder / SUMMARY, canonical_json(dict(summary)))


def joint_digest(summaries: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """One SHA-256 of the digests that several summaries have under ``key``, in the order of their names."""
    return sha256_bytes("".join(summaries[name][key] for name in sorted(summaries)).encode())


def evenly(steps: int, times: int) -> set[int]:
    """At which of ``steps`` to look, ``times`` times, the last step always among them."""
    return {-(-steps * i // times) for i in range(1, times + 1)}


def environment(
    packages: Iterable[str] = ("torch", "accelerate", "numpy", "pillow", "webdataset"),
) -> dict[str, Any]:
    """Versions and commit, for the summary."""
    versions = {"cxrdist": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in packages}
    return {"versions": versions, "git_commit": git_commit()}


def git_commit() -> str | None:
    """The commit of the clone that runs, with ``+`` where files differ from it; None outside a clone."""
    clone = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(clone), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
