"""Importing: records -> classes -> splits -> shards -> manifest.

    records of an importer
      -> labels.assign        one class each, or left out with a reason
      -> split_patients       train, val, test, disjoint by patient
      -> shard tasks          per stratum, sorted by key, a fixed number of samples each
      -> worker processes     decode, resize, encode, write the tar, index it, hash it
      -> tables, manifest     written last

Every step is a function of its input, the options, the seed and the salt: not of the number of workers, nor
of how often the import was killed and started again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from cxrdist.data.claim import JOB_FILE, claim, clear, finished_set, settle
from cxrdist.data.images import ENCODINGS, FITS
from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.labels import Labelling, assign
from cxrdist.data.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Stratum,
    write_manifest,
    write_table,
)
from cxrdist.data.privacy import PUBLIC_PHANTOM_SALT, Salt, load_salt
from cxrdist.data.shard_tasks import ShardTask, UndecodableSource, patient_of, run, sample_meta
from cxrdist.data.shards import samples_per_shard
from cxrdist.data.split import official_split, split_patients
from cxrdist.data.store import Store, store_of
from cxrdist.errors import UserError, nearest
from cxrdist.files import slug
from cxrdist.progress import say

SPLIT_WAYS = ("drawn", "official")
NO_OFFICIAL_SPLIT = "in none of the source's own splits"


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What an import needs to know beside its source; see the options of ``cxrdist import``."""

    out: str
    """Folder of the new set, or its URL (s3://bucket/set, gs://...)."""
    size: int = 64
    """Side of the square images, in pixels; resized with anti-aliasing, and the aspect is kept."""
    fit: str = "pad"
    """What becomes of an image that is not square: pad (black bars around all of it) or crop (its centre)."""
    encoding: str = "png"
    """png (lossless, small), npy (lossless, fastest) or jpg (quality 95, smallest)."""
    label_rule: str = "one-target"
    """strict: exactly this one finding; one-target: exactly one of the targets, other findings allowed; rarest:
    the rarest of several targets. Unused where the source itself names the class."""
    split: str | None = None
    """drawn (by patient, from --val, --test and --seed) or official (as the source's own lists or column say; where
    they only tell test apart, val is drawn from the rest). By default official where you wrote it yourself."""
    val: float | int = 0.15
    """Validation images of each class: a fraction, or a number such as the paper's 1000."""
    test: float | int = 0.15
    """Test images of each class, likewise."""
    seed: int = 0
    """Seed of the split by patient."""
    classes: tuple[str, ...] = ()
    """Classes to keep, such as 'Normal,Pneumothorax'; by default all."""
    min_shards: int = 1
    """Shards of every class in every split, where it has so many images: ranks times loader workers, so that each
    has something to read. Shards are about 64 MiB otherwise."""
    salt_file: str | None = None
    """File with the secret that patients and images are hashed with; by default your own, made once."""
    workers: int = 0
    """Processes that decode and write; 0: one per core."""

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise UserError(f"--encoding {self.encoding}: unknown{nearest(self.encoding, ENCODINGS)}")
        if self.fit not in FITS:
            raise UserError(f"--fit {self.fit}: unknown{nearest(self.fit, FITS)}")
        if self.split not in (None, *SPLIT_WAYS):
            raise UserError(f"--split {self.split}: unknown{nearest(self.split, SPLIT_WAYS)}")
        if self.min_shards < 1:
            raise UserError(f"--min-shards {self.min_shards}: 1 or more")
        if not 16 <= self.size <= 2048:
            raise UserError(f"--size {self.size}: from 16 to 2048 pixels")
        if self.workers < 0:
            raise UserError(f"--workers {self.workers}: 0 (one per core) or more")


def ingest(importer: Importer, options: IngestOptions) -> Manifest:
    """Import a source into a shard set; returns its manifest.

    A finished set of the same source and options is left as it is. Raises UserError for input that is not
    right, before anything is written or with everything that was written removed.
    """
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
    used = [(record, label) for record, label in zip(records, labelling.label) if label is not None]
    splits = splits_of(used, way, options)
    provenance = provenance_of(importer, options, way, salt, labelling, used, splits)
    if store.exists(MANIFEST):
        return finished_set(store, provenance)
    print_table(len(records), labelling, [label for _, label in used], splits)
    print_rules(provenance, unknown=sum(not record.patient_id for record, _ in used))
    is_ours = not store.is_there() or store.exists(JOB_FILE)
    try:
        release = claim(store, provenance)
        try:
            tasks = plan(store, options, importer, salt, labelling.classes, used, splits)
            manifest = fill(store, tasks, options, labelling.classes, provenance)
        finally:
            release()
    finally:
        if is_ours:
            store.remove_if_empty()
    images = sum(entry["samples"] for entry in manifest["strata"])
    say(f"{store}: {images:,} images, digest {manifest['digest'][:12]}")
    return manifest


