"""Merge real sets into one: classes by name, keys and splits as they are, no patient in two splits.

    sets, in the order of their digests
      -> checks               one size and encoding, one salt, no key twice, no patient in two splits
      -> shard tasks          per stratum, of one set after the other: those of a conversion
      -> tables, manifest     written last

As with a conversion, neither the order of the sets, nor the number of workers, nor how often the job was killed shows
in the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxrdist.console import say
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.lineage import family
from cxrdist.data.shards.manifest import (
    Lineage,
    Manifest,
    Provenance,
    Stratum,
    check_classes,
    checked_provenance,
    write_manifest,
)
from cxrdist.data.shards.schema import MANIFEST, UNLABELLED, UNLABELLED_INDEX, canonical_order
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing.write_job import claimed, finished_set, mark_finished
from cxrdist.data.shards.writing.write_pool import rows_of, write_all
from cxrdist.data.storage.store import Store, store_of
from cxrdist.data.tools.convert import ConvertTask, Target, say_dropped, tasks_of
from cxrdist.errors import OptionError, UserError


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Merge real shard sets into a new one: classes by name; keys, splits and metadata are kept. A patient in two
    splits is refused.

    The same command again finishes an unfinished set, bit for bit the same; a finished one is left as it is.
    """

    sets: tuple[str, ...]
    """Folders of two or more sets, or their URLs, of one image size and encoding."""
    out: str
    """Folder of the new set, or its URL."""
    assume_disjoint: bool = False
    """Merge sets that were hashed with different salts, in which a common patient cannot be recognized: you know that
    they have none. It is recorded in the manifest."""
    workers: int = 0
    """Processes that write; 0: one per core."""

    def __post_init__(self) -> None:
        if len(self.sets) < 2:
            raise OptionError("sets", "name two or more sets to merge")
        if self.workers < 0:
            raise OptionError("workers", f"must be 0 (one per core) or more, not {self.workers}")


def merge(options: MergeOptions) -> Manifest:
    """Merge sets; returns the new set's manifest.

    Raises UserError if the sets do not fit each other, with nothing written.
    """
    sets = sorted((ShardSet(place) for place in options.sets), key=lambda shards: shards.digest)
    classes = canonical_order(name for shards in sets for name in shards.classes)
    check_classes(classes)
    check_alike(sets)
    salts = {shards.manifest.provenance.salt_fingerprint for shards in sets}
    is_known = len(salts) == 1 and None not in salts
    if not is_known and not options.assume_disjoint:
        raise OptionError(
            "assume_disjoint",
            "the sets were hashed with different salts, so a patient of several of them cannot be recognized; import "
            "them again with one --salt-file, or add this option if you know that they share no patient",
        )
    check_patients(sets)
    store = store_of(options.out)
    provenance = provenance_of(sets, options, None if not is_known else salts.pop())
    if store.exists(MANIFEST):
        return finished_set(store, provenance)
    say(f"merging {', '.join(map(str, sets))}")
    for shards in sets:
        say_dropped(shards)
    with claimed(store, provenance):
        manifest = fill(sets, list(classes), store, provenance, options, is_one_family=is_known)
    say(f"{store}: {manifest.samples:,} images of {len(classes)} classes, digest {manifest.digest[:12]}")
    return manifest


def check_alike(sets: Sequence[ShardSet]) -> None:
    """Raises UserError unless the sets are real, different, and have one image size and encoding."""
    first = sets[0].manifest
    for shards in sets:
        manifest = shards.manifest
        if manifest.lineage.kind != "real":
            raise UserError(f"{shards}: a synthetic set; only real sets are merged")
        if manifest.is_external:
            raise UserError(
                f"{shards}: indexed in place; make a set of its own of it first (`cxrdist shards convert {shards}`)"
            )
        for name, here, there in (
            ("image size", manifest.image_size, first.image_size),
            ("encoding", manifest.encoding, first.encoding),
            ("kind", kind_of(manifest), kind_of(first)),
        ):
            if here != there:
                raise UserError(
                    f"{shards} has {name} {here}, and {sets[0]} {there}: convert one with `cxrdist shards convert`, "
                    "or import both alike"
                )
    if len({shards.digest for shards in sets}) < len(sets):
        raise UserError("a set is named twice, or is a copy of another: name each once")


