"""Everything that can be wrong with a shard set, found by reading all of it.

manifest ── its own digest, its sums
  table ── its SHA-256, its sums
    tar, index ── size, SHA-256, the index against the tar, every image's hash, every image decoded
all indexes together ── a key that stands twice, a patient in two splits
the place ── files that no table names
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import xxhash

from cxrdist.console import Progress
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.manifest import (
    INDEX_DTYPE,
    MANIFEST,
    REMEDY,
    REMEDY_IN_PLACE,
    SPLITS,
    Stratum,
    index_array,
    index_bytes,
    read_table,
)
from cxrdist.data.shards.schema import index_of
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import IndexRow, hashed, index_name, index_row, is_tar_name, read_tar
from cxrdist.data.shards.write_job import UNUSED_TARS
from cxrdist.data.storage.store import Store, store_of
from cxrdist.errors import UserError, shown
from cxrdist.files import sha256_bytes

STRANGER = ": a file that no table names"


@dataclass(frozen=True)
class Checked:
    """What a shard was found to hold, [samples] of ``INDEX_DTYPE``, and what is wrong with it."""

    index: np.ndarray
    problems: list[str] = field(default_factory=list)


def verify(place: str, *, quick: bool = False) -> list[str]:
    """What is wrong, a line each; empty where the set is as it was written.

    ``quick`` reads no tar and no index: it compares sizes, and what the manifest and the tables say. Raises
    UserError where there is no set at all, and for a synthetic set whose keys an earlier version truncated.
    """
    store = store_of(place)
    if not store.exists(MANIFEST):
        ShardSet(store)
    try:
        shards = ShardSet(store)
    except UserError as error:
        return [str(error)]
    shards.check_keys()
    found: list[str] = []
    tasks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    known = {MANIFEST}
    # Whose table can't be read has its files all the same: nobody is to move them away.
    unread: list[str] = []
    for entry in shards.manifest["strata"]:
        known.add(entry["table"])
        try:
            table = read_table(store, entry)
        except UserError as error:
            found.append(str(error))
            unread.append(f"{Stratum(entry['split'], entry['class'], entry['origin']).stem}-")
            continue
        for name, there in (("samples", sum(s["samples"] for s in table)), ("bytes", sum(s["bytes"] for s in table)),
                            ("shards", len(table))):  # fmt: skip
            if there != entry[name]:
                found.append(f"{entry['table']}: {there} {name}, but {MANIFEST} says {entry[name]}")
        tasks += [(entry, row) for row in table]
        known |= {name for row in table for name in (row["name"], index_name(row["name"]))}
    samples = Counter[str]()
    for _, row in tasks:
        samples[row["name"]] += row["samples"]
    if shards.is_foreign:
        # One tar holds samples of several strata, and is read once.
        tasks = [*{row["name"]: (entry, row) for entry, row in tasks}.values()]
    indexes: list[np.ndarray] = []
    with Progress(
        f"verify {store}", sum(entry["samples"] for entry in shards.manifest["strata"])
    ) as progress:
        for row, checked in check_all(shards, tasks, quick):
            found += checked.problems
            indexes.append(checked.index)
            progress.advance(samples[row["name"]] if quick else len(checked.index))
    if not quick:
        found += check_together(np.concatenate([*indexes, np.empty(0, INDEX_DTYPE)]))
        if shards.is_foreign:
            found += check_strata(shards, indexes)
    strangers = [name for name in store.names() if name not in known and not name.startswith(tuple(unread))]
    if shards.is_foreign:
        # The folder is others' own: what else lies in it is not ours to judge, but a tar would seem to be read.
        unused = shards.manifest["provenance"].get(UNUSED_TARS, [])
        strangers = [name for name in strangers if is_tar_name(name) and name not in unused]
    return found + [f"{shown(name)}{STRANGER}" for name in strangers]


def check_strata(shards: ShardSet, indexes: list[np.ndarray]) -> Iterator[str]:
    """Others' tars: how many samples of each stratum the indexes tell of."""
    index = np.concatenate([*indexes, np.empty(0, INDEX_DTYPE)])
    for entry in shards.manifest["strata"]:
        here = (index["split"] == entry["split"].encode()) & (
            index["class"] == shards.classes.index(entry["class"])
        )
        if (count := int(here.sum())) != entry["samples"]:
            yield f"{entry['table']}: the indexes tell of {count:,} samples, not {entry['samples']:,}"


def remedy(place: str, found: list[str]) -> str:
    """What to do about what ``verify`` found, in one line."""
    strangers = sum(line.endswith(STRANGER) for line in found)
    indexes = sum(line.partition(": ")[0].endswith(index_name("")) for line in found)
    todo = []
    if is_foreign(place):
        return f"what to do: {REMEDY_IN_PLACE}"
    if len(found) > strangers + indexes:
        todo.append(REMEDY)
    elif indexes:
        todo.append(f"`cxrdist shards index {place}` makes the indexes again")
    if strangers:
        todo.append("move away the files that no table names")
    return f"what to do: {'; '.join(todo)}"


def is_foreign(place: str) -> bool:
    try:
        return ShardSet(place).is_foreign
    except UserError:
        return False


