"""The provenance in the manifest: the source and the options that make the same set again, without any path."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from cxrdist.data.imaging.faults import Fault, counted
from cxrdist.data.importers.common.base import Importer
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import ImportPlan
from cxrdist.data.ingest.tasks import sample_meta
from cxrdist.data.shards.manifest import Provenance, checked_provenance
from cxrdist.data.shards.schema import UNLABELLED


def provenance_of(
    importer: Importer, options: IngestOptions, plan: ImportPlan, unused_options: Collection[str] = ()
) -> Provenance:
    """The provenance of the set that an import makes, before near-duplicates are looked for.

    Two imports with equal provenance make the same set. ``unused_options`` are not recorded. Raises UserError if an
    option or a note is not plain text.
    """
    recorded = {
        "size": options.size,
        "encoding": options.encoding,
        "fit": options.fit,
        "label_rule": options.label_rule if importer.targets else None,
        "split": plan.split_way,
        "find_duplicates": plan.finds_duplicates,
        "dedup": plan.dedup,
        **sizes_of(options),
        "seed": options.seed,
        "classes": list(plan.classes),
        "min_shards": options.min_shards,
    }
    if options.keep_unlabelled:
        recorded["keep_unlabelled"] = True
    if plan.earlier is not None:
        recorded["keep_split"] = plan.earlier.digest
    if options.class_map:
        recorded["class_map"] = list(options.class_map)
    if options.source_name:
        recorded["source_name"] = options.source_name
    provenance = {
        "importer": importer.name,
        "release": importer.release,
        "is_phantom": importer.is_phantom,
        "options": {name: value for name, value in recorded.items() if name not in unused_options},
        "source_options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in importer.source_options().items()
            if not hasattr(options, name)
        },
        "salt_fingerprint": plan.salt.fingerprint,
        "records_sha256": records_sha256(importer, plan),
        "left_out": plan.left_out,
        "notes": dict(sorted(Counter(note for record in plan.records for note in record.notes).items())),
    }
    return checked_provenance(provenance, f"import {importer.name}")


def sizes_of(options: IngestOptions) -> dict[str, Any]:
    """The options that size val and test: folds, or shares and numbers of images."""
    if options.folds is not None:
        return {"folds": options.folds, "fold": options.fold}
    # 20.0 and 20 ask for the same set.
    return {
        name: value if value < 1 else int(value)
        for name, value in (("val", options.val), ("test", options.test))
    }


def with_found(
    provenance: Provenance,
    plan: ImportPlan,
    undecodable: list[Fault],
    repairs: list[Fault],
    near_duplicates: dict[str, int] | None,
) -> Provenance:
    """The provenance with what was found while the set was written."""
    found: dict[str, Any] = {"undecodable": len(undecodable), "near_duplicates": near_duplicates}
    if plan.left_out:
        examples = plan.labelling.examples
        found["left_out_examples"] = {
            reason: plan.salt.key(examples[reason].source_id)
            for reason in plan.left_out
            if reason in examples
        }
    if undecodable:
        found["undecodable_reasons"] = counted(undecodable)
    if repairs:
        found["repairs"] = counted(repairs)
    if plan.unlabelled_counts is not None:
        found["unlabelled"] = plan.unlabelled_counts
    return provenance.updated(found)


def records_sha256(importer: Importer, plan: ImportPlan) -> str:
    """A digest of the images that are used, with class, split and metadata, in the order of their keys; of all
    candidates for the unlabelled images, since near-duplicates decide later which of them are used."""
    content = hashlib.sha256()
    records = [*plan.records[: plan.labelled], *(plan.candidates or [])]
    labels = [*plan.labels[: plan.labelled], *[UNLABELLED] * (len(records) - plan.labelled)]
    keys = [plan.salt.key(record.source_id) for record in records]
    for i in sorted(range(len(keys)), key=keys.__getitem__):
        record = records[i]
        line = [keys[i], labels[i], record.split, sample_meta(record, importer, plan.salt)]
        content.update(json.dumps(line).encode() + b"\n")
    return content.hexdigest()