def kind_of(manifest: Manifest) -> str:
    return "phantoms" if manifest.provenance.is_phantom else "radiographs"


def check_patients(sets: Sequence[ShardSet]) -> None:
    """Raises UserError for a key in two sets, and for a patient in two splits."""
    set_of: dict[bytes, ShardSet] = {}
    twice: Counter[tuple[str, str]] = Counter()
    split_of: dict[bytes, str] = {}
    divided: dict[bytes, tuple[str, str]] = {}
    for shards in sets:
        for stratum, index in shards.indexes():
            for key in index["key"].tolist():
                other = set_of.setdefault(key, shards)
                if other is not shards:
                    twice[str(other), str(shards)] += 1
            # b"": a set of others that does not know its patients.
            for patient in {*index["patient"].tolist()} - {b""}:
                if split_of.setdefault(patient, stratum.split) != stratum.split:
                    divided.setdefault(patient, (split_of[patient], stratum.split))
    if twice:
        (first, second), count = twice.most_common(1)[0]
        raise UserError(
            f"{count:,} images are in {first} and in {second}: merge sets of different images. Two sources with "
            "equal file names need a --source-name each when they are imported"
        )
    if divided:
        patient, splits = next(iter(divided.items()))
        raise UserError(
            f"{len(divided):,} patients are in two splits, such as {patient.decode()} in {' and '.join(splits)}: a "
            "classifier would be tested on patients it was trained on. Import the sources again, the later one with "
            "--keep-split and the first set"
        )


def provenance_of(sets: Sequence[ShardSet], options: MergeOptions, salt: str | None) -> Provenance:
    merged = [
        {
            "digest": shards.digest,
            "samples": shards.manifest.samples,
            "release": shards.manifest.provenance.release,
        }
        for shards in sets
    ]
    found: dict[str, Any] = {
        "importer": "merge",
        "release": f"{len(sets)} merged sets",
        "is_phantom": sets[0].manifest.provenance.is_phantom,
        "options": {"size": sets[0].image_size, "encoding": sets[0].manifest.encoding},
        "merged": merged,
    }
    if salt is not None:
        found["salt_fingerprint"] = salt
    if options.assume_disjoint:
        found["options"]["assume_disjoint"] = True
    return checked_provenance(found, "shards merge")


def fill(
    sets: Sequence[ShardSet],
    classes: list[str],
    store: Store,
    provenance: Provenance,
    options: MergeOptions,
    *,
    is_one_family: bool,
) -> Manifest:
    """Write all files of the set, the manifest last."""
    target = Target(sets[0].image_size, sets[0].manifest.encoding, 1)
    tasks: list[ConvertTask] = []
    numbers: Counter[Stratum] = Counter()
    for shards in sets:
        for entry in shards.manifest.strata:
            name = entry.class_name
            index = UNLABELLED_INDEX if name == UNLABELLED else classes.index(name)
            added = tasks_of(shards, entry, store, target, class_index=index, first=numbers[entry.stratum])
            numbers[entry.stratum] += len(added)
            tasks += added
    rows = rows_of(write_all(tasks, f"merge to {store}", options.workers))
    # What learned from the train split of one of them has seen no patient of the new set's val or test: that was
    # checked, unless the salts differ.
    ancestors = [digest for shards in sets for digest in family(shards)] if is_one_family else None
    manifest = write_manifest(
        store,
        classes=classes,
        image_size=target.size,
        encoding=target.encoding,
        strata=[write_table(store, stratum, shards) for stratum, shards in sorted(rows.items())],
        provenance=provenance,
        lineage=Lineage(kind="real", ancestors=ancestors) if ancestors else Lineage(kind="real"),
    )
    mark_finished(store)
    return manifest