def check_all(
    shards: ShardSet, tasks: list[tuple[dict[str, Any], dict[str, Any]]], quick: bool
) -> Iterator[tuple[dict[str, Any], Checked]]:
    """Hashing and decoding leave Python's lock to others: a thread per core keeps all cores busy."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        check = check_sizes if quick else check_shard
        results = pool.map(lambda task: check(shards, *task), tasks)
        for (_, row), checked in zip(tasks, results):
            yield row, checked


def check_sizes(shards: ShardSet, entry: dict[str, Any], row: dict[str, Any]) -> Checked:
    problems = []
    expected_bytes = {row["name"]: row["bytes"]}
    if not shards.is_foreign:
        # The index of a tar of others' has rows of several strata.
        expected_bytes[index_name(row["name"])] = (
            len(index_bytes([], "")) + row["samples"] * INDEX_DTYPE.itemsize
        )
    for name, expected in expected_bytes.items():
        try:
            size = shards.store.size(name)
        except FileNotFoundError:
            problems.append(f"{name}: missing")
            continue
        if size != expected:
            problems.append(f"{name}: {size:,} bytes, not {expected:,}")
    return Checked(np.empty(0, INDEX_DTYPE), problems)


def check_shard(shards: ShardSet, entry: dict[str, Any], row: dict[str, Any]) -> Checked:
    """Tar and index against the table, the index against the tar, each image against the index and the set."""
    store, name = shards.store, row["name"]
    index, problems = check_index(shards, index_name(name), row)
    if shards.is_foreign:
        return check_foreign(shards, row, index, problems)
    try:
        rows, of_tar = check_tar(shards, entry, row)
    except FileNotFoundError:
        return Checked(np.empty(0, INDEX_DTYPE), [*problems, f"{name}: missing"])
    except UserError as error:
        return Checked(np.empty(0, INDEX_DTYPE), [*problems, str(error)])
    problems += of_tar
    if rows is not None and sha256_bytes(index_bytes(rows, name)) != row["index_sha256"]:
        problems.append(f"{index_name(name)}: not the index of {name}")
    if of_tar and index is not None:
        problems += [f"{name}: {line}" for line in damaged(store, name, index)]
    return Checked(index_array(rows or [], name) if index is None else index, problems)


def check_foreign(
    shards: ShardSet, row: dict[str, Any], index: np.ndarray | None, problems: list[str]
) -> Checked:
    """A tar that others wrote, against the table; every image that its index tells of, against the index."""
    store, name = shards.store, row["name"]
    index = np.empty(0, INDEX_DTYPE) if index is None else index
    try:
        with store.open(name) as file:
            problems += size_and_digest(name, file, row)
        problems += [f"{name}: {line}" for line in damaged(store, name, index)]
    except FileNotFoundError:
        return Checked(np.empty(0, INDEX_DTYPE), [*problems, f"{name}: missing"])
    return Checked(index, problems)


def size_and_digest(name: str, file: IO[bytes], row: dict[str, Any]) -> list[str]:
    """What is wrong with a tar as a file, which is then at its beginning again."""
    size, digest = hashed(file)
    if size != row["bytes"]:
        return [f"{name}: {size:,} bytes, not {row['bytes']:,}"]
    return [f"{name}: changed since it was written"] if digest != row["sha256"] else []


def check_index(shards: ShardSet, name: str, row: dict[str, Any]) -> tuple[np.ndarray | None, list[str]]:
    try:
        data = shards.store.read(name)
        if sha256_bytes(data) != row["index_sha256"]:
            return None, [f"{name}: changed since it was written"]
        return index_of(data, row, name, is_foreign=shards.is_foreign), []
    except FileNotFoundError:
        return None, [f"{name}: missing"]
    except UserError as error:
        return None, [str(error)]


def check_tar(
    shards: ShardSet, entry: dict[str, Any], row: dict[str, Any]
) -> tuple[list[IndexRow] | None, list[str]]:
    """The index of a tar, read from the tar, None where it can't be read to its end; and what is wrong."""
    name, encoding = row["name"], shards.manifest["encoding"]
    stratum = Stratum(entry["split"], entry["class"], entry["origin"])
    class_index = shards.classes.index(entry["class"])
    rows: list[IndexRow] = []
    problems: list[str] = []
    with shards.store.open(name) as file:
        problems += size_and_digest(name, file, row)
        try:
            for offset, sample in read_tar(file, name, class_index, encoding):
                rows.append(index_row(sample, stratum, class_index, offset))
                try:
                    decode(sample.image, encoding, shards.image_size)
                except UndecodableImage as error:
                    problems.append(f"{name}: sample {sample.key} at byte {offset}: {error}")
        except UserError as error:
            return None, [*problems, str(error).removesuffix(f"; {REMEDY}")]
    return rows, problems


def damaged(store: Store, tar: str, index: np.ndarray) -> Iterator[str]:
    """The samples of a tar whose image is not the one that its index tells of."""
    for row in index:
        offset = int(row["offset_bytes"])
        data = store.read_range(tar, offset, int(row["length_bytes"]))
        if xxhash.xxh3_64_intdigest(data) != int(row["xxh3_64"]):
            yield f"sample {row['key'].decode()} at byte {offset}: its image is not the one that was written"


def check_together(index: np.ndarray) -> Iterator[str]:
    """Keys that stand more than once, and patients in more than one split."""
    keys, counts = np.unique(index["key"], return_counts=True)
    yield from (f"key {key.decode()} stands {n} times" for key, n in zip(keys, counts) if n > 1)
    known = index[index["patient"] != b""]
    pairs = np.unique(known[["patient", "split"]])
    patients, counts = np.unique(pairs["patient"], return_counts=True)
    for patient in patients[counts > 1]:
        there = {split.decode() for split in pairs["split"][pairs["patient"] == patient]}
        yield f"patient {patient.decode()} is in {' and '.join(s for s in SPLITS if s in there)}"
