"""Samples that were removed from a stratum after its tars were written: a file of the set names them.

    manifest.json ── removed_sha256 ──> train-normal-synthetic.removed.<sha256, 12 digits>.json

The tars, their indexes and the shard table stay as they are, and still hold these samples. Readers of the stratum
leave them out, and the manifest counts those that are left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, cast

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cxrdist.data.shards.index import KEY_DTYPE, ShardTable, read_index, read_table, read_whole
from cxrdist.data.shards.manifest import Stratum, StratumEntry
from cxrdist.data.shards.schema import (
    MANIFEST,
    REMEDY,
    Count,
    Model,
    Problem,
    ShardSetError,
    Text,
    first_error,
    impossible,
    is_key,
    must,
)
from cxrdist.data.shards.synthetic_keys import are_truncated, refusal
from cxrdist.data.storage.store import Store, write_to
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


def is_utc_time(value: Any) -> bool:
    """True for ``2026-07-04T09:30:00Z``; seconds may have a fraction."""
    try:
        return isinstance(value, str) and bool(_TIME.fullmatch(value) and datetime.fromisoformat(value))
    except ValueError:
        return False


class Reason(Model):
    """Why a sample is removed."""

    reason: Text
    by: Text
    """What decided: ``review``, ``duplicates gate`` ..."""
    reviewer: Text | None
    time: Annotated[str, must(is_utc_time, "an ISO 8601 time in UTC that ends in Z")] | None


class Removal(Reason):
    """A removed sample."""

    key: Annotated[str, must(is_key, "the key of a sample")]
    shard: Count
    """Number of its shard in the shard table."""


_REMOVALS = TypeAdapter(list[Removal])
Removed = Mapping[int, frozenset[str]]
"""Shard -> keys of the samples that were removed from it."""


def removed_file(stratum: Stratum, digest: str) -> str:
    """The name of the file of removed samples whose SHA-256 is ``digest``."""
    return f"{stratum.stem}.removed.{digest[:12]}.json"


def read_removed(store: Store, entry: StratumEntry) -> list[Removal]:
    """The removed samples of a stratum, sorted by shard and key; [] if there are none. Raises UserError if their file
    is missing, was changed, or is none that a writer writes."""
    if entry.removed is None:
        return []
    data = read_whole(store, entry.removed)
    if sha256_bytes(data) != entry.removed_sha256:
        problem = Problem("changed", entry.removed, f"changed since {MANIFEST} was written")
        raise ShardSetError(store, problem, REMEDY)
    try:
        removals = _REMOVALS.validate_python(json.loads(data))
    except ValidationError as error:
        raise impossible(store, entry.removed, first_error(error)) from None
    except (ValueError, RecursionError) as error:
        raise impossible(store, entry.removed, f"not valid JSON ({error})") from None
    if any(_place(one) >= _place(next_one) for one, next_one in pairwise(removals)):
        raise impossible(store, entry.removed, "not sorted by shard and key")
    if len({removal.key for removal in removals}) < len(removals):
        raise impossible(store, entry.removed, "a key occurs twice")
    if len(removals) != entry.removed_samples:
        detail = f"{len(removals)} samples, but {MANIFEST} says {entry.removed_samples}"
        raise ShardSetError(store, Problem("count", entry.removed, detail), REMEDY)
    return removals


def _place(removal: Removal) -> tuple[int, str]:
    return removal.shard, removal.key


def removed_of(store: Store, entry: StratumEntry, shards: ShardTable) -> Removed:
    """The removed samples of a stratum by shard. Raises UserError as ``read_removed`` does, and if a shard does not
    exist, or has fewer samples than were removed from it."""
    keys: dict[int, set[str]] = {}
    for removal in read_removed(store, entry):
        keys.setdefault(removal.shard, set()).add(removal.key)
    for shard, of_shard in keys.items():
        if shard >= len(shards) or len(of_shard) > shards.samples[shard]:
            detail = f"{len(of_shard)} samples of shard {shard}, which the table does not have"
            raise impossible(store, cast(str, entry.removed), detail)
    return {shard: frozenset(of_shard) for shard, of_shard in keys.items()}


def samples_left(shards: ShardTable, removed: Removed) -> np.ndarray:
    """[shards] int64: samples of each shard that were not removed."""
    if not removed:
        return shards.samples
    left = shards.samples.copy()
    for shard, keys in removed.items():
        left[shard] -= len(keys)
    return left


def not_in_shard(store: Store, entry: StratumEntry, tar: str, key: str) -> ShardSetError:
    """The error for a removed sample that its shard does not hold."""
    return impossible(store, cast(str, entry.removed), f"sample {key} is not in {tar}")


def kept(index: np.ndarray, keys: frozenset[str]) -> tuple[np.ndarray, set[str]]:
    """[n] bool: the rows of an index whose samples are not among ``keys``; and the keys that it does not have."""
    is_removed = np.isin(index["key"], np.array([*keys], KEY_DTYPE))
    return ~is_removed, {*keys} - {key.decode() for key in index["key"][is_removed].tolist()}


def without(store: Store, entry: StratumEntry, reasons: Mapping[str, Reason]) -> StratumEntry:
    """The entry of a stratum without the samples of these keys: writes the file that names them, and those that were
    removed before. The set changes when a manifest with the new entry is written.

    Raises UserError, with nothing written, for a key that is not in the stratum or that was removed before, and if no
    sample would be left.
    """
    if not reasons:
        return entry
    before = read_removed(store, entry)
    if twice := sorted({removal.key for removal in before} & {*reasons}):
        raise UserError(f"{store}: sample {twice[0]} was removed before")
    shard_of = _shards_of(store, entry, {*reasons})
    if unknown := sorted({*reasons} - {*shard_of}):
        more = f", and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise UserError(f"{store}: no sample {unknown[0]!a}{more} in {entry.stratum.stem}")
    if len(reasons) == entry.samples:
        raise UserError(
            f"{store}: no image of {entry.class_name} ({entry.split}, {entry.origin}) would be left: keep at least "
            "one, or make the set again without this class"
        )
    removals = [
        *before,
        *(Removal(**reasons[key].model_dump(), key=key, shard=shard_of[key]) for key in reasons),
    ]
    data = canonical_json([removal.model_dump() for removal in sorted(removals, key=_place)])
    digest = sha256_bytes(data)
    name = removed_file(entry.stratum, digest)
    write_to(store, name, data)
    changes: dict[str, Any] = {
        "samples": entry.samples - len(reasons),
        "removed": name,
        "removed_sha256": digest,
        "removed_samples": len(removals),
    }
    return StratumEntry.model_validate(entry.json_value() | changes)


def _shards_of(store: Store, entry: StratumEntry, keys: set[str]) -> dict[str, int]:
    """Key -> number of the shard that holds it, from the indexes; keys that none holds are left out."""
    wanted = {key.encode() for key in keys if is_key(key)}
    found: dict[str, int] = {}
    for shard, row in enumerate(read_table(store, entry)):
        index = read_index(store, row, is_external=False)
        if entry.origin == "synthetic" and are_truncated(index["key"]):
            raise refusal(store)
        found |= {key.decode(): shard for key in wanted.intersection(index["key"].tolist())}
    return found
