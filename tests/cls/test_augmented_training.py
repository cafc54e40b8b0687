"""Training on augmented images: which images the classifier is given, and that ranks and kills change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.train import train
from cxrdist.cls.training.stages import plan_stages
from cxrdist.cls.training.trainer import ENGINE, Trainer
from cxrdist.config.parser import to_yaml
from cxrdist.counter_rng import uniform
from cxrdist.data.mix.rules import rule_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AugmentConfig, augment, to_float
from cxrdist.distributed.dist import Dist
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.seeds import derive
from tests.helpers.launching import launch

pytestmark = pytest.mark.slow

EVERYTHING = AugmentConfig(rotate_degrees=7, shift=0.1, zoom=0.1, brightness=0.1, contrast=0.2, flip=True)


@pytest.fixture
def own_threads() -> Iterator[None]:
    """A job sets torch's threads for its whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_classifier_is_given_augmented_images_and_evaluates_plain_ones(
    tiny_set: Path, tmp_path: Path, own_threads: None
) -> None:
    config = ClsConfig(
        shards=str(tiny_set), run=str(tmp_path), batch=8, widths=(4, 8), seed=3, augment=EVERYTHING
    )
    real, dist = ShardSet(tiny_set), Dist("fp32", engines=(ENGINE,))
    rule = rule_from({"name": "own", "images_per_class": "own"})
    stages = plan_stages(config, [rule], real, None, dist)
    trainer = Trainer(config, stages, real, None, dist)
    trainer.build()
    trainer.begin(stages[0], None)
    given: list[torch.Tensor] = []
    for network in (trainer.engine.module, trainer.current):
        network.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    batch = stages[0].stream.read(2)
    trainer.one_step(2, batch)
    plain = to_float(batch.pixels)
    expected = augment(plain, EVERYTHING, uniform(derive(3, "augment"), torch.arange(16, 24), 8))
    assert torch.equal(given[0], expected)
    assert not torch.equal(given[0], plain)
    given.clear()
    trainer.validation.probabilities(trainer.current)
    assert torch.equal(torch.cat(given), to_float(trainer.validation.pixels))


def test_augmented_training_is_the_same_on_two_processes_and_after_a_kill(
    tmp_path: Path, tiny_set: Path, own_threads: None
) -> None:
    last = "checkpoints/images-000000000192"
    config = ClsConfig(
        mix="DS2",
        shards=str(tiny_set),
        run=str(tmp_path / "one"),
        batch=16,
        budget="192 images",
        evaluations=2,
        widths=(4, 8),
        hidden=16,
        augment=EVERYTHING,
        precision="fp32",
        tracking=TrackingConfig(mode="disabled"),
    )

    def summary(run: str) -> dict[str, Any]:
        return json.loads((tmp_path / run / "summary.json").read_text())

    def difference(a: str, b: str) -> float:
        """The largest between the weights at the end."""
        ours, theirs = (load_file(tmp_path / run / last / "model.safetensors") for run in (a, b))
        return max(float(np.abs(ours[k] - theirs[k]).max()) for k in ours)

    train(config)
    train(replace(config, run=str(tmp_path / "plain"), augment=AugmentConfig()))
    (tmp_path / "two.yaml").write_text(to_yaml(replace(config, run="two")))
    done = launch("train_cls.py", "--config", "two.yaml", cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary("two")["world_size"] == 2
    assert summary("one")["order_sha256"] == summary("two")["order_sha256"]
    # Two processes sum in another order than one (1.5e-8 measured); other images make other weights.
    assert difference("one", "two") < 1e-5 < 1e-3 < difference("one", "plain")

    # As after a kill between the first evaluation and the second.
    shutil.copytree(tmp_path / "one", tmp_path / "cut")
    for name in ("summary.json", "model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    shutil.rmtree(tmp_path / "cut" / last)
    train(replace(config, run=str(tmp_path / "cut")))
    for key in ("weights_sha256", "order_sha256", "metrics", "best_images"):
        assert summary("cut")[key] == summary("one")[key], key
    assert difference("cut", "one") == 0
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("cut", "one")]
    assert lines[0] == lines[1]
