"""GANs that are also trained on unlabelled images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.schema import UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import build
from cxrdist.gan.plan import ModelPlan, plan
from cxrdist.models import export_generator, load_generator
from tests.helpers.images import CLASSES, draw_folder
from tests.helpers.launching import launch, run, summary

OTHERS = 9
CONFIG = GANConfig(
    architecture="conditional", images_per_class=None, batch=4, budget="2 epochs", maps=8, use_unlabelled=True
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with nine unlabelled images: 8, 6, 4 and 9 images in train."""
    folder = tmp_path_factory.mktemp("unlabelled")
    root = draw_folder(folder / "root", {**CLASSES, "Other": OTHERS})
    salt = folder / "salt"
    salt.write_text("a salt for tests, 16 bytes or more\n")
    options = {"size": 32, "val": 0.2, "test": 0.2, "workers": 1, "salt_file": str(salt)}
    options |= {"classes": tuple(CLASSES), "keep_unlabelled": True}
    ingest(Folder(root=str(root)), IngestOptions(out=str(folder / "set"), **options))  # type: ignore[arg-type]
    return folder / "set"


# ---- the plan


def test_the_unlabelled_images_have_the_last_label_and_the_quota_of_a_class(place: Path) -> None:
    (model,) = plan(CONFIG, ShardSet(place))
    assert model.classes == ("Normal", "Pleural Effusion", "Pneumothorax")
    assert model.labels == (*model.classes, UNLABELLED)
    assert model.quotas == {name: {"real": 6} for name in model.labels}  # 18 labelled images
    assert (model.train_images, model.steps) == (18 + OTHERS, 12)
    (without,) = plan(replace(CONFIG, use_unlabelled=False), ShardSet(place))
    assert without.labels == without.classes == model.classes
    assert (without.train_images, without.steps) == (18, 9)


@pytest.mark.parametrize(("share", "quota"), [(0.5, 18), (0.1, 2), (0.75, 54), (0.001, 1)])
def test_a_share_of_the_training_images(place: Path, share: float, quota: int) -> None:
    (model,) = plan(replace(CONFIG, unlabelled_share=share), ShardSet(place))
    assert model.quotas[UNLABELLED] == {"real": quota}
    assert sum(model.quotas[name]["real"] for name in model.classes) == 18


