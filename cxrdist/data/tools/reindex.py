"""Indexes that are missing or damaged, made again from the tars and held against the shard tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cxrdist.console import Progress
from cxrdist.data.shards.manifest import MANIFEST, REMEDY, Stratum, index_bytes, read_table
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import index_name, index_row, read_tar
from cxrdist.data.shards.write_job import WRITES
from cxrdist.data.storage.store import Store, locked, write_to
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes


@dataclass
class Reindexed:
    """What became of the indexes of a set."""

    whole: int = 0
    """Indexes that were as they were written."""
    rebuilt: list[str] = field(default_factory=list)
    """Names of those that were written again."""
    problems: list[str] = field(default_factory=list)
    """Why others could not be, a line each."""


def reindex(place: str) -> Reindexed:
    """Rebuild the missing and damaged indexes of a set from its tars.

    An index is written only where its SHA-256 is the one in the shard table, so a damaged tar gets none. Raises
    UserError where there is no set, or its manifest was changed, and for a synthetic set whose keys an earlier
    version truncated.
    """
    shards = ShardSet(place)
    shards.check_keys()
    result = Reindexed()
    bad: list[tuple[dict[str, Any], dict[str, Any]]] = []
    # A tar of others' has one index, and a row in the table of each of its strata.
    rows = {row["name"]: (entry, row) for entry, row in table_rows(shards, result.problems)}
    for entry, row in rows.values():
        if is_whole(shards.store, row):
            result.whole += 1
        else:
            bad.append((entry, row))
    if bad and shards.is_foreign:
        result.problems += [
            f"{index_name(name)}: its tar is others' own, and only an import knows splits and patients: remove "
            f"{shards}/{MANIFEST} and run `cxrdist import webdataset --in-place` again"
            for name in sorted(row["name"] for _, row in bad)
        ]
    elif bad:
        with (
            locked(shards.store, WRITES),
            Progress(f"index {shards}", sum(row["samples"] for _, row in bad)) as progress,
        ):
            shards.store.tidy()
            for entry, row in bad:
                rebuild(shards, entry, row, result)
                progress.advance(row["samples"])
    return result


def table_rows(shards: ShardSet, problems: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for entry in shards.manifest["strata"]:
        try:
            table = read_table(shards.store, entry)
        except UserError as error:
            problems.append(str(error))
            continue
        for row in table:
            yield entry, row


def is_whole(store: Store, row: dict[str, Any]) -> bool:
    try:
        return sha256_bytes(store.read(index_name(row["name"]))) == row["index_sha256"]
    except FileNotFoundError:
        return False


def rebuild(shards: ShardSet, entry: dict[str, Any], row: dict[str, Any], result: Reindexed) -> None:
    name = row["name"]
    stratum = Stratum(entry["split"], entry["class"], entry["origin"])
    class_index = shards.classes.index(stratum.class_name)
    try:
        with shards.store.open(name) as file:
            data = index_bytes(
                [
                    index_row(sample, stratum, class_index, offset)
                    for offset, sample in read_tar(file, name, class_index, shards.manifest["encoding"])
                ],
                name,
            )
    except FileNotFoundError:
        result.problems.append(f"{name}: missing")
    except UserError as error:
        result.problems.append(str(error).removesuffix(f"; {REMEDY}"))
    else:
        if sha256_bytes(data) == row["index_sha256"]:
            write_to(shards.store, index_name(name), data)
            result.rebuilt.append(index_name(name))
        else:
            result.problems.append(f"{name}: changed since it was written, so its index can't be made again")
