"""Write a small synthetic set that descends from a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers.shard_sets import write_set, write_shard

WEIGHTS = "c" * 64
SHARD_IMAGES = (3, 2)
"""Images of the two shards of each class."""


def pixels(number: int, size: int) -> np.ndarray:
    """Image ``number`` of the set, [size, size] uint8: distinct for each."""
    return (np.arange(size * size).reshape(size, size) * 3 + 11 * number).astype(np.uint8)


def write_synthetic(folder: Path, real: ShardSet, encoding: str = "png") -> ShardSet:
    """Two shards of each class of ``real``, made from its train split by one generator; the keys are ``k0000`` and so
    on, in the order of the classes."""
    store = LocalStore(folder)
    entries, number = [], 0
    for index, name in enumerate(real.classes):
        stratum, rows = Stratum("train", name, "synthetic"), []
        for shard, images in enumerate(SHARD_IMAGES):
            samples = []
            for _ in range(images):
                image = encode(pixels(number, real.image_size), encoding)
                samples.append(Sample(f"k{number:04d}", image, {"patient": None, "origin": "synthetic"}))
                number += 1
            rows.append(write_shard(store, shard, stratum, index, encoding, samples))
        entries.append(write_table(store, stratum, rows))
    images = sum(SHARD_IMAGES)
    provenance = {
        "importer": "synthesis",
        "is_phantom": False,
        "options": {"mix": "DS3", "seed": 0},
        "generators": dict.fromkeys(real.classes, WEIGHTS),
        "gates": {
            "name": "none",
            "classes": {name: {"tried": 2 * images, "admitted": images} for name in real.classes},
        },
    }
    lineage = {"kind": "synthetic", **made_from(real)}
    write_set(
        store,
        real.classes,
        real.image_size,
        encoding,
        entries,
        provenance=provenance,
        lineage=lineage,
    )
    return ShardSet(folder)
