"""A synthetic set of two classes in small shards, and samples removed from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Manifest, Stratum, digest_of, read_manifest
from cxrdist.data.shards.removed import Reason, read_removed, removed_file
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.writing.rewrite import changing, remove_samples
from cxrdist.data.storage.store import Store, store_of
from cxrdist.files import canonical_json, sha256_bytes
from tests.helpers.shard_sets import write_set, write_shard

SIZE = 16
CLASSES = ("Normal", "Pneumothorax")
PER_SHARD = 3
SHARDS = 3
NORMAL, PNEUMOTHORAX = (Stratum("train", name, "synthetic") for name in CLASSES)
REAL_DIGEST = "5" * 64
REASON = Reason(reason="grid", by="review", reviewer="Ann", time="2026-07-04T09:30:00Z")


def key_of(label: int, number: int) -> str:
    """Key of sample ``number`` of a class."""
    return f"{label:016x}-{number // PER_SHARD:06d}-{number % PER_SHARD:08d}"


def value_of(label: int, number: int) -> int:
    """Grey value of all its pixels."""
    return 100 * label + number


def write_synthetic(
    place: str | Path | Store,
    origin: str = "synthetic",
    *,
    split: str = "train",
    labels: Iterable[int] = range(len(CLASSES)),
) -> Manifest:
    """Nine images of each class in three shards; a real set with nine patients, if that is the origin."""
    store, strata = store_of(place), []
    for label in labels:
        class_name = CLASSES[label]
        stratum, rows = Stratum(split, class_name, origin), []
        for shard in range(SHARDS):
            samples = []
            for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                pixels = np.full((SIZE, SIZE), value_of(label, number), np.uint8)
                patient = f"p{number}" if origin == "real" else None
                meta = {"patient": patient, "origin": origin, "class": class_name, "view": "PA"}
                samples.append(Sample(key_of(label, number), encode(pixels, "png"), meta))
            rows.append(write_shard(store, shard, stratum, label, "png", samples))
        strata.append(write_table(store, stratum, rows))
    lineage = {"kind": "synthetic", "real_digest": REAL_DIGEST, "split": "train"}
    return write_set(
        store,
        [*CLASSES],
        SIZE,
        "png",
        strata,
        provenance={"importer": "synthesis", "options": {"mix": "DS3"}},
        lineage=lineage if origin == "synthetic" else None,
    )


def remove(
    place: str | Path | Store,
    numbers: Mapping[int, Iterable[int]],
    reason: Reason = REASON,
    origin: str = "synthetic",
) -> Manifest:
    """Remove samples ``{class index: numbers}`` of such a set."""
    store = store_of(place)
    reasons = {
        Stratum("train", CLASSES[label], origin): {key_of(label, number): reason for number in of_class}
        for label, of_class in numbers.items()
    }
    with changing(store) as manifest:
        return remove_samples(store, manifest, reasons, by="review")


# ---- sets of a third party


def removed_rows(place: Path) -> list[dict[str, Any]]:
    """The file of removed samples of the only stratum that has one."""
    (entry,) = (entry for entry in read_manifest(place).strata if entry.removed)
    return [removal.model_dump() for removal in read_removed(store_of(place), entry)]


def forge(place: Path, removals: Any, **changes: Any) -> Path:
    """Such a set with another file of removed samples, or other fields of the entry that names it (...: gone), and
    all digests made to fit."""
    manifest = json.loads((place / MANIFEST).read_bytes())
    (entry,) = (entry for entry in manifest["strata"] if "removed" in entry)
    (place / entry["removed"]).unlink()
    data = removals if isinstance(removals, bytes) else canonical_json(removals)
    digest = sha256_bytes(data)
    name = removed_file(Stratum(entry["split"], entry["class"], entry["origin"]), digest)
    (place / name).write_bytes(data)
    entry |= {"removed": name, "removed_sha256": digest} | changes
    for field in [field for field, value in changes.items() if value is ...]:
        del entry[field]
    manifest["counts"][entry["split"]][entry["class"]][entry["origin"]] = entry["samples"]
    manifest.pop("digest")
    manifest["digest"] = digest_of(manifest)
    (place / MANIFEST).write_bytes(canonical_json(manifest))
    return place
