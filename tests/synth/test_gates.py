from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.synth.gates import GreyGate, Range, scores_of
from cxrdist.synth.plan import Source, SynthTask, shard_tasks


def test_scores_are_mean_and_standard_deviation() -> None:
    assert scores_of(np.array([[0, 255], [0, 255]], np.uint8)) == (127.5, 127.5)


def test_the_gate_admits_its_own_class_and_no_blank_or_saturated_image(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    gate = GreyGate.from_real(shards, "Normal")
    real = shards.images("train", "Normal", "real", 100)
    assert all(gate.admits(*scores_of(image)) for image in real)
    assert not gate.admits(*scores_of(np.full((32, 32), 84, np.uint8)))
    assert not gate.admits(*scores_of(np.where(np.eye(32), 0, 255).astype(np.uint8)))


def test_the_gates_ranges_follow_from_the_real_images(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    scores = [scores_of(i) for i in shards.images("train", "Pneumothorax", "real", 100)]
    gate = GreyGate.from_real(shards, "Pneumothorax")
    brightness, contrast = zip(*scores)
    assert gate.brightness == Range(min(brightness) - 64, max(brightness) + 64).rounded()
    assert gate.contrast == Range(min(contrast) / 4, max(contrast) * 2).rounded()


def test_the_plan_of_shards_is_a_function_of_counts_alone() -> None:
    sources = [Source(name, images, None, None) for name, images in (("a", 1000), ("b", 3))]  # type: ignore[arg-type]
    tasks = shard_tasks(sources, 64, "png")
    assert sum(t.samples for t in tasks if t.class_name == "a") == 1000
    assert [t.samples for t in tasks if t.class_name == "a"] == [125] * 8
    assert tasks[-1] == SynthTask("b", 0, 3)
