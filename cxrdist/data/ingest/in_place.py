"""A shard set made of external tars where they lie: indexes, tables and a manifest are written beside them.

    external tar, any mix of classes ── one index: every sample that is used, with its split, class and offset
    table of a stratum               ── the tars that hold samples of it, how many, and their view, sex and age

A reader takes the rows of its stratum from a tar's index, and decodes an image as an import would. The tars keep the
names and metadata that their authors gave them; the index, and everything that is read through it, holds only salted
hashes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from cxrdist.console import say
from cxrdist.data.deidentify import Salt
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.faults import (
    Fault,
    RefusedSource,
    check_strict,
    check_undecodable,
    report_undecodable,
)
from cxrdist.data.imaging.near_duplicates import perceptual_hash
from cxrdist.data.imaging.radiograph import EXTERNAL_ENCODINGS
from cxrdist.data.imaging.repairs import noting
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.fingerprints import NO_HASH, FingerprintTable, report_near_duplicates
from cxrdist.data.ingest.in_place_job import (
    refuse_occupied_names,
    remove_own_leftovers,
    remove_own_temporaries,
    tars_of,
)
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import ImportPlan, SplitError, keep_films_together, plan_import
from cxrdist.data.ingest.provenance import provenance_of, with_found
from cxrdist.data.ingest.report import print_outcome, print_plan
from cxrdist.data.ingest.tasks import fault_of, sample_meta
from cxrdist.data.shards.index import IndexRow, ShardRow, index_bytes, index_name, write_table
from cxrdist.data.shards.manifest import Lineage, Manifest, Provenance, Stratum, write_manifest
from cxrdist.data.shards.schema import MANIFEST, UNLABELLED
from cxrdist.data.shards.tar import METADATA_FIELDS, hashed
from cxrdist.data.shards.writing.write_job import UNUSED_TARS, claimed, finished_set, mark_finished
from cxrdist.data.shards.writing.write_pool import (
    count_image,
    work,
)
from cxrdist.data.storage.store import LocalStore, Store, write_to
from cxrdist.errors import OptionError
from cxrdist.files import sha256_bytes

WRITE_OPTIONS = ("encoding", "min_shards")
"""Options for the tars that an import writes; none is written here."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarTask:
    """One tar to index. ``records``, ``splits`` and ``class_indexes`` are parallel, in the order of the tar."""

    store: Store
    tar: str
    importer: WebDataset
    size: int
    fit: str
    salt: Salt
    makes_hashes: bool
    records: list[Record]
    splits: list[str]
    class_indexes: list[int]


@dataclass(frozen=True)
class TarResult:
    """What was read of one tar."""

    rows: list[IndexRow]
    """The rows of its index: one per sample that is used."""
    details: list[dict[str, Any]]
    """View, sex, age and findings of each row's sample, as far as they are known."""
    undecodable: list[Fault]
    """Why, for each image that does not decode."""
    repairs: list[Fault]
    """What was repaired to read the others."""
    hashes: bytes
    """The perceptual hashes of all images of the task, one after the other, if it computes them."""
    table_row: ShardRow | None
    """Its row of a shard table, with all samples that are used; None if there are none."""


def index_in_place(importer: WebDataset, options: IngestOptions) -> Manifest:
    """Index a folder of external tars; returns the manifest. Raises UserError as ``ingest`` does."""
    root = Path(importer.root)
    if options.out and Path(options.out).resolve() != root.resolve():
        raise OptionError("out", f"--in-place makes a set of {root} itself; remove this option")
    for name in WRITE_OPTIONS:
        if getattr(options, name) != getattr(IngestOptions, name):
            raise OptionError(name, "--in-place writes no tars, so this option has no effect; remove it")
    store = LocalStore(root)
    tars = tars_of(importer)
    refuse_occupied_names(store)
    plan = plan_import(importer, options)
    provenance = provenance_of(importer, options, plan, unused_options=WRITE_OPTIONS)
    if store.exists(MANIFEST):
        return finished_set(store, provenance)
    with claimed(store, provenance, remove_own_temporaries):
        try:
            plan = keep_films_together(plan, importer, options)
            print_plan(plan, provenance)
            tasks = tar_tasks(store, importer, options, plan)
            return write_set(store, tars, tasks, options, plan, provenance)
        except (SplitError, RefusedSource):
            for tar in tars:
                store.remove(index_name(tar))
            mark_finished(store)
            raise


def tar_tasks(store: Store, importer: WebDataset, options: IngestOptions, plan: ImportPlan) -> list[TarTask]:
    """One task for each tar with a sample that is used."""
    by_tar: dict[str, list[int]] = {}
    for i, record in enumerate(plan.records):
        by_tar.setdefault(importer.place_of(record)[0], []).append(i)
    return [
        TarTask(
            store=store,
            tar=tar,
            importer=importer,
            size=options.size,
            fit=options.fit,
            salt=plan.salt,
            makes_hashes=plan.makes_hashes,
            records=[plan.records[i] for i in numbers],
            splits=[plan.splits[i] for i in numbers],
            class_indexes=[plan.class_index(plan.labels[i]) for i in numbers],
        )
        for tar, numbers in sorted(by_tar.items())
    ]


