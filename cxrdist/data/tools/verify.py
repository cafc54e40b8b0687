"""Everything that can be wrong with a shard set, found by reading all of it.

manifest ── its own digest, its sums
  table, removed samples ── SHA-256, sums
    tar, index ── size, SHA-256, the index against the tar, every image's hash, every image decoded
all indexes together ── a key that occurs twice, a patient in two splits
the folder ── files that are not part of the set
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np
import xxhash

from cxrdist.console import Progress
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.index import (
    INDEX_DTYPE,
    IndexRow,
    ShardRow,
    changed,
    index_array,
    index_bytes,
    index_name,
    missing,
    parse_index,
)
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.schema import (
    DO_NOT_USE,
    MANIFEST,
    OTHER_VERSION,
    REMEDY,
    REMEDY_IN_PLACE,
    SPLITS,
    Problem,
    ShardSetError,
)
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import TarFile, hashed, index_row, read_tar
from cxrdist.data.storage.store import Store, store_of
from cxrdist.data.tools.verify_tables import FILE_ERRORS, Task, problem_of, read_tables
from cxrdist.files import sha256_bytes
from cxrdist.process import available_cores

NO_ROWS = np.empty(0, INDEX_DTYPE)


@dataclass(frozen=True)
class Checked:
    """What a shard was found to hold, and what is wrong with it."""

    index: np.ndarray  # [samples] of INDEX_DTYPE
    problems: Sequence[Problem] = ()


def verify(place: str, *, quick: bool = False) -> list[Problem]:
    """All problems of a set; empty if it is as it was written.

    ``quick`` reads no tar and no index: it compares sizes, and the manifest with the tables. Raises UserError if
    there is no set at all, and for a synthetic set whose keys an earlier version truncated.
    """
    store = store_of(place)
    if not store.exists(MANIFEST):
        ShardSet(store)
    try:
        shards = ShardSet(store)
    except FILE_ERRORS as error:
        return [problem_of(error, MANIFEST)]
    shards.check_keys()
    tables = read_tables(shards)
    tasks = tables.tasks
    samples = Counter[str]()
    for _, row in tasks:
        samples[row.name] += row.samples
    if shards.is_external:
        # One tar holds samples of several strata, and is read once.
        tasks = [*{row.name: (entry, row) for entry, row in tasks}.values()]
    found = [*tables.problems]
    indexes = [NO_ROWS]
    with Progress(f"verify {store}", samples.total()) as progress:
        for row, checked in _check_all(shards, tasks, check_sizes if quick else check_shard):
            found += checked.problems
            found += tables.not_there(row, checked.index)
            indexes.append(checked.index)
            progress.advance(samples[row.name] if quick else len(checked.index))
    if not quick:
        index = np.concatenate(indexes)
        found += check_together(index)
        if shards.is_external:
            found += check_strata(shards, index)
    return found + tables.unlisted()


def remedy(place: str, found: Sequence[Problem]) -> str:
    """What to do about the problems that ``verify`` or ``reindex`` found, in one line."""
    if _is_external(place):
        return f"what to do: {REMEDY_IN_PLACE}"
    if any(problem.kind in ("value", "version") for problem in found):
        of_kind = {problem.kind for problem in found}
        return f"what to do: {DO_NOT_USE if 'value' in of_kind else OTHER_VERSION}"
    is_unlisted = [problem.kind == "unlisted" for problem in found]
    is_index = [problem.file.endswith(index_name("")) and problem.kind != "unlisted" for problem in found]
    todo = []
    if len(found) > sum(is_unlisted) + sum(is_index):
        todo.append(REMEDY)
    elif any(is_index):
        todo.append(f"rebuild the indexes with `cxrdist shards index {place}`")
    if any(is_unlisted):
        todo.append("move the files that are not part of the set to another folder")
    return f"what to do: {'; '.join(todo)}"


def _is_external(place: str) -> bool:
    try:
        return ShardSet(place).is_external
    except FILE_ERRORS:
        return False


def _check_all(
    shards: ShardSet, tasks: Sequence[Task], check: Callable[[ShardSet, StratumEntry, ShardRow], Checked]
) -> Iterator[tuple[ShardRow, Checked]]:
    """Hashing and decoding release the interpreter lock: a thread per core keeps all cores busy."""
    with ThreadPoolExecutor(available_cores()) as pool:
        results = pool.map(lambda task: check(shards, *task), tasks)
        for (_, row), checked in zip(tasks, results):
            yield row, checked


def check_sizes(shards: ShardSet, entry: StratumEntry, row: ShardRow) -> Checked:
    """Sizes of tar and index against the table."""
    expected_bytes = {row.name: row.bytes}
    if not shards.is_external:
        # The index of an external tar has rows of several strata.
        header_bytes = len(index_bytes([], row.name))
        expected_bytes[index_name(row.name)] = header_bytes + row.samples * INDEX_DTYPE.itemsize
    problems = []
    for name, expected in expected_bytes.items():
        try:
            size = shards.store.size(name)
        except FileNotFoundError:
            problems.append(missing(name))
            continue
        except FILE_ERRORS as error:
            problems.append(problem_of(error, name))
            continue
        if size != expected:
            problems.append(_wrong_size(name, size, expected))
    return Checked(NO_ROWS, problems)


def check_shard(shards: ShardSet, entry: StratumEntry, row: ShardRow) -> Checked:
    """Tar and index against the table, the index against the tar, each image against the index and the set."""
    index, problems = check_index(shards, row)
    if shards.is_external:
        return _check_external(shards, row, Checked(NO_ROWS if index is None else index, problems))
    try:
        rows, of_tar = check_tar(shards, entry, row)
    except FileNotFoundError:
        return Checked(NO_ROWS, [*problems, missing(row.name)])
    except FILE_ERRORS as error:
        return Checked(NO_ROWS, [*problems, problem_of(error, row.name)])
    problems += of_tar
    if rows is not None and sha256_bytes(index_bytes(rows, row.name)) != row.index_sha256:
        problems.append(Problem("changed", index_name(row.name), f"not the index of {row.name}"))
    if of_tar and index is not None:
        problems += damaged_images(shards.store, row.name, index)
    return Checked(index_array(rows or [], row.name) if index is None else index, problems)


def _check_external(shards: ShardSet, row: ShardRow, so_far: Checked) -> Checked:
    """An external tar against the table, and every image that its index lists against the index."""
    try:
        with shards.store.open(row.name) as file:
            problems = _check_file(row, file)
        problems += damaged_images(shards.store, row.name, so_far.index)
    except FileNotFoundError:
        return Checked(NO_ROWS, [*so_far.problems, missing(row.name)])
    except FILE_ERRORS as error:
        return Checked(NO_ROWS, [*so_far.problems, problem_of(error, row.name)])
    return Checked(so_far.index, [*so_far.problems, *problems])


def _check_file(row: ShardRow, file: IO[bytes]) -> list[Problem]:
    """Size and digest of a tar, which is then at its beginning again."""
    size, digest = hashed(file)
    if size != row.bytes:
        return [_wrong_size(row.name, size, row.bytes)]
    return [changed(row.name)] if digest != row.sha256 else []


def _wrong_size(name: str, size: int, expected: int) -> Problem:
    return Problem("size", name, f"{size:,} bytes, not {expected:,}")


def check_index(shards: ShardSet, row: ShardRow) -> tuple[np.ndarray | None, list[Problem]]:
    """The index of a shard, None if it can't be used; and what is wrong with it."""
    name = index_name(row.name)
    try:
        data = shards.store.read(name)
        if sha256_bytes(data) != row.index_sha256:
            return None, [changed(name)]
        return parse_index(data, row, shards.store, is_external=shards.is_external), []
    except FileNotFoundError:
        return None, [missing(name)]
    except FILE_ERRORS as error:
        return None, [problem_of(error, name)]


