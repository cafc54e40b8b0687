"""The job that writes a shard set: one job at a time per folder or URL, marked there until the set is finished.

    lock -> job file (what was asked for) -> shards, tables -> leftovers removed -> manifest -> job file removed

The same job continues after it was killed; another one is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cxrdist.console import say
from cxrdist.data.shards.index import ShardRow, index_name
from cxrdist.data.shards.manifest import Manifest, Provenance, StratumEntry, read_manifest
from cxrdist.data.shards.schema import MANIFEST, ORIGINS, SPLITS
from cxrdist.data.storage.store import Store, locked, write_to
from cxrdist.errors import UserError
from cxrdist.files import LOCK_NAME, canonical_json, is_temporary

JOB_FILE = ".job.json"
UNUSED_TARS = "unused_tars"
# Parts of the provenance that are found while writing, so not known when two jobs are compared.
FOUND_LATER = (
    *(
        "unlabelled",
        "left_out_examples",
        "undecodable",
        "undecodable_reasons",
        "repairs",
        "near_duplicates",
        "gates",
        "edited",
    ),
    UNUSED_TARS,
)
# They follow from the images and the options, so they are reported only if nothing else differs.
DERIVED = ("records_sha256", "left_out")
OPTIONS = ("options", "source_options")
PLAIN_NAMES = {
    "converted": "source or conversion",
    "left_out": "number of images left out",
    "records_sha256": "images, patients or labels",
    "salt_fingerprint": "salt",
}
WRITES = "a job that writes a shard set"
STEM = rf"({'|'.join(SPLITS)})-.+-({'|'.join(ORIGINS)})"
SHARD_FILE = re.compile(STEM + r"-[0-9]+\.(tar|index\.npy)")
TABLE_FILE = re.compile(STEM + r"\.[0-9a-f]{12}\.json")
REMOVED_FILE = re.compile(STEM + r"\.removed\.[0-9a-f]{12}\.json")

log = logging.getLogger(__name__)


def finished_set(store: Store, provenance: Provenance, samples: int = 0) -> Manifest:
    """The finished set at this place, if it is the one that is asked for. Raises UserError if it is another.
    ``samples``: that the job wants; it does not say that a set with fewer is finished: some were removed."""
    manifest = read_manifest(store)
    there = {k: v for k, v in manifest.provenance.json_value().items() if k not in FOUND_LATER}
    check_same_job(store, there, provenance.json_value())
    if store.exists(JOB_FILE) or store.exists(LOCK_NAME):
        # Its job was killed after it wrote the manifest, or is about to end and still holds the lock.
        with locked(store, WRITES):
            mark_finished(store)
    if manifest.samples >= samples:
        say(f"{store}: already finished, digest {manifest.digest[:12]}; nothing to do")
    return manifest


def check_same_job(store: Store, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises UserError, naming the differences, if the set at this place is not the one that is asked for."""
    if there == asked:
        return
    before, now = (
        {**job, **{name: value for group in OPTIONS for name, value in job.get(group, {}).items()}}
        for job in (there, asked)
    )
    differing = sorted(k for k in (before | now) if k not in OPTIONS and before.get(k) != now.get(k))
    if before.get("importer") != now.get("importer"):
        differing = ["importer"]  # everything else follows
    reported = [k for k in differing if k not in DERIVED] or differing
    if is_in_place(there):
        mark = MANIFEST if store.exists(MANIFEST) else JOB_FILE
        remedy = f"to index its tars again remove only {store}/{mark}, and keep the tars"
    elif is_in_place(asked):
        remedy = "it cannot be indexed in place; name a folder of external tars"
    else:
        remedy = "name another --out, or remove the folder first"
    raise UserError(
        f"{store} already holds another set ({'; '.join(difference(k, before, now) for k in reported)}): {remedy}"
    )


def is_in_place(provenance: dict[str, Any]) -> bool:
    """True for a job that indexes external tars in the folder of the set itself, and writes none."""
    source_options = provenance.get("source_options")
    is_asked = isinstance(source_options, dict) and source_options.get("in_place") is True
    return is_asked and not provenance.get("converted")


def difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """``size 32, now 64``; only ``other salt`` for digests and mappings, which are unreadable."""
    values = (before.get(name), now.get(name))
    if name in PLAIN_NAMES or any(isinstance(value, dict) for value in values):
        return f"other {PLAIN_NAMES.get(name, name)}"
    texts = (", ".join(value) if isinstance(value, list) else value for value in values)
    return "{} {}, now {}".format(name, *texts)


