"""Importing: records -> classes -> splits -> shards -> manifest.

    records of an importer
      -> labels.assign        one class each, or left out with a reason
      -> near-duplicate films are one patient (where asked: a first look at all images)
      -> split_patients       train, val, test, disjoint by patient
      -> shard tasks          per stratum, sorted by key, a fixed number of samples each
      -> worker processes     decode, resize, encode, write the tar, index it, hash it
      -> tables, manifest     written last

Every step is a function of its input, the options, the seed and the salt: not of the number of workers, nor
of how often the import was killed and started again.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import Any

from cxrdist.data.claim import JOB_FILE, claim, clear, finished_set, remove_leftovers, settle
from cxrdist.data.fingerprints import FingerprintTable, count_groups, one_patient_each, tell
from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.ingest_options import IngestOptions
from cxrdist.data.ingest_report import print_rules, print_table, provenance_of
from cxrdist.data.labels import assign
from cxrdist.data.manifest import MANIFEST, SPLITS, Manifest, Stratum, write_manifest, write_table
from cxrdist.data.privacy import PUBLIC_PHANTOM_SALT, Salt, load_salt
from cxrdist.data.shard_pool import ShardResult, ShardTask, UndecodableSource, rows_of, work, write_all
from cxrdist.data.shard_tasks import HashTask, ImportTask, hash_images, patient_of
from cxrdist.data.shards import samples_per_shard
from cxrdist.data.split import official_split, split_patients
from cxrdist.data.store import Store, store_of
from cxrdist.errors import UserError
from cxrdist.files import slug
from cxrdist.progress import say

__all__ = ["IngestOptions", "ingest"]

NO_OFFICIAL_SPLIT = "in none of the source's own splits"
IMAGES_PER_HASH_TASK = 256


def ingest(importer: Importer, options: IngestOptions) -> Manifest:
    """Import a source into a shard set; returns its manifest.

    A finished set of the same source and options is left as it is. Raises UserError for input that is not
    right, before anything is written or with everything that was written removed.
    """
    if options.size > importer.largest_size:
        raise UserError(
            f"--size {options.size}: {importer.release} gives at most {importer.largest_size} pixels"
        )
    store = store_of(options.out)
    salt = Salt(PUBLIC_PHANTOM_SALT) if importer.is_phantom else load_salt(options.salt_file)
    say(f"reading {importer.release}")
    records = list(importer.records())
    way = split_way(importer, records, options)
    if way == "official":
        records = [r if r.split or r.left_out else replace(r, left_out=NO_OFFICIAL_SPLIT) for r in records]
    labelling = assign(
        records, options.label_rule, importer.targets, importer.normal, options.classes or None
    )
    check_slugs(labelling.classes)
    read = len(records)
    chosen = [(record, label) for record, label in zip(records, labelling.label) if label is not None]
    del records
    used, labels = [record for record, _ in chosen], [label for _, label in chosen]
    dedup = way == "drawn" and (
        not all(r.patient_id for r in used) if options.dedup is None else options.dedup
    )
    # Also drawn before the images are looked at: what can't be split is told at once.
    splits = splits_of(used, [patient_of(record) for record in used], labels, way, options)
    provenance = provenance_of(importer, options, way, dedup, salt, labelling, used, labels)
    if store.exists(MANIFEST):
        return finished_set(store, provenance)
    unknown = sum(not record.patient_id for record in used)
    is_ours = not store.is_there() or store.exists(JOB_FILE)
    try:
        release = claim(store, provenance)
        try:
            near: dict[str, int] | None = None
            if dedup:
                groups = looked_at(importer, options, used)
                used, patients = one_patient_each(used, groups)
                splits = splits_or_nothing(store, used, patients, labels, options)
                near = asdict(count_groups(groups, splits))
                tell(groups, used, splits)
            print_table(read, labelling, labels, splits)
            print_rules(provenance, unknown)
            makes_hashes = near is None and not importer.is_phantom
            tasks = plan(
                store, options, importer, salt, labelling.classes, used, labels, splits, makes_hashes
            )
            manifest = fill(store, tasks, options, labelling.classes, provenance, near)
        finally:
            release()
    finally:
        if is_ours:
            store.remove_if_empty()
    images = sum(entry["samples"] for entry in manifest["strata"])
    say(f"{store}: {images:,} images, digest {manifest['digest'][:12]}")
    return manifest


def looked_at(importer: Importer, options: IngestOptions, records: list[Record]) -> list[int]:
    """For each image the lowest index among those that show the same film."""
    table = FingerprintTable(len(records))
    starts = range(0, len(records), IMAGES_PER_HASH_TASK)
    tasks = [
        HashTask(start, options.size, options.fit, importer, records[start : start + IMAGES_PER_HASH_TASK])
        for start in starts
    ]
    title = "looking for near-duplicates"
    for task, hashes in work(hash_images, tasks, title, len(records), options.workers, in_process=False):
        table.put(task.start, hashes)
    return table.groups("comparing films")


def split_way(importer: Importer, records: list[Record], options: IngestOptions) -> str:
    """ "drawn" or "official". Raises UserError where an official split is asked for and the source has none."""
    is_said = any(record.split for record in records)
    if options.split == "official" and not is_said:
        raise UserError(
            f"--split official: {importer.release} comes without a split of its own: leave it out"
        )
    return options.split or (importer.default_split if is_said else "drawn")


def splits_of(
    records: list[Record], patients: list[str], labels: list[str], way: str, options: IngestOptions
) -> list[str]:
    if way == "official":
        said = [record.split or "" for record in records]
        return official_split(patients, labels, said, val=options.val, seed=options.seed)
    return split_patients(patients, labels, val=options.val, test=options.test, seed=options.seed)


def splits_or_nothing(
    store: Store, records: list[Record], patients: list[str], labels: list[str], options: IngestOptions
) -> list[str]:
    """Splits that keep films together. Raises UserError, with nothing left behind, where too few patients are
    left to fill them."""
    try:
        return splits_of(records, patients, labels, "drawn", options)
    except UserError as error:
        clear(store)
        raise UserError(f"with near-duplicate films as one patient: {error}") from None


def check_slugs(classes: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if other := seen.get(slug(name)):
            raise UserError(f"classes {other!r} and {name!r} would have the same file names; rename one")
        seen[slug(name)] = name


def plan(
    store: Store,
    options: IngestOptions,
    importer: Importer,
    salt: Salt,
    classes: tuple[str, ...],
    used: list[Record],
    labels: list[str],
    splits: list[str],
    makes_hashes: bool,
) -> list[ImportTask]:
    """The shards to write: per stratum, in the order of the keys, which is as good as random."""
    by_stratum: dict[Stratum, list[Record]] = {}
    for record, label, split in zip(used, labels, splits):
        by_stratum.setdefault(Stratum(split, label, "real"), []).append(record)
    length = samples_per_shard(options.size, options.encoding)
    tasks = []
    for stratum in sorted(by_stratum):
        records = sorted(by_stratum[stratum], key=lambda r: salt.key(r.source_id))
        shards = max(-(-len(records) // length), min(options.min_shards, len(records)))
        for number in range(shards):
            start, stop = (len(records) * n // shards for n in (number, number + 1))
            tasks.append(
                ImportTask(
                    store,
                    number,
                    stratum,
                    classes.index(stratum.class_name),
                    options.encoding,
                    options.size,
                    options.fit,
                    importer,
                    salt,
                    records[start:stop],
                    makes_hashes,
                )
            )
    return tasks


def fill(
    store: Store,
    tasks: list[ImportTask],
    options: IngestOptions,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
    near: dict[str, int] | None,
) -> Manifest:
    """Write all files of the set, the manifest last. Raises UserError, with all that was written removed,
    where too many images do not decode."""
    films = Films(tasks) if any(task.makes_hashes for task in tasks) else None
    try:
        results = write_all(tasks, f"import {store}", options.workers, films.take if films else None)
        rows = rows_of(results)
        check_still_covered(rows, classes)
    except UndecodableSource as error:
        clear(store)
        raise UserError(f"{error}; nothing was written") from None
    if films:
        near = films.compare()
    strata = [write_table(store, stratum, shards) for stratum, shards in rows.items()]
    remove_leftovers(store, strata, rows.values())
    undecodable = sum(len(result.undecodable) for result in results.values())
    manifest = write_manifest(
        store,
        classes=list(classes),
        image_size=options.size,
        encoding=options.encoding,
        strata=strata,
        provenance=provenance | {"undecodable": undecodable, "near_duplicates": near},
        lineage={"kind": "real"},
    )
    settle(store)
    return manifest


class Films:
    """The images of all shards, compared with one another when they are written."""

    def __init__(self, tasks: list[ImportTask]) -> None:
        self._tasks = tasks
        ends = list(itertools.accumulate(task.images for task in tasks))
        self._start = {(t.stratum, t.number): end - t.images for t, end in zip(tasks, ends)}
        self._table = FingerprintTable(ends[-1])

    def take(self, task: ShardTask, result: ShardResult) -> None:
        self._table.put(self._start[task.stratum, task.number], bytes(result.hashes))
        result.hashes.clear()  # a kilobyte an image

    def compare(self) -> dict[str, int]:
        """Tell of near-duplicates; what the manifest keeps of them."""
        records = [record for task in self._tasks for record in task.records]
        splits = [task.stratum.split for task in self._tasks for _ in task.records]
        groups = self._table.groups("comparing films")
        tell(groups, records, splits)
        return asdict(count_groups(groups, splits))


def check_still_covered(rows: dict[Stratum, list[dict[str, Any]]], classes: tuple[str, ...]) -> None:
    for name in classes:
        for split in SPLITS:
            if not rows.get(Stratum(split, name, "real")):
                raise UndecodableSource(f"{name}: no image of its {split} split decodes; repair the download")
