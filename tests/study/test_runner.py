"""The steps of a study: their order, their options, and what is skipped when a study is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxrdist.errors import OptionError
from cxrdist.study import runner, tracking
from cxrdist.study.runner import StudyConfig, already_evaluated, steps_of
from tests.helpers.launching import CLONE


@pytest.fixture(autouse=True)
def in_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLONE)
    monkeypatch.setattr(runner, "launcher", lambda processes: ["launch"])


def titles(**changes: Any) -> list[str]:
    return [step.title for step in steps_of(StudyConfig(**changes))]


def command(title: str, **changes: Any) -> list[str]:
    (found,) = (step.command for step in steps_of(StudyConfig(**changes)) if step.title == title)
    return found


def test_classifiers_on_real_images_precede_the_gans_and_the_evaluation_precedes_the_synthesis() -> None:
    assert titles(seeds=(0, 1)) == [
        "import phantom",
        "classifier on DS1, seed 0",
        "classifier on DS2, seed 0",
        "classifier on DS1, seed 1",
        "classifier on DS2, seed 1",
        "GANs",
        "evaluation of the GANs",
        "synthetic images for DS3",
        "classifier on DS3, seed 0",
        "classifier on DS3, seed 1",
    ]


def test_a_study_without_an_evaluation_or_without_synthetic_images() -> None:
    assert "evaluation of the GANs" not in titles(evaluate=False)
    assert titles(mixes=("DS1", "DS2"))[1:] == ["classifier on DS1, seed 0", "classifier on DS2, seed 0"]


def test_the_evaluation_reads_the_run_and_trains_a_classifier_unless_a_mix_is_named() -> None:
    words = command("evaluation of the GANs", evaluate_options=("--images=200",))
    assert words[1:6] == [
        str(CLONE / "launch/evaluate_gan.py"),
        "--run",
        "runs/demo/gan",
        "--shards",
        "shards/demo",
    ]
    assert words[-1] == "--images=200" and "--classifier" not in words
    words = command("evaluation of the GANs", evaluation_mix="DS2", seeds=(3, 4))
    assert words[-2:] == ["--classifier", "runs/demo/cls-ds2-seed3"]


def test_a_mix_that_cannot_provide_the_classifier_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^evaluation_mix: DS4 is none of the mixes of the study$"):
        StudyConfig(evaluation_mix="DS4")
    with pytest.raises(
        OptionError, match=r"^evaluation_mix: DS3 uses synthetic images; name a mix of real images$"
    ):
        titles(evaluation_mix="DS3")


def write(gan: Path, exported: str, evaluated: str) -> None:
    gan.mkdir(exist_ok=True)
    (gan / "summary.json").write_text(json.dumps({"models": {"all classes": {"weights_sha256": exported}}}))
    models = {"all-classes": {"best": {"images": 5, "weights_sha256": evaluated}}}
    (gan / "evaluation.json").write_text(json.dumps({"models": models}))


def test_an_evaluation_of_the_exported_weights_is_not_repeated(tmp_path: Path) -> None:
    gan = tmp_path / "gan"
    assert already_evaluated(gan) is None
    write(gan, "a" * 64, "a" * 64)
    assert already_evaluated(gan) == (
        f"{gan}: already evaluated; nothing to do (remove {gan}/evaluation.json to evaluate again)"
    )
    write(gan, "b" * 64, "a" * 64)
    assert already_evaluated(gan) is None
    (gan / "evaluation.json").unlink()
    assert already_evaluated(gan) is None


def test_a_finished_step_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    steps = [
        runner.Step("first", ["true"]),
        runner.Step("second", ["true"], lambda: "second: nothing to do"),
    ]
    monkeypatch.setattr(runner, "steps_of", lambda config: steps)
    monkeypatch.setattr(runner, "run_step", lambda step: started.append(step.title))
    monkeypatch.setattr(runner, "write_report", lambda runs, out: out / "index.html")
    monkeypatch.setattr(runner, "print_table", lambda runs: None)
    monkeypatch.setattr(tracking, "track_study", lambda *_: None)
    assert runner.run_study(StudyConfig(report=str(tmp_path))) == 0
    assert started == ["first"]
    assert "second: nothing to do\n" in capsys.readouterr().out