def remove_all_temporaries(store: Store) -> None:
    """Remove all files with temporary names: in a place of our own, killed writers left them."""
    store.tidy()


def claim(
    store: Store,
    provenance: Provenance,
    remove_temporaries: Callable[[Store], None] = remove_all_temporaries,
) -> Callable[[], None]:
    """Lock the place for this job, and mark it with the job file or continue the same unfinished job.

    Returns the function that releases the lock. ``remove_temporaries`` removes what killed writers of the job left
    under temporary names. Raises UserError, with no file changed, if the place holds anything else.
    """
    job = provenance.json_value()
    if not is_in_place(job):
        refuse_other_files(store)
    release = store.lock(WRITES)
    try:
        if store.exists(MANIFEST):
            raise UserError(f"{store}: another process has just finished it; run the same command again")
        is_unfinished = store.exists(JOB_FILE)
        if is_unfinished:
            check_same_job(store, job_of(store), job)
            log.info("%s: continuing an unfinished set", store)
        remove_temporaries(store)
        if not is_unfinished:
            write_to(store, JOB_FILE, canonical_json(job))
    except BaseException:
        release()
        raise
    return release


def job_of(store: Store) -> dict[str, Any]:
    """The provenance that an unfinished job was started with."""
    try:
        job = json.loads(store.read(JOB_FILE))
        if not isinstance(job, dict) or not isinstance(job.get("options", {}), dict):
            raise ValueError("not the mapping of a job")
        return job
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{store}/{JOB_FILE}: not JSON ({error}): remove only this file if tars are indexed in place, otherwise "
            f"all of {store}, which holds an unfinished set, and run the same command again"
        ) from None


@contextlib.contextmanager
def claimed(
    store: Store,
    provenance: Provenance,
    remove_temporaries: Callable[[Store], None] = remove_all_temporaries,
) -> Iterator[None]:
    """``claim`` for the time of the block; a folder that the job made is removed again if it stays empty."""
    is_ours = not store.is_there() or store.exists(JOB_FILE)
    try:
        release = claim(store, provenance, remove_temporaries)
        try:
            yield
        finally:
            release()
    finally:
        if is_ours:
            store.remove_if_empty()


def refuse_other_files(store: Store) -> None:
    """Raises UserError for a place that is neither empty nor marked as a shard set or an unfinished job."""
    if store.exists(JOB_FILE) or store.exists(MANIFEST):
        return
    for name in store.names():
        is_first_step = name == LOCK_NAME or (name.startswith(JOB_FILE, 1) and is_temporary(name))
        if not is_first_step:
            raise UserError(f"{store} is not empty (it holds {name}): name another --out")


def mark_finished(store: Store) -> None:
    """Remove the job file, when the manifest is written or the job has removed its files."""
    store.remove(JOB_FILE)


def remove_leftovers(
    store: Store, strata: Sequence[StratumEntry], shards: Iterable[Sequence[ShardRow]]
) -> None:
    """Remove shards, tables and files of removed samples that an earlier, killed run of this job wrote and this run
    does not use, because near-duplicates differ or images were repaired since. ``shards`` are the rows of each table.

    Called just before the manifest is written: an object store has no locks, and a second process may still be
    about to use these files.
    """
    named = tables_of(strata)
    for rows in shards:
        for row in rows:
            named |= {row.name, index_name(row.name)}
    remove_all_but(store, named)


def tables_of(strata: Iterable[StratumEntry]) -> set[str]:
    """The files that the entries of strata name: tables, and files of removed samples."""
    return {name for entry in strata for name in (entry.table, entry.removed) if name is not None}


def clear(store: Store) -> None:
    """Remove everything that a job which cannot continue has written, and nothing else."""
    store.tidy()
    remove_all_but(store, set())
    mark_finished(store)


def remove_all_but(
    store: Store, named: set[str], forms: Sequence[re.Pattern[str]] = (SHARD_FILE, TABLE_FILE, REMOVED_FILE)
) -> None:
    """Remove all files of these forms that are not named: shards and indexes, tables, files of removed samples."""
    for name in store.names():
        if name not in named and any(form.fullmatch(name) for form in forms):
            store.remove(name)
