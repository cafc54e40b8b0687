"""The manifest of a shard set, its shard tables and its indexes: the part of the format that is not a tar.

    SET/
      manifest.json                               written last: without it there is no set
      train-normal-real.<sha256, 12 digits>.json  shard table of one stratum, named by its digest
      train-normal-real-000000.tar                a plain WebDataset shard
      train-normal-real-000000.index.npy          where each image lies in it

A stratum is one class of one origin of one split. The manifest is byte-canonical and carries its own digest,
so that a changed byte anywhere in a set shows: the manifest hashes the tables, a table the tars and indexes.
No path, host, time or process count stands in any of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.shards.schema import (
    INDEX_DTYPE,
    LONGEST_SLUG,
    MOST_CLASSES,
    ORIGINS,  # noqa: F401  (a part of the format, as the others are)
    SPLITS,
    check_manifest,
    check_row,
    check_table,
    check_written_manifest,
    check_written_table,
    index_of,
    is_text,
)
from cxrdist.data.storage.store import Store, store_of, write_to
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes, slug

FORMAT = "cxrdist-shards/1"
MANIFEST = "manifest.json"

# Beside a manifest, the command that makes a set finds it finished: it has to go first. A broken manifest does not
# tell whether the tars are others' own, perhaps the only copy of the images: never a word that would delete these.
REMEDY = (
    "restore the set from a copy, or make it again: remove its folder first, or manifest.json alone where tars were "
    "indexed in place"
)
REMEDY_IN_PLACE = (
    f"restore the files from a copy; or, to index the tars as they are now, remove {MANIFEST} alone and run "
    "`cxrdist import webdataset --in-place` again; keep the tars"
)

Manifest = dict[str, Any]


@dataclass(frozen=True, order=True)
class Stratum:
    """One class of one origin of one split: what a tar holds."""

    split: str
    class_name: str
    origin: str

    @property
    def stem(self) -> str:
        return f"{self.split}-{slug(self.class_name)}-{self.origin}"


def check_classes(classes: Sequence[str]) -> None:
    """Raises UserError for classes that no set can hold: a name that is no text or too long for a file name, two
    names that would share files, or too many."""
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{len(classes):,} classes: a set holds at most {MOST_CLASSES:,}; choose with --classes"
        )
    seen: dict[str, str] = {}
    for name in classes:
        if not is_text(name):
            raise UserError(f"class {name!a}: a class needs a name without control characters; rename it")
        if len(slug(name)) > LONGEST_SLUG:
            raise UserError(
                f"class {name[:40]!r}...: its name in file names would have {len(slug(name))} characters, of which "
                f"{LONGEST_SLUG} fit; rename it"
            )
        if other := seen.get(slug(name)):
            raise UserError(f"classes {other!r} and {name!r} would have the same file names; rename one")
        seen[slug(name)] = name


def digest_of(manifest: Manifest) -> str:
    """SHA-256 of the canonical manifest without its own ``digest``: the digest of the set."""
    return sha256_bytes(canonical_json({k: v for k, v in manifest.items() if k != "digest"}))


def write_table(store: Store, stratum: Stratum, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a stratum's shard table; returns the stratum's entry in the manifest. Raises UserError for a table that
    no reader accepts."""
    table = {"stratum": stratum.stem, "shards": shards}
    check_written_table(table, f"{store}: the table of {stratum.stem}")
    data = canonical_json(table)
    digest = sha256_bytes(data)
    name = f"{stratum.stem}.{digest[:12]}.json"
    write_to(store, name, data)
    return {
        "split": stratum.split,
        "class": stratum.class_name,
        "origin": stratum.origin,
        "samples": sum(s["samples"] for s in shards),
        "bytes": sum(s["bytes"] for s in shards),
        "shards": len(shards),
        "table": name,
        "table_sha256": digest,
    }


