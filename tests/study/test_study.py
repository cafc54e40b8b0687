"""A whole study with one conditional GAN, evaluated and reported, and the same command again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.run import run_study
from tests.helpers.launching import launch_environment, summary


@pytest.mark.slow
def test_a_study_with_a_conditional_gan_ends_in_a_report_and_is_not_repeated(
    tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in launch_environment().items():
        monkeypatch.setenv(name, value)
    shards = tmp_path / "set"
    shards.symlink_to(tiny_set)  # the synthetic set is written beside it
    config = StudyConfig(
        name="tiny",
        shards=str(shards),
        source=None,
        gan_config="configs/gan/demo.yaml",
        gan_options=(
            "--widths=8,8,4",
            "--d-widths=8,8,4",
            "--batch=6",
            "--budget=24 images",
            "--look-every-images=12",
        ),
        evaluation_arm="DS1",
        evaluate_options=("--images=8", "--k=1"),
        gates="none",
        cls_options=("--budget=32 images", "--batch=16", "--evaluations=1"),
        arms=("DS1", "DS3"),
        processes=1,
        report="report",
    )
    assert run_study(config) == 0
    (model,) = summary(tmp_path / "runs/tiny/gan")["models"]
    assert model == "all classes"
    page = (tmp_path / "report/index.html").read_text()
    captions = re.findall(r"<h2><small>([^<]*)</small>", page)
    assert captions == [
        "Differences",
        "Results",
        "Table 1",
        *(f"Figure {n}" for n in (3, 4, 5)),
        "Errors",
        *("Generators",) * 3,
        "Provenance",
        "Protocol",
        "Limits",
    ]
    assert "none to show" not in page and "no sample grid" not in page and "so it is not shown" not in page
    assert "are not shown here" not in page
    evaluated = (tmp_path / "runs/tiny/gan/evaluation.json").stat().st_mtime_ns
    capfd.readouterr()
    assert run_study(config) == 0
    # Two classifiers, the GANs, their evaluation, the synthesis.
    assert capfd.readouterr().out.count("finished before") == 5
    assert (tmp_path / "runs/tiny/gan/evaluation.json").stat().st_mtime_ns == evaluated
    assert (tmp_path / "report/index.html").read_text() == page