def test_a_set_without_unlabelled_images_is_refused(tiny_set: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan(CONFIG, ShardSet(tiny_set))
    assert str(caught.value) == (
        f"use_unlabelled: {tiny_set} has no unlabelled images; import it with --keep-unlabelled, or remove this "
        "option"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"architecture": "dcgan"},
            "use_unlabelled: a dcgan trains on one class; use --architecture conditional",
        ),
        (
            {"use_unlabelled": False, "unlabelled_share": 0.5},
            "unlabelled_share: has no effect without --use-unlabelled; remove it",
        ),
        ({"unlabelled_share": 1.0}, "unlabelled_share: must be above 0 and below 1, not 1.0"),
        ({"unlabelled_share": 0.0}, "unlabelled_share: must be above 0 and below 1, not 0.0"),
        ({"unlabelled_share": float("nan")}, "unlabelled_share: must be above 0 and below 1, not nan"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(CONFIG, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("option", [{"mix": "m.yaml"}, {"classes": (UNLABELLED,)}])
def test_it_is_no_class_of_mixes_and_options(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "name: m\nepoch_images: own\nweights: {unlabelled: {real: 1}, '*': {real: 1}}\n"
    (tmp_path / "m.yaml").write_text(rule)
    with pytest.raises(UserError, match=r"unlabelled'?:? (is )?not a class of"):
        plan(replace(CONFIG, **option), ShardSet(place))


# ---- the order


def stream(place: Path, model: ModelPlan, rank: int = 0, world_size: int = 1, **changes: Any) -> Stream:
    options: dict[str, Any] = {"batch": 8, "seed": 1, "classes": model.labels, **changes}
    return Stream(
        ShardSet(place), None, model.quotas, StreamOptions(rank=rank, world_size=world_size, **options)
    )


def test_an_epoch_has_exactly_the_quotas_and_the_pixels_of_the_stratum(place: Path) -> None:
    (model,) = plan(CONFIG, ShardSet(place))
    reader = ShardSet(place).stratum("train", UNLABELLED, "real")
    known = {reader.key(i): reader.pixels(i) for i in range(reader.samples)}
    whole = stream(place, model, batch=12)
    batches = [whole.read(step) for step in range(6)]  # three epochs of 24 images
    for first in (0, 2, 4):
        labels = torch.cat([batch.labels for batch in batches[first : first + 2]]).tolist()
        assert Counter(labels) == {0: 6, 1: 6, 2: 6, 3: 6}
    used = Counter[bytes]()
    for batch in batches:
        for key, pixels, label in zip(batch.keys.tolist(), batch.pixels.numpy(), batch.labels.tolist()):
            assert (label == 3) == (key in known)
            if label == 3:
                used[key] += 1
                assert np.array_equal(known[key], pixels[0])
    assert used.keys() == known.keys() and {*used.values()} == {2}  # 18 draws of nine images


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_the_same_batches(place: Path, world_size: int) -> None:
    (model,) = plan(CONFIG, ShardSet(place))
    whole = stream(place, model)
    ranks = [stream(place, model, rank, world_size) for rank in range(world_size)]
    for step in range(9):
        expected = whole.read(step)
        parts = [rank.read(step) for rank in ranks]
        assert np.stack([p.keys for p in parts], axis=1).ravel().tolist() == expected.keys.tolist()
        assert torch.equal(torch.stack([p.labels for p in parts], dim=1).flatten(), expected.labels)
    assert whole.load_state_dict(whole.state_dict(5)) == 5


def test_a_limit_of_images_per_class_leaves_all_unlabelled_images(place: Path) -> None:
    (model,) = plan(replace(CONFIG, images_per_class=5), ShardSet(place))
    assert model.train_images == 5 + 5 + 4 + OTHERS
    assert stream(place, model, limit=5).samples_in_use == [5, 5, 4, OTHERS]


# ---- the generator


def test_an_exported_generator_draws_its_classes_alone(place: Path, tmp_path: Path) -> None:
    (model,) = plan(CONFIG, ShardSet(place))
    network, _ = build(CONFIG, image_size=32, classes=len(model.labels), seeds=(1, 2))
    lineage = {"real_digest": "d", "split": "train"}
    export_generator(tmp_path, network, preset="custom", classes=model.classes, lineage=lineage, metrics={})
    value = json.loads((tmp_path / "model.json").read_bytes())
    assert (value["classes"], value["network"]["classes"], value["unlabelled"]) == ([*model.classes], 4, True)
    generator = load_generator(tmp_path)
    assert generator.classes == model.classes
    assert generator.sample("Pneumothorax", 2).shape == (2, 32, 32)
    with pytest.raises(UserError, match=r"^unlabelled: not a class of this generator; known: Normal, "):
        generator.sample(UNLABELLED, 1)
    for changed in (
        {"unlabelled": False},
        {"unlabelled": 1},
        {"classes": ["Normal", "Pneumothorax"]},
        {"classes": [*model.classes, "Other"]},
    ):
        (tmp_path / "model.json").write_text(json.dumps(value | changed))
        with pytest.raises(UserError, match=r"classes, but its network has 4$"):
            load_generator(tmp_path)


def test_a_generator_of_classes_alone_is_exported_as_before(place: Path, tmp_path: Path) -> None:
    network, _ = build(CONFIG, image_size=32, classes=3, seeds=(1, 2))
    lineage = {"real_digest": "d", "split": "train"}
    export_generator(tmp_path, network, preset="custom", classes=tuple("abc"), lineage=lineage, metrics={})
    assert "unlabelled" not in json.loads((tmp_path / "model.json").read_bytes())


@pytest.mark.slow
def test_training_on_two_processes_and_what_follows(place: Path, tmp_path: Path) -> None:
    words = ["--architecture", "conditional", "--maps", "8", "--batch", "8", "--budget", "80 images"]
    words += ["--use-unlabelled", "--shards", str(place), "--tracking.mode", "disabled"]
    words += ["--precision", "fp32", "--look-every-images", "40"]
    run("train_gan.py", *words, "--run", "one", cwd=tmp_path)
    run("train_gan.py", *words, "--run", "two", cwd=tmp_path, processes=2)
    one, two = (summary(tmp_path / name / "all-classes") for name in ("one", "two"))
    assert (one["order_sha256"], one["images_seen"]) == (two["order_sha256"], 80)
    assert one["classes"] == ["Normal", "Pleural Effusion", "Pneumothorax"]
    grids = sorted(path.name for path in (tmp_path / "one/all-classes/samples").iterdir())
    assert grids == ["normal", "pleural-effusion", "pneumothorax"]
    words = ["--gan", "one", "--shards", str(place), "--mix", "DS3", "--out", "synthetic", "--gates", "none"]
    done = launch("synthesize.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = ShardSet(tmp_path / "synthetic")
    assert made.classes == one["classes"] and made.unlabelled_samples == 0
    assert verify(str(tmp_path / "synthetic")) == []
    (tmp_path / "m.yaml").write_text(
        "name: m\nepoch_images: own\nweights: {unlabelled: {synthetic: 1}, '*': {real: 1}}\n"
    )
    words = ["--gan", "one", "--shards", str(place), "--mix", "m.yaml", "--out", "refused", "--gates", "none"]
    done = launch("synthesize.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: mix m: weights: unlabelled: not a class of this set"
    )
