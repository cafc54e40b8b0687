"""A place that a shard set is being written into: whose job it is, finished, unfinished or somebody else's."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cxrdist.console import say
from cxrdist.data.shards.manifest import MANIFEST, SPLITS, Manifest, read_manifest
from cxrdist.data.shards.schema import ORIGINS
from cxrdist.data.shards.tar import index_name
from cxrdist.data.storage.store import Store, locked, write_to
from cxrdist.errors import UserError
from cxrdist.files import LOCK_NAME, canonical_json, is_temporary

JOB_FILE = ".job.json"
UNUSED_TARS = "unused_tars"
# Found out while writing, so not known when a job is compared with the one that is there.
FOUND_LATER = ("undecodable", "near_duplicates", "gates", UNUSED_TARS)
# They follow from the images and the options, so they are told only where nothing else differs.
DERIVED = ("records_sha256", "left_out")
OPTIONS = ("options", "source_options")
PLAIN_WORDS = {
    "converted": "source or conversion",
    "left_out": "number of images left out",
    "records_sha256": "images, patients or labels",
    "salt_fingerprint": "salt",
}
WRITES = "a job that writes a shard set"
STEM = rf"({'|'.join(SPLITS)})-.+-({'|'.join(ORIGINS)})"
SHARD_FILE = re.compile(STEM + r"-[0-9]+\.(tar|index\.npy)")
TABLE_FILE = re.compile(STEM + r"\.[0-9a-f]{12}\.json")


def finished_set(store: Store, provenance: dict[str, Any]) -> Manifest:
    """The set that is already there, if it is the one asked for. Raises UserError if it is another."""
    manifest = read_manifest(store)
    there = {k: v for k, v in manifest["provenance"].items() if k not in FOUND_LATER}
    check_same_job(store, there, provenance)
    if store.exists(JOB_FILE) or store.exists(LOCK_NAME):
        # Killed after its last file was written, or about to end; in the second case it holds the lock.
        with locked(store, WRITES):
            settle(store)
    say(f"{store}: finished before, digest {manifest['digest'][:12]}; nothing to do")
    return manifest


def check_same_job(store: Store, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, where the set that is there is not the one asked for."""
    if there == asked:
        return
    before, now = (
        {**job, **{name: value for group in OPTIONS for name, value in job.get(group, {}).items()}}
        for job in (there, asked)
    )
    differing = sorted(k for k in (before | now) if k not in OPTIONS and before.get(k) != now.get(k))
    if before.get("importer") != now.get("importer"):
        differing = ["importer"]  # all else follows
    told = [k for k in differing if k not in DERIVED] or differing
    if is_in_place(there):
        mark = MANIFEST if store.exists(MANIFEST) else JOB_FILE
        remedy = f"to index its tars anew remove {store}/{mark} alone, and keep the tars"
    elif is_in_place(asked):
        remedy = "it can't be indexed in place; name a folder of others' tars"
    else:
        remedy = "name another --out, or remove the folder first"
    raise UserError(
        f"{store} already holds another set ({'; '.join(difference(k, before, now) for k in told)}): {remedy}"
    )


def is_in_place(provenance: dict[str, Any]) -> bool:
    """Whether a job leaves its images in others' tars, in the folder of the set itself."""
    source_options = provenance.get("source_options")
    is_asked = isinstance(source_options, dict) and source_options.get("in_place") is True
    return is_asked and not provenance.get("converted")


def difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """``size 32, now 64``; for what says nothing to people, only that it differs."""
    told = (before.get(name), now.get(name))
    if name in PLAIN_WORDS or any(isinstance(value, dict) for value in told):
        return f"other {PLAIN_WORDS.get(name, name)}"
    words = (", ".join(value) if isinstance(value, list) else value for value in told)
    return "{} {}, now {}".format(name, *words)


def claim(store: Store, provenance: dict[str, Any]) -> Callable[[], None]:
    """Lock the place for this job, or go on with the same unfinished one; returns what unlocks it. Raises
    UserError for a place that holds anything else, with nothing in it touched."""
    refuse_strangers(store)
    release = store.lock(WRITES)
    try:
        if store.exists(MANIFEST):
            raise UserError(f"{store} was finished by another process just now: run the same command again")
        store.tidy()
        if store.exists(JOB_FILE):
            check_same_job(store, job_of(store), provenance)
            say(f"{store}: going on with an unfinished set")
        else:
            write_to(store, JOB_FILE, canonical_json(provenance))
    except BaseException:
        release()
        raise
    return release


def job_of(store: Store) -> dict[str, Any]:
    """What an unfinished job was asked for."""
    try:
        job = json.loads(store.read(JOB_FILE))
        if not isinstance(job, dict) or not isinstance(job.get("options", {}), dict):
            raise ValueError("no job of ours")
        return job
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{store}/{JOB_FILE}: not JSON ({error}): remove it alone where tars are indexed in place, else all of "
            f"{store}, which holds an unfinished set, and run the same command again"
        ) from None


@contextlib.contextmanager
def claimed(store: Store, provenance: dict[str, Any]) -> Iterator[None]:
    """``claim`` for the time of the block; a folder that it made and that stays empty goes again."""
    is_ours = not store.is_there() or store.exists(JOB_FILE)
    try:
        release = claim(store, provenance)
        try:
            yield
        finally:
            release()
    finally:
        if is_ours:
            store.remove_if_empty()


def refuse_strangers(store: Store) -> None:
    """Raises UserError for a place that is neither empty nor one that a job writes a shard set into."""
    if store.exists(JOB_FILE) or store.exists(MANIFEST):
        return
    for name in store.names():
        is_first_step = name == LOCK_NAME or (name.startswith(JOB_FILE, 1) and is_temporary(name))
        if not is_first_step:
            raise UserError(f"{store} is not empty (it holds {name}): name another --out")


def settle(store: Store) -> None:
    """The manifest is written: what marked the place as unfinished goes."""
    store.remove(JOB_FILE)


def remove_leftovers(
    store: Store, strata: list[dict[str, Any]], shards: Iterable[list[dict[str, Any]]]
) -> None:
    """Before the manifest is written: remove what an earlier, killed run of this job wrote and this one, which
    knows of other near-duplicates or of images repaired meanwhile, did not. ``shards``: the rows of each table.

    Not sooner: in an object store, which has no locks, a second process may be about to name these files.
    """
    named = {entry["table"] for entry in strata}
    for rows in shards:
        for row in rows:
            named |= {row["name"], index_name(row["name"])}
    remove_all_but(store, named)


def clear(store: Store) -> None:
    """Remove all that a job which can't go on has written, and nothing else."""
    store.tidy()
    remove_all_but(store, set())
    settle(store)


def remove_all_but(store: Store, named: set[str]) -> None:
    for name in store.names():
        if name not in named and (SHARD_FILE.fullmatch(name) or TABLE_FILE.fullmatch(name)):
            store.remove(name)
