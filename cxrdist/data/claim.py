"""A folder that a shard set is being written into: whose job it is, finished, unfinished or somebody else's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cxrdist.data.manifest import MANIFEST, ORIGINS, SPLITS, Manifest, read_manifest
from cxrdist.errors import UserError
from cxrdist.files import (
    LOCK_NAME,
    FolderLock,
    canonical_json,
    is_temporary,
    read_json,
    remove_temporaries,
    write_atomic,
)
from cxrdist.progress import say

JOB_FILE = ".job.json"
# Found out while writing, so not known when a job is compared with the one that is there.
FOUND_LATER = ("undecodable", "gates")
# They follow from the images and the options, so they are told only where nothing else differs.
DERIVED = ("records_sha256", "left_out")
PLAIN_WORDS = {
    "left_out": "number of images left out",
    "records_sha256": "images, patients or labels",
    "salt_fingerprint": "salt",
}
WRITES = "a job that writes a shard set"
STEM = rf"({'|'.join(SPLITS)})-.+-({'|'.join(ORIGINS)})"
SHARD_FILE = re.compile(STEM + r"-[0-9]+\.(tar|index\.npy)")
TABLE_FILE = re.compile(STEM + r"\.[0-9a-f]{12}\.json")


def finished_set(folder: Path, provenance: dict[str, Any]) -> Manifest:
    """The set that is already there, if it is the one asked for. Raises UserError if it is another."""
    manifest = read_manifest(folder)
    there = {k: v for k, v in manifest["provenance"].items() if k not in FOUND_LATER}
    check_same_job(folder, there, provenance)
    if (folder / JOB_FILE).exists() or (folder / LOCK_NAME).exists():
        # Killed after its last file was written, or about to end; in the second case it holds the lock.
        lock = FolderLock(folder, WRITES)
        settle(folder)
        lock.release()
    say(f"{folder}: finished before, digest {manifest['digest'][:12]}; nothing to do")
    return manifest


def check_same_job(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, where the set that is there is not the one asked for."""
    if there == asked:
        return
    before, now = ({**job, **job.get("options", {})} for job in (there, asked))
    differing = sorted(k for k in (before | now) if k != "options" and before.get(k) != now.get(k))
    told = [k for k in differing if k not in DERIVED] or differing
    raise UserError(
        f"{folder} already holds another set ({'; '.join(difference(k, before, now) for k in told)}): "
        "name another --out, or remove the folder first"
    )


def difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """``size 32, now 64``; for what says nothing to people, only that it differs."""
    told = (before.get(name), now.get(name))
    if name in PLAIN_WORDS or any(isinstance(value, dict) for value in told):
        return f"other {PLAIN_WORDS.get(name, name)}"
    words = (", ".join(value) if isinstance(value, list) else value for value in told)
    return "{} {}, now {}".format(name, *words)


def claim(folder: Path, provenance: dict[str, Any]) -> FolderLock:
    """Lock the folder for this job, or go on with the same unfinished one. Raises UserError for a folder
    that holds anything else, with nothing in it touched."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder with --out")
    if folder.is_dir():
        refuse_strangers(folder)
    lock = FolderLock(folder, WRITES)
    try:
        if (folder / MANIFEST).exists():
            raise UserError(f"{folder} was finished by another process just now: run the same command again")
        if (folder / JOB_FILE).exists():
            check_same_job(folder, read_json(folder / JOB_FILE), provenance)
            remove_temporaries(folder)
            # Written again in a moment, and under other names where an image was repaired meanwhile.
            remove(folder, TABLE_FILE)
            say(f"{folder}: going on with an unfinished set")
        else:
            remove_temporaries(folder)
            write_atomic(folder / JOB_FILE, canonical_json(provenance))
    except BaseException:
        lock.release()
        raise
    return lock


def refuse_strangers(folder: Path) -> None:
    """Raises UserError for a folder that is neither empty nor one that a job writes a shard set into."""
    if (folder / JOB_FILE).exists() or (folder / MANIFEST).exists():
        return
    for name in sorted(path.name for path in folder.iterdir()):
        is_first_step = name == LOCK_NAME or (name.startswith(JOB_FILE, 1) and is_temporary(name))
        if not is_first_step:
            raise UserError(f"{folder} is not empty (it holds {name}): name another --out")


def settle(folder: Path) -> None:
    """The manifest is written: what marked the folder as unfinished goes."""
    (folder / JOB_FILE).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove all that a job which can't go on has written, and nothing else."""
    remove_temporaries(folder)
    remove(folder, SHARD_FILE)
    remove(folder, TABLE_FILE)
    settle(folder)


def remove(folder: Path, names: re.Pattern[str]) -> None:
    for path in folder.iterdir():
        if names.fullmatch(path.name):
            path.unlink()