def index_tar(task: TarTask) -> TarResult:
    """Decode every image that is used, and write the index of the tar."""
    rows: list[IndexRow] = []
    details: list[dict[str, Any]] = []
    undecodable: list[Fault] = []
    repairs: list[Fault] = []
    hashes: list[bytes] = []
    for record, split, class_index in zip(task.records, task.splits, task.class_indexes):
        count_image()
        key = task.salt.key(record.source_id)
        try:
            data = task.importer.image_bytes(record)
            with noting() as of_image:
                pixels = task.importer.decoded(record, data, task.size, task.fit)
        except UndecodableImage as error:
            undecodable.append(fault_of(record, error, key))
            hashes.append(NO_HASH)
            continue
        _, offset, length = task.importer.place_of(record)
        repairs += [Fault(record.name, what, key) for what in of_image]
        patient = task.salt.patient(record.patient)
        digest = xxhash.xxh3_64_intdigest(data)
        rows.append(IndexRow(key, split, class_index, "real", offset, length, digest, patient))
        meta = sample_meta(record, task.importer, task.salt)
        details.append({name: meta[name] for name in METADATA_FIELDS if meta[name] not in (None, [])})
        if task.makes_hashes:
            hashes.append(perceptual_hash(pixels))
    table_row = None
    if rows:
        index = index_bytes(rows, f"{task.store}/{task.tar}")
        write_to(task.store, index_name(task.tar), index)
        with task.store.open(task.tar) as file:
            size, sha256 = hashed(file)
        table_row = ShardRow(task.tar, size, sha256, sha256_bytes(index), len(rows))
    else:
        task.store.remove(index_name(task.tar))  # of an earlier run, when some of its images still decoded
    return TarResult(rows, details, undecodable, repairs, b"".join(hashes), table_row)


def write_set(
    store: Store,
    tars: list[str],
    tasks: list[TarTask],
    options: IngestOptions,
    plan: ImportPlan,
    provenance: Provenance,
) -> Manifest:
    """Write indexes and tables, the manifest last.

    Raises RefusedSource, with no manifest written, if too many images do not decode, or one was repaired with
    ``strict``.
    """
    images = len(plan.records)
    results: dict[str, TarResult] = {}
    undecodable: list[Fault] = []
    repairs: list[Fault] = []
    for task, result in work(index_tar, tasks, f"index {store}", images, options.workers, in_process=False):
        results[task.tar] = result
        undecodable += result.undecodable
        repairs += result.repairs
    check_undecodable(undecodable, images)
    check_strict(repairs, strict=options.strict)
    report_undecodable(undecodable)
    tables = shard_tables(results, plan)
    plan.check_still_covered(tables)
    near_duplicates = plan.near_duplicates
    if plan.makes_hashes:
        near_duplicates = compare_films(tasks, results, plan.split_way)
    strata = [write_table(store, stratum, rows) for stratum, rows in sorted(tables.items())]
    used = [tar for tar, result in results.items() if result.rows]
    remove_own_leftovers(store, {entry.table for entry in strata} | {index_name(tar) for tar in used})
    provenance = with_found(provenance, plan, undecodable, repairs, near_duplicates)
    manifest = write_manifest(
        store,
        classes=list(plan.classes),
        image_size=options.size,
        encoding=EXTERNAL_ENCODINGS[options.fit],
        strata=strata,
        provenance=provenance.updated({UNUSED_TARS: [tar for tar in tars if tar not in used]}),
        lineage=Lineage(kind="real"),
    )
    mark_finished(store)
    print_outcome(plan, undecodable, repairs)
    say(f"{store}: {images - len(undecodable):,} images indexed in place, digest {manifest.digest[:12]}")
    log.info("the tars keep their original names and metadata; check both before you share them")
    return manifest


def shard_tables(results: dict[str, TarResult], plan: ImportPlan) -> dict[Stratum, list[ShardRow]]:
    """The rows of each stratum's shard table, in the order of the tars' names."""
    name_of = {plan.class_index(name): name for name in (*plan.classes, UNLABELLED)}
    tables: dict[Stratum, list[ShardRow]] = {}
    for tar in sorted(results):
        row = results[tar].table_row
        if row is None:
            continue
        by_stratum: dict[Stratum, list[dict[str, Any]]] = {}
        for (_, split, class_index, *_), details in zip(results[tar].rows, results[tar].details):
            by_stratum.setdefault(Stratum(split, name_of[class_index], "real"), []).append(details)
        for stratum, details_of in by_stratum.items():
            of_stratum = row._replace(samples=len(details_of), metadata=details_of)
            tables.setdefault(stratum, []).append(of_stratum)
    return tables


def compare_films(tasks: list[TarTask], results: dict[str, TarResult], split_way: str) -> dict[str, int]:
    """Report near-duplicates among all images; returns the entry in the manifest."""
    records = [record for task in tasks for record in task.records]
    splits = [split for task in tasks for split in task.splits]
    table = FingerprintTable(len(records))
    start = 0
    for task in tasks:
        table.put(start, results[task.tar].hashes)
        start += len(task.records)
    return report_near_duplicates(table.groups("comparing films"), records, splits, split_way)
