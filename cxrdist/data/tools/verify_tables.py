"""What a set's tables and files of removed samples name, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrdist.data.shards.index import ShardRow, ShardTable, index_name, read_table
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.removed import kept, not_in_shard, removed_of
from cxrdist.data.shards.schema import MANIFEST, Problem, ShardSetError
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import is_tar_name
from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.errors import shown

Task = tuple[StratumEntry, ShardRow]
FILE_ERRORS = (ShardSetError, UnreadableFile)
"""What is wrong with one file of a set: the others are checked all the same."""


@dataclass(frozen=True)
class Tables:
    """The shard tables of a set, and its files of removed samples."""

    shards: ShardSet
    tasks: list[Task]
    problems: list[Problem]
    known: set[str]
    """Names of the files that belong to the set."""
    unread: list[str]
    """What the files of a stratum begin with whose table can't be read: they belong to the set all the same."""
    removed: dict[str, tuple[StratumEntry, frozenset[str]]]
    """Tar -> its stratum, and the keys that were removed from it."""

    def not_there(self, row: ShardRow, index: np.ndarray) -> Iterator[Problem]:
        """Removed samples that are not in the index [samples] of their shard. Nothing is said of a shard whose index
        is not whole: that is a problem of its own."""
        if row.name in self.removed and len(index) == row.samples:
            entry, keys = self.removed[row.name]
            for key in sorted(kept(index, keys)[1]):
                yield not_in_shard(self.shards.store, entry, row.name, key).problem

    def unlisted(self) -> list[Problem]:
        """Files of the folder that are not part of the set."""
        names = [
            name
            for name in self.shards.store.names()
            if name not in self.known and not name.startswith(tuple(self.unread))
        ]
        if self.shards.is_external:
            # The folder is the user's own: other files in it are not ours to judge, but a tar would seem to be read.
            unused = self.shards.manifest.provenance.unused_tars or []
            names = [name for name in names if is_tar_name(name) and name not in unused]
        return [Problem("unlisted", shown(name), "not part of the set") for name in names]


def read_tables(shards: ShardSet) -> Tables:
    tables = Tables(shards, [], [], {MANIFEST}, [], {})
    for entry in shards.manifest.strata:
        tables.known.update(name for name in (entry.table, entry.removed) if name is not None)
        try:
            table = read_table(shards.store, entry)
        except FILE_ERRORS as error:
            tables.problems.append(problem_of(error, entry.table))
            tables.unread.append(f"{entry.stratum.stem}-")
            continue
        stated = {"samples": entry.tar_samples, "bytes": entry.bytes, "shards": entry.shards}
        there = {"samples": int(table.samples.sum()), "bytes": int(table.bytes.sum()), "shards": len(table)}
        for name, count in there.items():
            if count != stated[name]:
                detail = f"{count} {name}, but {MANIFEST} says {stated[name]}"
                tables.problems.append(Problem("count", entry.table, detail))
        tables.tasks.extend((entry, row) for row in table)
        tables.known.update(name for tar in table.names for name in (tar, index_name(tar)))
        if entry.removed is not None:
            _read_removed(tables, entry, table, entry.removed)
    return tables


def _read_removed(tables: Tables, entry: StratumEntry, table: ShardTable, name: str) -> None:
    try:
        removed = removed_of(tables.shards.store, entry, table)
    except FILE_ERRORS as error:
        tables.problems.append(problem_of(error, name))
    else:
        tables.removed.update({table.names[shard]: (entry, keys) for shard, keys in removed.items()})


def problem_of(error: ShardSetError | UnreadableFile, name: str) -> Problem:
    """The problem that a reader of file ``name`` met."""
    return error.problem if isinstance(error, ShardSetError) else Problem("unreadable", name, error.reason)
