"""Write a set of one class from the keys and patients of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import ShardRow, write_table
from cxrdist.data.shards.manifest import Manifest, Stratum, StratumEntry
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers.shard_sets import write_set, write_shard


def sample(key: str, patient: str, value: int = 9, size: int = 16) -> Sample:
    pixels = np.full((size, size), value, np.uint8)
    return Sample(key, encode(pixels, "png"), {"patient": patient, "origin": "real"})


def forge(folder: Path, shards: dict[tuple[str, int], Sequence[Sample]], **changes: Any) -> Manifest:
    """A set of one class whose digests all fit, whatever its samples are: {(split, shard number): samples}.

    ``changes``: values of each stratum in the manifest that its table does not have."""
    store = LocalStore(folder)
    rows: dict[str, list[ShardRow]] = {}
    for (split, number), samples in shards.items():
        row = write_shard(store, number, Stratum(split, "Normal", "real"), 0, "png", samples)
        rows.setdefault(split, []).append(row)
    entries = []
    for split, of_split in rows.items():
        entry = write_table(store, Stratum(split, "Normal", "real"), of_split)
        entries.append(StratumEntry.model_validate(entry.json_value() | changes))
    return write_set(store, ["Normal"], 16, "png", entries)
