"""Write a set of one class from the keys and patients of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.manifest import Stratum, write_manifest, write_table
from cxrdist.data.shards.tar import Sample, write_shard
from cxrdist.data.storage.store import LocalStore


def sample(key: str, patient: str, value: int = 9, size: int = 16) -> Sample:
    pixels = np.full((size, size), value, np.uint8)
    return Sample(key, encode(pixels, "png"), {"patient": patient, "origin": "real"})


def forge(folder: Path, shards: dict[tuple[str, int], Sequence[Sample]], **changes: Any) -> dict[str, Any]:
    """A set whose digests all fit, whatever its samples are; {(split, shard number): samples}, one class."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for (split, number), samples in shards.items():
        row = write_shard(LocalStore(folder), number, Stratum(split, "Normal", "real"), 0, "png", samples)
        rows.setdefault(split, []).append(row)
    return write_manifest(
        LocalStore(folder),
        classes=["Normal"],
        image_size=16,
        encoding="png",
        strata=[
            write_table(LocalStore(folder), Stratum(split, "Normal", "real"), of_split) | changes
            for split, of_split in rows.items()
        ],
        provenance={},
        lineage={"kind": "real"},
    )
