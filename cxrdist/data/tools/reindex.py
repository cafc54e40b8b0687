"""Indexes that are missing or damaged, rebuilt from the tars and compared with the shard tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.console import Progress
from cxrdist.data.shards.index import ShardRow, index_bytes, index_name, missing, read_table
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.schema import Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import index_row, read_tar
from cxrdist.data.shards.writing.write_job import WRITES
from cxrdist.data.storage.store import Store, locked, write_to
from cxrdist.data.tools.verify import tar_file
from cxrdist.data.tools.verify_tables import FILE_ERRORS, problem_of
from cxrdist.files import sha256_bytes


@dataclass(frozen=True)
class Reindexed:
    """The state of the indexes of a set."""

    intact: int
    """Indexes that match their hash."""
    rebuilt: Sequence[str]
    """Names of those that were written again."""
    problems: Sequence[Problem]
    """Why others could not be."""


def reindex(place: str) -> Reindexed:
    """Rebuild the missing and damaged indexes of a set from its tars.

    An index is written only if its SHA-256 is the one in the shard table, so a damaged tar gets none. Raises
    UserError if there is no set, or its manifest was changed, and for a synthetic set whose keys an earlier version
    truncated.
    """
    shards = ShardSet(place)
    shards.check_keys()
    problems: list[Problem] = []
    # An external tar has one index, and a row in the table of each of its strata.
    rows: dict[str, tuple[StratumEntry, ShardRow]] = {}
    for entry in shards.manifest.strata:
        try:
            rows |= {row.name: (entry, row) for row in read_table(shards.store, entry)}
        except FILE_ERRORS as error:
            problems.append(problem_of(error, entry.table))
    bad = [(entry, row) for entry, row in rows.values() if not _is_intact(shards.store, row)]
    rebuildable = {row.name for _, row in bad}
    problems += [missing(name) for name in rows if name not in rebuildable and not shards.store.exists(name)]
    rebuilt: list[str] = []
    if bad and shards.is_external:
        detail = "missing or changed; its tar is external, and only an import knows splits and patients"
        problems += [
            Problem("missing", index_name(name), detail) for name in sorted(row.name for _, row in bad)
        ]
    elif bad:
        images = sum(row.samples for _, row in bad)
        with locked(shards.store, WRITES), Progress(f"index {shards}", images) as progress:
            shards.store.tidy()
            for entry, row in bad:
                problem = _rebuild(shards, entry, row)
                if problem is None:
                    rebuilt.append(index_name(row.name))
                else:
                    problems.append(problem)
                progress.advance(row.samples)
    return Reindexed(len(rows) - len(bad), rebuilt, problems)


def _is_intact(store: Store, row: ShardRow) -> bool:
    try:
        return sha256_bytes(store.read(index_name(row.name))) == row.index_sha256
    except FileNotFoundError:
        return False


def _rebuild(shards: ShardSet, entry: StratumEntry, row: ShardRow) -> Problem | None:
    """Write the index of a shard again; returns why that is not possible, or None."""
    tar = tar_file(shards, entry, row)
    try:
        with shards.store.open(row.name) as file:
            rows = [index_row(sample, tar, offset) for offset, sample in read_tar(file, tar)]
    except FileNotFoundError:
        return missing(row.name)
    except FILE_ERRORS as error:
        return problem_of(error, row.name)
    data = index_bytes(rows, row.name)
    if sha256_bytes(data) != row.index_sha256:
        detail = "changed since it was written, so its index can't be rebuilt"
        return Problem("changed", row.name, detail)
    write_to(shards.store, index_name(row.name), data)
    return None
