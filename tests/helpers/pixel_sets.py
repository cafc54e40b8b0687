"""Write a set from the pixels and metadata of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers.shard_sets import write_set, write_shard

Image = tuple[np.ndarray, dict[str, Any]]


def forge(folder: Path, strata: dict[tuple[str, str, str], Sequence[Sequence[Image]]]) -> str:
    """{(split, class, origin): images of each shard} as a set of 16 px images; returns its place."""
    store = LocalStore(folder)
    classes = list(dict.fromkeys(name for _, name, _ in strata))
    entries, key = [], 0
    for (split, name, origin), shards in strata.items():
        stratum, rows = Stratum(split, name, origin), []
        for number, images in enumerate(shards):
            samples = []
            for pixels, meta in images:
                samples.append(Sample(f"k{key:04d}", encode(pixels, "npy"), meta))
                key += 1
            rows.append(write_shard(store, number, stratum, classes.index(name), "npy", samples))
        entries.append(write_table(store, stratum, rows))
    write_set(store, classes, 16, "npy", entries)
    return str(folder)


def flat(value: int) -> np.ndarray:
    return np.full((16, 16), value, np.uint8)
