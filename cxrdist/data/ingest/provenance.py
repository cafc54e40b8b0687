"""Where a set comes from, and what the metadata of a sample says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from cxrdist.data.deidentify import AGE_CAP_YEARS, Salt
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.ingest.labels import Labelling
from cxrdist.data.ingest.options import IngestOptions


def patient_of(record: Record) -> str:
    """The source's name of the patient; an image of nobody known is its own patient."""
    return record.patient_id or record.source_id


def sample_meta(record: Record, importer: Importer, salt: Salt) -> dict[str, Any]:
    """What a sample's ``.json`` says of it."""
    return {
        "patient": salt.patient(patient_of(record)),
        "origin": "real",
        "source": importer.name,
        "phantom": importer.is_phantom,
        "view": record.view,
        "sex": record.sex,
        "age": None if record.age is None else min(record.age, AGE_CAP_YEARS),
        "findings": [*record.findings, *record.uncounted],
    }


def provenance_of(
    importer: Importer,
    options: IngestOptions,
    way: str,
    dedup: bool,
    salt: Salt,
    labelling: Labelling,
    records: list[Record],
    labels: list[str],
) -> dict[str, Any]:
    """Where a set comes from, without a path: enough to tell whether a command would make the same set."""
    content = hashlib.sha256()
    keys = [salt.key(record.source_id) for record in records]
    for i in sorted(range(len(keys)), key=keys.__getitem__):
        line = [keys[i], labels[i], records[i].split, sample_meta(records[i], importer, salt)]
        content.update(json.dumps(line).encode() + b"\n")
    return {
        "importer": importer.name,
        "release": importer.release,
        "is_phantom": importer.is_phantom,
        "options": {
            "size": options.size,
            "encoding": options.encoding,
            "fit": options.fit,
            "label_rule": options.label_rule if importer.targets else None,
            "split": way,
            "find_duplicates": options.find_duplicates and not importer.is_phantom,
            "dedup": dedup,
            # 20.0 asks for the set that 20 asks for.
            "val": options.val if options.val < 1 else int(options.val),
            "test": options.test if options.test < 1 else int(options.test),
            "seed": options.seed,
            "classes": list(labelling.classes),
            "min_shards": options.min_shards,
        },
        "source_options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in importer.judgements().items()
            if not hasattr(options, name)
        },
        "salt_fingerprint": salt.fingerprint,
        "records_sha256": content.hexdigest(),
        "left_out": labelling.left_out,
        "notes": dict(sorted(Counter(note for record in records for note in record.notes).items())),
    }
