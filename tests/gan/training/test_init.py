"""A model that starts from the networks of another run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, read_json, write_atomic
from cxrdist.gan.config import GANConfig
from cxrdist.gan.plan import plan
from cxrdist.gan.training import init
from cxrdist.gan.training.step import ENGINES
from cxrdist.gan.training.trainer import ModelTrainer
from cxrdist.run.tracking.no_tracker import NoTracker

SMALL: dict[str, Any] = {
    "architecture": "conditional",
    "widths": (8, 8, 4),
    "d_widths": (8, 8, 4),
    "z_dim": 8,
    "batch": 4,
    "budget": "8 images",
    "images_per_class": None,
    "ema_half_life_images": 10,
    "precision": "fp32",
}


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def trainer_of(config: GANConfig, dist: Dist) -> ModelTrainer:
    shards = ShardSet(config.shards)
    return ModelTrainer(config, plan(config, shards)[0], shards, dist, NoTracker(), "GAN")


@pytest.fixture
def config(tiny_set: Path, tmp_path: Path) -> GANConfig:
    return GANConfig(shards=str(tiny_set), run=str(tmp_path / "first"), **SMALL)


@pytest.fixture
def first(config: GANConfig, dist: Dist) -> ModelTrainer:
    trainer = trainer_of(config, dist)
    trainer.train()
    return trainer


def edit_lineage(folder: Path, **changes: Any) -> None:
    model = read_json(folder / "model.json")
    lineage = {k: v for k, v in {**model["lineage"], **changes}.items() if v is not None}
    write_atomic(folder / "model.json", canonical_json({**model, "lineage": lineage}))


def test_weights_and_average_start_from_the_other_run(
    config: GANConfig, first: ModelTrainer, dist: Dist, tmp_path: Path
) -> None:
    second = trainer_of(replace(config, seed=5, run=str(tmp_path / "second"), init=config.run), dist)
    second.build()
    for name in ("generator", "discriminator"):
        theirs, ours = first.networks[name].state_dict(), second.networks[name].state_dict()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    start = second.networks["ema"].state_dict()
    assert all(torch.equal(start[k], v) for k, v in second.networks["generator"].state_dict().items())


def test_lineage_names_the_run_and_outlives_it(
    config: GANConfig, first: ModelTrainer, dist: Dist, tmp_path: Path
) -> None:
    trainer_of(replace(config, run=str(tmp_path / "second"), init=config.run), dist).train()
    trainer_of(replace(config, run=str(tmp_path / "third"), init=str(tmp_path / "second")), dist).train()
    digests = [
        read_json(tmp_path / run / "all-classes/model.json")["weights_sha256"] for run in ("first", "second")
    ]
    found = read_json(tmp_path / "third/all-classes/model.json")["lineage"]
    assert found["real_digest"] == ShardSet(config.shards).digest
    assert [entry["weights_sha256"] for entry in found["init"]] == digests[::-1]
    # A resumed run takes the record from its checkpoint.
    again = trainer_of(replace(config, run=str(tmp_path / "third"), init=str(tmp_path / "gone")), dist)
    again.build()
    again.resume()
    assert again.init == found["init"]


def test_classes_are_matched_by_name(
    config: GANConfig, first: ModelTrainer, dist: Dist, tmp_path: Path
) -> None:
    folder = Path(config.run) / "all-classes"
    model = read_json(folder / "model.json")
    classes = model["classes"]
    renamed = [classes[1], "Another", classes[0]]
    write_atomic(folder / "model.json", canonical_json({**model, "classes": renamed}))
    second = trainer_of(replace(config, seed=5, run=str(tmp_path / "second"), init=config.run), dist)
    fresh = trainer_of(replace(config, seed=5, run=str(tmp_path / "third")), dist)
    second.build()
    fresh.build()
    for name in ("generator", "discriminator"):
        theirs = first.networks[name].state_dict()["embed.weight"]
        ours = second.networks[name].state_dict()["embed.weight"]
        assert torch.equal(ours[0], theirs[2]) and torch.equal(ours[1], theirs[0])
        assert torch.equal(ours[2], fresh.networks[name].state_dict()["embed.weight"][2])


def test_only_phantoms_or_the_same_set_may_be_started_from(
    config: GANConfig, first: ModelTrainer, dist: Dist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "_is_phantom", lambda shards: False)
    folder = Path(config.run) / "all-classes"
    second = trainer_of(replace(config, run=str(tmp_path / "second"), init=config.run), dist)
    edit_lineage(folder, real_digest="a" * 64, is_phantom=None)
    with pytest.raises(
        UserError, match=r"init: .*first has learned from another set \(aaaa.* or on phantoms"
    ):
        second.build()
    edit_lineage(folder, is_phantom=True)
    second.build()
    assert second.init[0]["is_phantom"] is True
    edit_lineage(folder, init=[{"lineage": {"real_digest": "b" * 64, "split": "train"}, "is_phantom": False}])
    with pytest.raises(UserError, match=r"another set \(bbbb"):
        second.build()


def test_phantoms_of_another_fold_may_not_be_started_from(
    config: GANConfig, first: ModelTrainer, dist: Dist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "_is_phantom", lambda shards: True)
    second = trainer_of(replace(config, run=str(tmp_path / "second"), init=config.run), dist)
    second.build()
    edit_lineage(Path(config.run) / "all-classes", real_digest="a" * 64, is_phantom=True)
    with pytest.raises(UserError, match=r"another set \(aaaa.*start from a run on the same set$"):
        second.build()


def test_a_phantom_set_is_recorded_as_such(config: GANConfig) -> None:
    shards = ShardSet(config.shards)
    is_phantom = bool(shards.manifest.provenance.json_value().get("is_phantom"))
    assert init.lineage_of(shards, []).get("is_phantom", False) is is_phantom


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "nowhere"}, "init: nowhere has no model all-classes"),
        ({"widths": (8, 4, 4)}, r"init: .*its networks have other shapes \([a-z0-9.]*\); use the preset"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    changes: dict[str, Any],
    message: str,
    config: GANConfig,
    first: ModelTrainer,
    dist: Dist,
    tmp_path: Path,
) -> None:
    options = {"init": config.run, "run": str(tmp_path / "second"), **changes}
    with pytest.raises(UserError, match=message):
        trainer_of(replace(config, **options), dist).build()