def read_table(store: Store, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """A stratum's shard table. Raises UserError where it is missing or not the one that the manifest names."""
    data = read_whole(store, entry["table"])
    if sha256_bytes(data) != entry["table_sha256"]:
        raise UserError(f"{store}/{entry['table']}: changed since {MANIFEST} was written; {REMEDY}")
    where = f"{store}/{entry['table']}"
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON as it was written ({error}); {REMEDY}") from None
    check_table(table, where)
    return table["shards"]


def read_whole(store: Store, name: str) -> bytes:
    """A file of a set. Raises UserError where it is missing."""
    try:
        return store.read(name)
    except FileNotFoundError:
        raise UserError(f"{store}/{name}: missing; {REMEDY}", every_rank=True) from None


def counts_of(strata: list[dict[str, Any]], classes: list[str]) -> dict[str, dict[str, dict[str, int]]]:
    """``{split: {class: {origin: samples}}}`` from the strata, in the order of splits and classes."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for split in SPLITS:
        of_split = [s for s in strata if s["split"] == split]
        for name in classes:
            of_class = {s["origin"]: s["samples"] for s in of_split if s["class"] == name}
            if of_class:
                counts.setdefault(split, {})[name] = of_class
    return counts


def write_manifest(
    store: Store,
    *,
    classes: list[str],
    image_size: int,
    encoding: str,
    strata: list[dict[str, Any]],
    provenance: dict[str, Any],
    lineage: dict[str, Any],
) -> Manifest:
    """Write the manifest, which makes the set exist; returns it, digest included. Raises UserError for one that no
    reader accepts."""
    strata = sorted(strata, key=lambda s: (SPLITS.index(s["split"]), s["class"], s["origin"]))
    manifest: Manifest = {
        "format": FORMAT,
        "classes": classes,
        "image_size": image_size,
        "encoding": encoding,
        "strata": strata,
        "counts": counts_of(strata, classes),
        "provenance": provenance,
        "lineage": lineage,
    }
    check_written_manifest(manifest, f"{store}/{MANIFEST}")
    manifest["digest"] = digest_of(manifest)
    write_to(store, MANIFEST, canonical_json(manifest))
    return manifest


def read_manifest(place: str | Path | Store) -> Manifest:
    """The manifest of a set. Raises UserError where there is none, or where a byte of it was changed."""
    store = store_of(place)
    path = f"{store}/{MANIFEST}"
    try:
        data = store.read(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        if not store.is_there():
            raise UserError(
                f"{store}: no such shard set; make one with `cxrdist import ... --out {store}`"
            ) from None
        raise UserError(
            f"{store}: not a shard set, or an unfinished one (no {MANIFEST}); "
            "run the command that makes it again, and it goes on where it stopped"
        ) from None
    try:
        manifest = json.loads(data)
        is_canonical = data == canonical_json(manifest)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON as it was written ({error}); {REMEDY}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise UserError(f"{path}: format {found!r}, but this version reads {FORMAT!r}; {REMEDY}")
    if not is_canonical or digest_of(manifest) != manifest.get("digest"):
        raise UserError(f"{path}: changed since it was written (its digest does not fit); {REMEDY}")
    check_manifest(manifest, path)
    if counts_of(manifest["strata"], manifest["classes"]) != manifest["counts"]:
        raise UserError(f"{path}: its counts are not those of its strata; do not use this set")
    return manifest


def index_array(rows: Sequence[tuple[Any, ...]], tar: str) -> np.ndarray:
    """The rows of a tar's index, [samples] of ``INDEX_DTYPE``. Raises UserError, naming tar, key and field, for a
    value that does not fit its field."""
    for row in rows:
        check_row(row, tar)
    return np.array([*rows], INDEX_DTYPE)


def index_bytes(rows: Sequence[tuple[Any, ...]], tar: str) -> bytes:
    """``index_array`` as an ``.npy`` file without pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, index_array(rows, tar), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_index(store: Store, name: str, row: dict[str, Any], *, is_foreign: bool) -> np.ndarray:
    """The index of a row of a shard table, [samples] of ``INDEX_DTYPE``; of others' tar the samples of all strata.
    Raises UserError where it is missing, was
    changed, or is none that our writer writes."""
    data = read_whole(store, name)
    if sha256_bytes(data) != row["index_sha256"]:
        raise UserError(f"{store}/{name}: changed since it was written; {REMEDY}", every_rank=True)
    return index_of(data, row, f"{store}/{name}", is_foreign=is_foreign)
