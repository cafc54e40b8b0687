"""Recipes of a step: what a batch becomes, and that ranks, parts and kills change nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import log_softmax

from cxrdist.cls.config import ClsConfig, Stage
from cxrdist.cls.train import train
from cxrdist.cls.training.stages import StagePlan, plan_stages
from cxrdist.cls.training.step import ClsStep
from cxrdist.cls.training.trainer import ENGINE
from cxrdist.config.parser import to_yaml
from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.mix.rules import rule_from, with_equal_classes
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AugmentConfig
from cxrdist.distributed.dist import Dist
from cxrdist.errors import OptionError, UserError
from cxrdist.nets.dcnn import DCNN, DCNNConfig, init_weights
from cxrdist.run.tracking.config import TrackingConfig
from tests.helpers.launching import launch

pytestmark = pytest.mark.slow

DISABLED = TrackingConfig(mode="disabled")
SMALL: dict[str, Any] = {
    "batch": 16,
    "widths": (4, 8),
    "hidden": 16,
    "precision": "fp32",
    "tracking": DISABLED,
}


def planned(config: ClsConfig, shards: Path, dist: Dist) -> list[StagePlan]:
    rules = [rule_from(load_yaml(find_named("mix", mix))) for mix in config.mixes]
    return plan_stages(config, rules, ShardSet(shards), None, dist)


def one_step(config: ClsConfig, shards: Path) -> tuple[ClsStep, DCNN]:
    dist = Dist("fp32", engines=(ENGINE,))
    network = DCNN(DCNNConfig(size=32, classes=3, widths=(4, 8), hidden=16))
    init_weights(network, 0)
    engine = dist.engine(ENGINE, network, learning_rate=1e-3, betas=(0.5, 0.999), parts=config.accumulate)
    return ClsStep(config, engine, dist, planned(config, shards, dist)[0], None), network


def test_a_weighted_smoothed_loss_is_that_of_the_formula(tiny_set: Path) -> None:
    config = ClsConfig(shards=str(tiny_set), class_weights="inverse", label_smoothing=0.2, **SMALL)
    step, network = one_step(config, tiny_set)
    batch = step.stage.stream.read(1)
    with torch.no_grad():
        logits = network(batch.pixels.float() / 127.5 - 1).numpy().astype(np.float64)
    counts = np.array([sum(origins.values()) for origins in step.stage.quotas.values()])
    weights = counts.sum() / (len(counts) * counts)
    logs = np.asarray(log_softmax(torch.from_numpy(logits), 1))
    targets = np.eye(3)[batch.labels.numpy()] * 0.8 + 0.2 / 3
    expected = -(weights * targets * logs).sum(1).mean()
    assert float(step(1, batch)) == pytest.approx(expected, rel=1e-5)


def test_accumulation_takes_the_gradient_of_the_whole_batch(tiny_set: Path) -> None:
    after = []
    for parts in (1, 4):
        config = ClsConfig(
            shards=str(tiny_set), accumulate=parts, class_weights="inverse", mixup=0.4, **SMALL
        )
        step, network = one_step(config, tiny_set)
        step(0, step.stage.stream.read(0))
        after.append([weight.detach().clone() for weight in network.parameters()])
    for whole, in_parts in zip(*after, strict=True):
        torch.testing.assert_close(whole, in_parts, rtol=0, atol=2e-5)


def test_balanced_sampling_keeps_the_epoch_and_the_shares_of_origins() -> None:
    quotas = {"a": {"real": 60, "synthetic": 20}, "b": {"real": 10, "synthetic": 10}, "none": {"real": 0}}
    assert with_equal_classes(quotas) == {
        "a": {"real": 38, "synthetic": 12},
        "b": {"real": 25, "synthetic": 25},
        "none": {"real": 0},
    }


def test_stages_have_their_own_order_budget_and_rate(tiny_set: Path) -> None:
    config = ClsConfig(
        shards=str(tiny_set),
        budget="320 images",
        learning_rate=0.01,
        stages=(
            Stage(mix="DS1", budget="25 %"),
            Stage(mix="DS1", budget="75 %", learning_rate=0.002),
            Stage(mix="DS2", budget="2 epochs", freeze="features"),
        ),
        **SMALL,
    )
    stages = planned(config, tiny_set, Dist("fp32"))
    assert [(s.first, s.steps) for s in stages[:2]] == [(0, 5), (5, 15)]
    assert stages[2].first == 20 and stages[2].steps == round(2 * stages[2].stream.epoch_images / 16)
    assert [s.learning_rate for s in stages] == [0.01, 0.002, 0.01]
    assert [s.is_frozen for s in stages] == [False, False, True]
    keys = [s.stream.keys(0).tolist() for s in stages[:2]]
    assert keys[0] != keys[1]
    alone = planned(replace(config, stages=(), mix="DS1"), tiny_set, Dist("fp32"))
    assert alone[0].stream.keys(0).tolist() == keys[0]
    # The rate decays within each stage, and starts again with the next.
    assert stages[0].learning_rate_at(4, config) < stages[0].learning_rate_at(0, config)
    assert stages[1].learning_rate_at(5, config) == pytest.approx(0.002, rel=0.02)


def test_options_that_exclude_each_other_are_refused() -> None:
    stages = (Stage(mix="DS1", budget="50 %"),)
    with pytest.raises(OptionError, match=r"^mix: DS2 and stages are both given"):
        ClsConfig(mix="DS2", stages=stages)
    with pytest.raises(
        OptionError, match=r"^budget: must be written as '20 epochs' or '50000 images', not '50 %'"
    ):
        ClsConfig(budget="50 %")
    with pytest.raises(OptionError, match=r"^budget: .*, or '50 %' of the whole budget, not '101 %'"):
        Stage(mix="DS1", budget="101 %")


EVERYTHING: dict[str, Any] = {
    "budget": "384 images",
    "evaluations": 3,
    "augment": AugmentConfig(rotate_degrees=7, shift=0.1, contrast=0.2),
    "class_weights": "inverse",
    "label_smoothing": 0.1,
    "mixup": 0.4,
    "sampling": "balanced",
    "stages": (
        Stage(mix="DS1", budget="50 %"),
        Stage(mix="DS2", budget="25 %", learning_rate=5e-4),
        Stage(mix="DS2", budget="25 %", freeze="features"),
    ),
}


def test_everything_together_is_the_same_on_two_processes_and_after_a_kill_in_any_stage(
    tmp_path: Path, tiny_set: Path
) -> None:
    config = ClsConfig(shards=str(tiny_set), run=str(tmp_path / "one"), **SMALL, **EVERYTHING)

    def summary(run: str) -> dict[str, Any]:
        return json.loads((tmp_path / run / "summary.json").read_text())

    def weights(run: str) -> dict[str, np.ndarray]:
        last = max((tmp_path / run / "checkpoints").glob("images-*"))
        return load_file(last / "model.safetensors")

    train(config)
    one = summary("one")
    assert [stage["images_seen"] for stage in one["stages"]] == [192, 96, 96]
    assert one["mix"] == "DS1 then DS2 then DS2"
    (tmp_path / "two.yaml").write_text(to_yaml(replace(config, run="two")))
    done = launch("train_cls.py", "--config", "two.yaml", cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary("two")["order_sha256"] == one["order_sha256"]
    ours, theirs = weights("one"), weights("two")
    # Two processes sum in another order than one.
    assert max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-5

    # Frozen features do not change in the last stage; the last layer does.
    before = load_file(tmp_path / "one/checkpoints/images-000000000288/model.safetensors")
    changed = {name for name in ours if not np.array_equal(before[name], ours[name])}
    assert changed == {name for name in ours if name.startswith("mlp.2.")}

    for kept in ("images-000000000288",):  # the end of the second stage
        shutil.copytree(tmp_path / "one", tmp_path / kept)
        for name in ("summary.json", "model.safetensors", "model.json"):
            (tmp_path / kept / name).unlink()
        for checkpoint in (tmp_path / kept / "checkpoints").glob("images-*"):
            if checkpoint.name > kept:
                shutil.rmtree(checkpoint)
        train(replace(config, run=str(tmp_path / kept)))
        again = summary(kept)
        for key in ("weights_sha256", "order_sha256", "metrics", "stages"):
            assert again[key] == one[key], key
        lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in (kept, "one")]
        assert lines[0] == lines[1]


def test_soft_labels_are_part_of_what_a_run_was_trained_on(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    key = shards.stratum("train", shards.classes[0], "real").key(0).decode()
    labels = tmp_path / "labels.csv"

    def write(first: float) -> None:
        names = ",".join(f"p:{name}" for name in shards.classes)
        others = ",".join([str((1 - first) / (len(shards.classes) - 1))] * (len(shards.classes) - 1))
        labels.write_text(f"image,label,predicted,{names},error\n{key},,,{first},{others},\n")

    config = ClsConfig(
        shards=str(tiny_set), run=str(tmp_path / "run"), **SMALL, budget="64 images", evaluations=2
    )
    train(replace(config, run=str(tmp_path / "plain")))
    config = replace(config, soft_labels=str(labels))
    write(0.25)
    train(config)
    digests = [
        json.loads((tmp_path / run / "summary.json").read_text())["shards"] for run in ("plain", "run")
    ]
    assert digests[1] == digests[0] | {"soft_labels": hashlib.sha256(labels.read_bytes()).hexdigest()}
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("plain", "run")]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    write(0.5)
    with pytest.raises(UserError, match="has a finished run on other soft labels: give another --run"):
        train(config)
    (tmp_path / "run/summary.json").unlink()
    with pytest.raises(UserError, match=r"was begun with other soft labels than .*labels\.csv holds now"):
        train(config)
