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
from pathlib import Path

from cxrdist.console import say
from cxrdist.data.importers.common.base import FileImporter, Importer, Record
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.fingerprints import FingerprintTable
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import Prepared, prepare, settle_splits
from cxrdist.data.ingest.tasks import ImportTask
from cxrdist.data.shards.manifest import MANIFEST, Manifest, Stratum, write_manifest, write_table
from cxrdist.data.shards.tar import cuts, samples_per_shard
from cxrdist.data.shards.write_job import claimed, clear, finished_set, remove_leftovers, settle
from cxrdist.data.shards.write_pool import ShardResult, ShardTask, UndecodableSource, rows_of, write_all
from cxrdist.data.storage.store import LocalStore, Store, store_of
from cxrdist.errors import UserError

__all__ = ["IngestOptions", "ingest"]


def ingest(importer: Importer, options: IngestOptions) -> Manifest:
    """Import a source into a shard set; returns its manifest.

    A finished set of the same source and options is left as it is. Raises UserError for input that is not
    right, before anything is written or with everything that was written removed.
    """
    if isinstance(importer, WebDataset) and importer.in_place:
        return index_in_place(importer, options)
    if not options.out:
        raise UserError("--out: must be given: the folder of the new set, or its URL")
    store = store_of(options.out)
    refuse_inside(store, importer)
    prepared = prepare(importer, options)
    if store.exists(MANIFEST):
        return finished_set(store, prepared.provenance)
    with claimed(store, prepared.provenance):
        settle_splits(prepared, importer, options, lambda: clear(store))
        manifest = fill(store, plan(store, options, importer, prepared), options, prepared)
    images = sum(entry["samples"] for entry in manifest["strata"])
    say(f"{store}: {images:,} images, digest {manifest['digest'][:12]}")
    return manifest


def refuse_inside(store: Store, importer: Importer) -> None:
    """Raises UserError for a set in the folder that it is made of: the same command would next read it, too."""
    if not (isinstance(importer, FileImporter) and importer.walks_root and isinstance(store, LocalStore)):
        return
    root = Path(importer.root)
    if store.folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out {store}: lies in --root {root}, which is read: name a folder elsewhere")


def plan(store: Store, options: IngestOptions, importer: Importer, prepared: Prepared) -> list[ImportTask]:
    """The shards to write: per stratum, in the order of the keys, which is as good as random."""
    salt = prepared.salt
    makes_hashes = prepared.provenance["options"]["find_duplicates"] and prepared.near_duplicates is None
    by_stratum: dict[Stratum, list[Record]] = {}
    for record, label, split in zip(prepared.records, prepared.labels, prepared.splits):
        by_stratum.setdefault(Stratum(split, label, "real"), []).append(record)
    length = samples_per_shard(options.size, options.encoding)
    tasks = []
    for stratum in sorted(by_stratum):
        records = sorted(by_stratum[stratum], key=lambda r: salt.key(r.source_id))
        for number, (start, stop) in enumerate(cuts(len(records), length, options.min_shards)):
            tasks.append(
                ImportTask(
                    store,
                    number,
                    stratum,
                    prepared.classes.index(stratum.class_name),
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


def fill(store: Store, tasks: list[ImportTask], options: IngestOptions, prepared: Prepared) -> Manifest:
    """Write all files of the set, the manifest last. Raises UserError, with all that was written removed,
    where too many images do not decode."""
    near = prepared.near_duplicates
    way = prepared.provenance["options"]["split"]
    films = Films(tasks, way) if any(task.makes_hashes for task in tasks) else None
    try:
        results = write_all(tasks, f"import {store}", options.workers, films.take if films else None)
        rows = rows_of(results)
        prepared.check_still_covered(rows)
    except UndecodableSource:
        clear(store)
        raise
    if films:
        near = films.compare()
    strata = [write_table(store, stratum, shards) for stratum, shards in rows.items()]
    remove_leftovers(store, strata, rows.values())
    undecodable = sum(len(result.undecodable) for result in results.values())
    manifest = write_manifest(
        store,
        classes=list(prepared.classes),
        image_size=options.size,
        encoding=options.encoding,
        strata=strata,
        provenance=prepared.provenance | {"undecodable": undecodable, "near_duplicates": near},
        lineage={"kind": "real"},
    )
    settle(store)
    return manifest


class Films:
    """The images of all shards, compared with one another when they are written."""

    def __init__(self, tasks: list[ImportTask], way: str) -> None:
        self._tasks, self._way = tasks, way
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
        return self._table.compare(records, splits, self._way)
