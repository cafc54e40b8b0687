"""Importing: records -> classes -> splits -> shards -> manifest.

    records of an importer
      -> labels.assign        one class each, or left out with a reason
      -> near-duplicate films count as one patient (on request: decodes all images first)
      -> splits               train, val, test, disjoint by patient
      -> shard tasks          per stratum, sorted by key, a fixed number of samples each
      -> worker processes     decode, resize, encode, write the tar, index it, hash it
      -> tables, manifest     written last

Every step is a function of its input, the options, the seed and the salt. The result does not depend on the number of
workers, nor on how often the import was killed and resumed.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from cxrdist.console import say
from cxrdist.data.imaging.faults import RefusedSource, check_strict
from cxrdist.data.importers.common.base import FileImporter, Importer, Record
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.fingerprints import FingerprintTable, report_near_duplicates
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import ImportPlan, SplitError, keep_films_together, plan_import
from cxrdist.data.ingest.provenance import provenance_of, with_found
from cxrdist.data.ingest.report import print_outcome, print_plan
from cxrdist.data.ingest.tasks import ImportTask
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Lineage, Manifest, Provenance, Stratum, write_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.tar import cuts, samples_per_shard
from cxrdist.data.shards.writing.write_job import (
    claimed,
    clear,
    finished_set,
    mark_finished,
    remove_leftovers,
)
from cxrdist.data.shards.writing.write_pool import Results, rows_of, write_each
from cxrdist.data.storage.store import LocalStore, Store, store_of
from cxrdist.errors import OptionError

__all__ = ["IngestOptions", "ingest"]


def ingest(importer: Importer, options: IngestOptions) -> Manifest:
    """Import a source into a shard set; returns its manifest.

    A finished set of the same source and options is left as it is; an unfinished one is continued. Raises UserError
    for invalid input, before anything is written or after everything that was written has been removed.
    """
    if isinstance(importer, WebDataset) and importer.in_place:
        return index_in_place(importer, options)
    if not options.out:
        raise OptionError("out", "must be given: the folder of the new set, or its URL")
    store = store_of(options.out)
    refuse_inside(store, importer)
    plan = plan_import(importer, options)
    provenance = provenance_of(importer, options, plan)
    if store.exists(MANIFEST):
        return finished_set(store, provenance)
    with claimed(store, provenance):
        try:
            plan = keep_films_together(plan, importer, options)
            print_plan(plan, provenance)
            manifest = write_set(store, importer, options, plan, provenance)
        except (SplitError, RefusedSource):
            clear(store)
            raise
    say(f"{store}: {manifest.samples:,} images, digest {manifest.digest[:12]}")
    return manifest


def refuse_inside(store: Store, importer: Importer) -> None:
    """Raises UserError for a set inside the folder that it is made from: the next import would read it, too."""
    if not (isinstance(importer, FileImporter) and importer.walks_root and isinstance(store, LocalStore)):
        return
    root = Path(importer.root)
    if store.folder.resolve().is_relative_to(root.resolve()):
        raise OptionError("out", f"{store} lies in {root}, all of which is imported; name a folder elsewhere")


def shard_tasks(
    store: Store, importer: Importer, options: IngestOptions, plan: ImportPlan
) -> list[ImportTask]:
    """The shards to write: per stratum, in the order of the keys, which is as good as random."""
    salt = plan.salt
    by_stratum: dict[Stratum, list[Record]] = {}
    for record, label, split in zip(plan.records, plan.labels, plan.splits):
        by_stratum.setdefault(Stratum(split, label, "real"), []).append(record)
    length = samples_per_shard(options.size, options.encoding)
    tasks = []
    for stratum in sorted(by_stratum):
        records = sorted(by_stratum[stratum], key=lambda r: salt.key(r.source_id))
        for number, (start, stop) in enumerate(cuts(len(records), length, options.min_shards)):
            tasks.append(
                ImportTask(
                    store=store,
                    number=number,
                    stratum=stratum,
                    class_index=plan.class_index(stratum.class_name),
                    encoding=options.encoding,
                    image_size=options.size,
                    fit=options.fit,
                    importer=importer,
                    salt=salt,
                    records=records[start:stop],
                    makes_hashes=plan.makes_hashes,
                )
            )
    return tasks


def write_set(
    store: Store, importer: Importer, options: IngestOptions, plan: ImportPlan, provenance: Provenance
) -> Manifest:
    """Write all files of the set, the manifest last.

    Raises RefusedSource, with no manifest written, if too many images do not decode, or one was repaired with
    ``strict``.
    """
    tasks = shard_tasks(store, importer, options, plan)
    results, table = write_shards(tasks, f"import {store}", options.workers, makes_hashes=plan.makes_hashes)
    rows = rows_of(results)
    undecodable = [fault for result in results.values() for fault in result.undecodable]
    repairs = [fault for result in results.values() for fault in result.repairs]
    check_strict(repairs, strict=options.strict)
    plan.check_still_covered(rows)
    near_duplicates = plan.near_duplicates
    if table:
        records = [record for task in tasks for record in task.records]
        splits = [task.stratum.split for task in tasks for _ in task.records]
        groups = table.groups("comparing films")
        near_duplicates = report_near_duplicates(groups, records, splits, plan.split_way)
    strata = [write_table(store, stratum, shards) for stratum, shards in rows.items()]
    remove_leftovers(store, strata, rows.values())
    manifest = write_manifest(
        store,
        classes=list(plan.classes),
        image_size=options.size,
        encoding=options.encoding,
        strata=strata,
        provenance=with_found(provenance, plan, undecodable, repairs, near_duplicates),
        lineage=Lineage(kind="real"),
    )
    mark_finished(store)
    print_outcome(plan, undecodable, repairs)
    return manifest


def write_shards(
    tasks: list[ImportTask], title: str, workers: int, *, makes_hashes: bool
) -> tuple[Results, FingerprintTable | None]:
    """Write all shards; returns their results, and the hashes of all images in the order of the tasks, if made."""
    ends = list(itertools.accumulate(task.images for task in tasks))
    table = FingerprintTable(ends[-1]) if makes_hashes else None
    start = {(task.stratum, task.number): end - task.images for task, end in zip(tasks, ends)}
    results: Results = {}
    for task, result in write_each(tasks, title, workers):
        name = (task.stratum, task.number)
        if table:
            table.put(start[name], result.hashes)
        results[name] = replace(result, hashes=b"")  # the table holds them, a kilobyte per image
    return results, table