def split_way(importer: Importer, records: list[Record], options: IngestOptions) -> str:
    """ "drawn" or "official". Raises UserError where an official split is asked for and the source has none."""
    is_said = any(record.split for record in records)
    if options.split == "official" and not is_said:
        raise UserError(
            f"--split official: {importer.release} comes without a split of its own: leave it out"
        )
    return options.split or (importer.default_split if is_said else "drawn")


def splits_of(used: list[tuple[Record, str]], way: str, options: IngestOptions) -> list[str]:
    patients = [patient_of(record) for record, _ in used]
    labels = [label for _, label in used]
    if way == "official":
        said = [record.split or "" for record, _ in used]
        return official_split(patients, labels, said, val=options.val, seed=options.seed)
    return split_patients(patients, labels, val=options.val, test=options.test, seed=options.seed)


def check_slugs(classes: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if other := seen.get(slug(name)):
            raise UserError(f"classes {other!r} and {name!r} would have the same file names; rename one")
        seen[slug(name)] = name


def provenance_of(
    importer: Importer,
    options: IngestOptions,
    way: str,
    salt: Salt,
    labelling: Labelling,
    used: list[tuple[Record, str]],
    splits: list[str],
) -> dict[str, Any]:
    """Where a set comes from, without a path: enough to tell whether a command would make the same set."""
    content = hashlib.sha256()
    keys = [salt.key(record.source_id) for record, _ in used]
    for i in sorted(range(len(used)), key=keys.__getitem__):
        record, label = used[i]
        line = json.dumps([keys[i], label, splits[i], sample_meta(record, importer, salt)])
        content.update(line.encode() + b"\n")
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
        "notes": dict(sorted(Counter(note for record, _ in used for note in record.notes).items())),
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
    rules = {k: provenance["options"][k] for k in ("label_rule", "split", "fit")} | provenance[
        "source_options"
    ]
    told = (f"{name.replace('_', ' ')} {value}" for name, value in rules.items() if value is not None)
    say(f"rules: {', '.join(told)}")
    if unknown:
        say(
            f"warning: {unknown:,} images name no patient, so each counts as one: two images of one patient may "
            "land in two splits"
        )
    for note, count in provenance["notes"].items():
        say(f"warning: {count:,} images: {note}")


def plan(
    store: Store,
    options: IngestOptions,
    importer: Importer,
    salt: Salt,
    classes: tuple[str, ...],
    used: list[tuple[Record, str]],
    splits: list[str],
) -> list[ShardTask]:
    """The shards to write: per stratum, in the order of the keys, which is as good as random."""
    by_stratum: dict[Stratum, list[Record]] = {}
    for (record, label), split in zip(used, splits):
        by_stratum.setdefault(Stratum(split, label, "real"), []).append(record)
    length = samples_per_shard(options.size, options.encoding)
    tasks = []
    for stratum in sorted(by_stratum):
        records = sorted(by_stratum[stratum], key=lambda r: salt.key(r.source_id))
        shards = max(-(-len(records) // length), min(options.min_shards, len(records)))
        for number in range(shards):
            start, stop = (len(records) * n // shards for n in (number, number + 1))
            tasks.append(
                ShardTask(
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
                )
            )
    return tasks


def fill(
    store: Store,
    tasks: list[ShardTask],
    options: IngestOptions,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
) -> Manifest:
    """Write all files of the set, the manifest last. Raises UserError, with all that was written removed,
    where too many images do not decode."""
    try:
        rows, undecodable = run(tasks, f"import {store}", options.workers)
        check_still_covered(rows, classes)
    except UndecodableSource as error:
        clear(store)
        raise UserError(f"{error}; nothing was written") from None
    strata = [write_table(store, stratum, shards) for stratum, shards in rows.items()]
    manifest = write_manifest(
        store,
        classes=list(classes),
        image_size=options.size,
        encoding=options.encoding,
        strata=strata,
        provenance=provenance | {"undecodable": undecodable},
        lineage={"kind": "real"},
    )
    settle(store)
    return manifest


def check_still_covered(rows: dict[Stratum, list[dict[str, Any]]], classes: tuple[str, ...]) -> None:
    for name in classes:
        for split in SPLITS:
            if not rows.get(Stratum(split, name, "real")):
                raise UndecodableSource(f"{name}: no image of its {split} split decodes; repair the download")
