"""What an import says of itself: a table for people, provenance for the manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.ingest_options import IngestOptions
from cxrdist.data.labels import Labelling
from cxrdist.data.manifest import SPLITS
from cxrdist.data.privacy import Salt
from cxrdist.data.shard_tasks import sample_meta
from cxrdist.data.wording import worded
from cxrdist.progress import say


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


def print_table(read: int, labelling: Labelling, labels: list[str], splits: list[str]) -> None:
    """What was read, what is used per class and split, what is left out and why."""
    used = Counter(zip(labels, splits))
    width = 2 + max(len(name) for name in (*labelling.classes, *labelling.left_out, "left out"))
    say(f"{'images read':<{width}}  {read:>8,}")
    say(f"{'used':<{width}}  {len(labels):>8,}" + "".join(f"  {split:>7}" for split in SPLITS))
    for name in labelling.classes:
        row = [used[name, split] for split in SPLITS]
        say(f"  {name:<{width - 2}}  {sum(row):>8,}" + "".join(f"  {n:>7,}" for n in row))
    say(f"{'left out':<{width}}  {sum(labelling.left_out.values()):>8,}")
    for reason, count in labelling.left_out.items():
        say(f"  {reason:<{width - 2}}  {count:>8,}")


def print_rules(provenance: dict[str, Any], unknown: int) -> None:
    """What was a judgement, and what is to be known of the images that are used."""
    rules = {k: provenance["options"][k] for k in ("label_rule", "split", "dedup", "fit")} | provenance[
        "source_options"
    ]
    say(f"rules: {worded(rules)}")
    if unknown:
        say(
            f"warning: {unknown:,} images name no patient, so each counts as one: two images of one patient may "
            "land in two splits"
        )
    for note, count in provenance["notes"].items():
        say(f"warning: {count:,} images: {note}")
