"""Which classifiers the gates use, and who trains them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError
from cxrdist.synth import classifiers, synthesize
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.fit import check_calibration

LABEL = GatesConfig(name="label", label=5)


def test_the_folders_are_those_of_the_gan_or_beside_the_run() -> None:
    gan = SynthConfig(gan="runs/a,runs/b")
    assert classifiers.folders_of(gan, LABEL) == [Path("runs/a/classifier"), Path("runs/a/classifier-seed1")]
    own = SynthConfig(generator="m:load", out="x/set")
    assert classifiers.folders_of(own, LABEL) == [
        Path("runs/synth-set-classifier"),
        Path("runs/synth-set-classifier-seed1"),
    ]
    named = SynthConfig(classifiers=("c1", "c2"))
    assert classifiers.folders_of(named, LABEL) == [Path("c1"), Path("c2")]


def test_gates_that_need_none_have_none() -> None:
    assert classifiers.folders_of(SynthConfig(), GatesConfig(pixels=1, copy=1, duplicates=0.6)) == []
    for gates in (GatesConfig(realism=4), LABEL, GatesConfig(coverage=0.2)):
        assert len(classifiers.folders_of(SynthConfig(), gates)) == 2


def test_rank_0_trains_what_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_set: Path
) -> None:
    trained: list[tuple[str, int]] = []
    monkeypatch.setattr(
        classifiers,
        "ensure_classifier",
        lambda folder, real, place, *, seed: trained.append((folder.name, seed)),
    )
    config = SynthConfig(gan=str(tmp_path / "gan"), shards=str(tiny_set))
    classifiers.prepare(config, LABEL, lambda _: None)
    assert trained == [("classifier", 0), ("classifier-seed1", 1)]
    for name, _ in trained:
        (tmp_path / "gan" / name).mkdir(parents=True)
        (tmp_path / "gan" / name / "summary.json").write_text("{}")
    trained.clear()
    classifiers.prepare(config, LABEL, lambda _: None)
    assert trained == []


def test_other_ranks_wait_for_the_files_and_train_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_set: Path
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    waited: list[float] = []

    def until_trained(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            for name in ("classifier", "classifier-seed1"):
                (tmp_path / "gan" / name).mkdir(parents=True)
                (tmp_path / "gan" / name / "summary.json").write_text("{}")

    monkeypatch.setattr(classifiers.time, "sleep", until_trained)
    monkeypatch.setattr(classifiers, "ensure_classifier", lambda *_, **__: pytest.fail("trained on rank 1"))
    classifiers.prepare(SynthConfig(gan=str(tmp_path / "gan"), shards=str(tiny_set)), LABEL, lambda _: None)
    assert waited == [1.0] * 3


def test_on_several_machines_they_must_be_there_once_all_ranks_have_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_set: Path
) -> None:
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    config = SynthConfig(gan=str(tmp_path / "gan"))
    monkeypatch.setattr(classifiers, "ensure_classifier", lambda *_, **__: pytest.fail("trained"))
    classifiers.prepare(config, LABEL, lambda _: None)
    with pytest.raises(UserError, match=r"on several machines .* name it with --classifiers"):
        classifiers.load(config, LABEL, ShardSet(tiny_set))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gan": "nowhere", "count": "5"}, "nowhere has no finished generator of"),
        ({"gan": "nowhere", "mix": "DS1"}, "DS1 uses no synthetic images"),
        ({"generator": "tests.nowhere:load", "count": "5"}, "No module named 'tests.nowhere'"),
        ({"generator": "tests.synth.conftest:noise", "count": "Nrmal=5"}, "'Nrmal' is no class of the set"),
    ],
)
def test_options_are_checked_before_classifiers_are_trained(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classifiers, "ensure_classifier", lambda *_, **__: pytest.fail("trains one"))
    monkeypatch.setattr(synthesize, "check_calibration", lambda *_: None)
    with pytest.raises(UserError, match=message):
        synthesize.synthesize(SynthConfig(shards=str(tiny_set), **options))


def test_a_classifier_that_no_option_names_is_no_option_to_remove(tiny_set: Path, tmp_path: Path) -> None:
    gan = tmp_path / "gan"
    for name in ("classifier", "classifier-seed1"):
        (gan / name).mkdir(parents=True)
        (gan / name / "summary.json").write_text(json.dumps({"job": "gan", "status": "finished"}))
    expected = "classifier: not a finished run of train_cls.py; finish it, or "
    with pytest.raises(UserError) as error:
        classifiers.load(SynthConfig(gan=str(gan)), LABEL, ShardSet(tiny_set))
    assert str(error.value) == f"{gan}/{expected}remove this folder, and another one is trained"
    with pytest.raises(OptionError) as named:
        classifiers.load(SynthConfig(classifiers=(f"{gan}/classifier",)), LABEL, ShardSet(tiny_set))
    instead = "remove --classifiers to train some on the real train split alone"
    assert str(named.value) == f"classifiers: {gan}/{expected}{instead}"


def test_a_class_without_training_images_is_named(tiny_set: Path) -> None:
    """A generator of one's own may draw it."""
    real = ShardSet(tiny_set)
    with pytest.raises(UserError, match="has no training image of Fracture, with which the gates compare"):
        check_calibration(real, [*real.classes, "Fracture"])
