"""Foreign tars as a set, indexed where they lie: beside them come indexes, tables and a manifest, nothing is moved.

    tar of others, any mix of classes ── one index: every sample that is used, with its split, class and place
    table of a stratum                ── the tars that hold some of it, how many, and their view, sex and age

A reader takes from a tar's index the rows of its stratum, and decodes an image as an import would. The tars keep
the names and metadata that others gave them; the index and all that is read through it know salted hashes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from cxrdist.console import say
from cxrdist.data.deidentify import Salt
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.near_duplicates import perceptual_hash
from cxrdist.data.imaging.radiograph import FOREIGN
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.fingerprints import NO_HASH, FingerprintTable
from cxrdist.data.ingest.in_place_job import begin, refuse_strangers, remove_leftovers, tars_of
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import Prepared, prepare, settle_splits
from cxrdist.data.ingest.provenance import patient_of, sample_meta
from cxrdist.data.shards.manifest import (
    MANIFEST,
    Manifest,
    Stratum,
    index_bytes,
    write_manifest,
    write_table,
)
from cxrdist.data.shards.tar import TOLD, IndexRow, hashed, index_name
from cxrdist.data.shards.write_job import UNUSED_TARS, WRITES, finished_set, settle
from cxrdist.data.shards.write_pool import check_undecodable, count_image, tell_undecodable, work
from cxrdist.data.storage.store import LocalStore, Store, locked, write_to
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes

WRITTEN_ANEW = ("encoding", "min_shards")
"""Options for tars that an import writes."""


@dataclass(frozen=True)
class TarTask:
    """One tar to index; lists of one length, in the order of the tar."""

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


@dataclass
class TarResult:
    rows: list[IndexRow] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    """What is known of the image of each row."""
    undecodable: list[str] = field(default_factory=list)
    hashes: bytearray = field(default_factory=bytearray)
    of_table: dict[str, Any] = field(default_factory=dict)


def index_in_place(importer: WebDataset, options: IngestOptions) -> Manifest:
    """Index a folder of foreign tars; returns the manifest. Raises UserError as ``ingest`` does."""
    root = Path(importer.root)
    if options.out and Path(options.out).resolve() != root.resolve():
        raise UserError(f"--in-place makes a set of {root} itself: leave --out away")
    for name in WRITTEN_ANEW:
        if getattr(options, name) != getattr(IngestOptions, name):
            option = name.replace("_", "-")
            raise UserError(
                f"--{option}: --in-place writes no tars that it could be for: leave --{option} away"
            )
    store = LocalStore(root)
    tars = tars_of(importer)
    refuse_strangers(store)
    prepared = prepare(importer, options)
    for name in WRITTEN_ANEW:
        del prepared.provenance["options"][name]
    if store.exists(MANIFEST):
        return finished_set(store, prepared.provenance)
    with locked(store, WRITES):
        begin(store, prepared.provenance)
        settle_splits(prepared, importer, options, lambda: settle(store))
        tasks = plan(store, importer, options, prepared)
        return fill(store, tars, tasks, options, prepared)


def plan(store: Store, importer: WebDataset, options: IngestOptions, prepared: Prepared) -> list[TarTask]:
    """A task per tar that has a sample which is used."""
    by_tar: dict[str, list[int]] = {}
    for i, record in enumerate(prepared.records):
        by_tar.setdefault(importer.place_of(record)[0], []).append(i)
    tasks = []
    for tar, numbers in sorted(by_tar.items()):
        tasks.append(
            TarTask(
                store,
                tar,
                importer,
                options.size,
                options.fit,
                prepared.salt,
                options.find_duplicates and prepared.near_duplicates is None,
                [prepared.records[i] for i in numbers],
                [prepared.splits[i] for i in numbers],
                [prepared.classes.index(prepared.labels[i]) for i in numbers],
            )
        )
    return tasks


def index_tar(task: TarTask) -> TarResult:
    """Read every image that is used, and write the index of its tar."""
    result = TarResult()
    for record, split, class_index in zip(task.records, task.splits, task.class_indexes):
        count_image()
        try:
            data = task.importer.image_bytes(record)
            pixels = task.importer.decoded(record, data, task.size, task.fit)
        except UndecodableImage as error:
            result.undecodable.append(str(error))
            result.hashes += NO_HASH
            continue
        _, offset, length = task.importer.place_of(record)
        key, patient = task.salt.key(record.source_id), task.salt.patient(patient_of(record))
        digest = xxhash.xxh3_64_intdigest(data)
        result.rows.append((key, split, class_index, "real", offset, length, digest, patient))
        meta = sample_meta(record, task.importer, task.salt)
        result.told.append({name: meta[name] for name in TOLD if meta[name] not in (None, [])})
        if task.makes_hashes:
            result.hashes += perceptual_hash(pixels)
    if not result.rows:
        task.store.remove(index_name(task.tar))  # of an earlier run, when some of its images still decoded
        return result
    index = index_bytes(result.rows, f"{task.store}/{task.tar}")
    write_to(task.store, index_name(task.tar), index)
    with task.store.open(task.tar) as file:
        size, sha256 = hashed(file)
    result.of_table = {"name": task.tar, "bytes": size, "sha256": sha256, "index_sha256": sha256_bytes(index)}
    return result


def fill(
    store: Store, tars: list[str], tasks: list[TarTask], options: IngestOptions, prepared: Prepared
) -> Manifest:
    """Write indexes and tables, the manifest last. Raises UserError, with the tars alone left, where too many
    images do not decode."""
    images = len(prepared.records)
    results: dict[str, TarResult] = {}
    undecodable: list[str] = []
    for task, result in work(index_tar, tasks, f"index {store}", images, options.workers, in_process=False):
        results[task.tar] = result
        undecodable += result.undecodable
    tables: dict[Stratum, list[dict[str, Any]]] = {}
    for tar in sorted(results):
        told_of: dict[Stratum, list[dict[str, Any]]] = {}
        for (_, split, class_index, *_), told in zip(results[tar].rows, results[tar].told):
            stratum = Stratum(split, prepared.classes[class_index], "real")
            told_of.setdefault(stratum, []).append(told)
        for stratum, of_stratum in told_of.items():
            row = results[tar].of_table | {"samples": len(of_stratum), "told": of_stratum}
            tables.setdefault(stratum, []).append(row)
    try:
        check_undecodable(undecodable, images)
        tell_undecodable(undecodable)
        prepared.check_still_covered(tables)
    except UserError:
        for tar in results:
            store.remove(index_name(tar))
        settle(store)
        raise
    near = prepared.near_duplicates
    if any(task.makes_hashes for task in tasks):
        near = compare(tasks, results, prepared.provenance["options"]["split"])
    strata = [write_table(store, stratum, rows) for stratum, rows in sorted(tables.items())]
    named = {entry["table"] for entry in strata}
    used = [tar for tar, result in results.items() if result.rows]
    remove_leftovers(store, named | {index_name(tar) for tar in used})
    manifest = write_manifest(
        store,
        classes=list(prepared.classes),
        image_size=options.size,
        encoding=FOREIGN[options.fit],
        strata=strata,
        provenance=prepared.provenance
        | {
            "undecodable": len(undecodable),
            "near_duplicates": near,
            UNUSED_TARS: [tar for tar in tars if tar not in used],
        },
        lineage={"kind": "real"},
    )
    settle(store)
    say(f"{store}: {images - len(undecodable):,} images indexed in place, digest {manifest['digest'][:12]}")
    say(
        "note: the tars keep the names and metadata that others gave them; look at them before they go anywhere"
    )
    return manifest


def compare(tasks: list[TarTask], results: dict[str, TarResult], way: str) -> dict[str, int]:
    records = [record for task in tasks for record in task.records]
    splits = [split for task in tasks for split in task.splits]
    table = FingerprintTable(len(records))
    start = 0
    for task in tasks:
        table.put(start, bytes(results[task.tar].hashes))
        start += len(task.records)
    return table.compare(records, splits, way)