def check_tar(
    shards: ShardSet, entry: StratumEntry, row: ShardRow
) -> tuple[list[IndexRow] | None, list[Problem]]:
    """The index of a tar, read from the tar, None if it can't be read to its end; and what is wrong with it."""
    tar = tar_file(shards, entry, row)
    rows: list[IndexRow] = []
    with shards.store.open(row.name) as file:
        problems = _check_file(row, file)
        try:
            for offset, sample in read_tar(file, tar):
                rows.append(index_row(sample, tar, offset))
                try:
                    decode(sample.image, tar.encoding, shards.image_size)
                except UndecodableImage as error:
                    detail = f"sample {sample.key} at byte {offset}: {error}"
                    problems.append(Problem("image", row.name, detail))
        except ShardSetError as error:
            return None, [*problems, error.problem]
    return rows, problems


def tar_file(shards: ShardSet, entry: StratumEntry, row: ShardRow) -> TarFile:
    class_index = shards.manifest.class_index(entry.class_name)
    return TarFile(shards.store, row.name, entry.stratum, class_index, shards.manifest.encoding)


def damaged_images(store: Store, tar: str, index: np.ndarray) -> Iterator[Problem]:
    """The samples of a tar whose image does not have the hash of its index."""
    for row in index:
        offset = int(row["offset_bytes"])
        data = store.read_range(tar, offset, int(row["length_bytes"]))
        if xxhash.xxh3_64_intdigest(data) != int(row["xxh3_64"]):
            detail = f"sample {row['key'].decode()} at byte {offset}: its image does not match its hash"
            yield Problem("image", tar, detail)


def check_strata(shards: ShardSet, index: np.ndarray) -> Iterator[Problem]:
    """External tars: how many samples of each stratum the indexes list."""
    for entry in shards.manifest.strata:
        is_of_class = index["class"] == shards.manifest.class_index(entry.class_name)
        count = int(((index["split"] == entry.split.encode()) & is_of_class).sum())
        if count != entry.samples:
            yield Problem("count", entry.table, f"the indexes list {count:,} samples, not {entry.samples:,}")


def check_together(index: np.ndarray) -> Iterator[Problem]:
    """Keys that occur more than once, and patients in more than one split. Removed samples count: their tars still
    hold them, and what learned from the set before has seen them."""
    keys, counts = np.unique(index["key"], return_counts=True)
    for key, count in zip(keys[counts > 1], counts[counts > 1]):
        yield Problem("key", "", f"key {key.decode()} occurs {count} times")
    known = index[index["patient"] != b""]
    pairs = np.unique(known[["patient", "split"]])
    patients, counts = np.unique(pairs["patient"], return_counts=True)
    for patient in patients[counts > 1]:
        there = {split.decode() for split in pairs["split"][pairs["patient"] == patient]}
        splits = " and ".join(split for split in SPLITS if split in there)
        yield Problem("patient", "", f"patient {patient.decode()} is in {splits}")
