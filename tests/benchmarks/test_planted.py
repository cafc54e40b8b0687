"""Synthetic sets whose quality is known: what classifiers read from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.study.planted import copies, noise, planted_set
from benchmarks.study.truth import lacking
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify


def test_a_planted_set_is_the_synthetic_set_of_its_real_one(tiny_set: Path, tmp_path: Path) -> None:
    real = ShardSet(tiny_set)
    needs = lacking(real, "DS3")
    counts = {name: real.samples("train", name, "real") for name in real.classes}
    # DS3 fills every class to twice the largest.
    assert needs == {name: 2 * max(counts.values()) - count for name, count in counts.items()}
    images = copies(real, needs)
    planted_set(tmp_path / "copies", real, images, "copies")
    assert verify(str(tmp_path / "copies")) == []
    found = open_synthetic(str(tmp_path / "copies"), real)
    for name, count in needs.items():
        read = found.images("train", name, "synthetic", count + 1)
        own = real.images("train", name, "real", counts[name])
        assert np.array_equal(read, np.resize(own, (count, *own.shape[1:])))


def test_noise_is_another_for_each_seed(tiny_set: Path) -> None:
    one, two = (noise({"Normal": 3}, 16, seed)["Normal"] for seed in (0, 1))
    assert one.shape == (3, 16, 16) and not np.array_equal(one, two)
    assert np.array_equal(one, noise({"Normal": 3}, 16, 0)["Normal"])
