"""The W&B run and Report of a study, from fabricated runs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.errors import UserError
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.report.blocks import Content
from cxrdist.study import online_report
from cxrdist.study.arms import run as study_run
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.online_report import charts_of, sections_of, write_online_report
from cxrdist.study.report.reading.runs import ClsRun, GanModel, GanRun, Study
from cxrdist.study.tracking import track_study
from tests.helpers.wandb_records import Recorded, recorded

OFFLINE = TrackingConfig(mode="offline")


def cls_run(arm: str, seed: int, accuracy: float, fold: int | None = None, **metrics: Any) -> ClsRun:
    test = {
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "macro_auroc": 0.5,
        "per_class": {"Normal": accuracy, "Odd": None},
        "auroc": {"Normal": 0.5},
        "n": {"Normal": 4, "Odd": 0},
        "without_images": ["Odd"],
        "intervals": {"accuracy": [0.25, 0.75], "per_class": {"Normal": [0.5, 1.0]}},
        **metrics,
    }
    summary = {
        "mix": arm,
        "seed": seed,
        "classes": ["Normal", "Odd"],
        "data": {"fold": fold},
        "metrics": {"test": test},
        "weights_sha256": f"{arm}{seed}" * 16,
    }
    return ClsRun(folder=Path("none"), config={}, summary=summary, curve=())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/demo"


def table(folder: Path, found: Recorded, name: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a W&B table that a study has logged."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    (row,) = found.rows
    content = json.loads((run / "files" / row[name]["path"]).read_text())
    return content["columns"], content["data"]


def test_a_study_has_a_table_of_its_runs_and_one_of_its_arms(folder: Path) -> None:
    runs = (cls_run("DS1", 0, 0.5, 0), cls_run("DS1", 1, 0.75, 1), cls_run("DS3", 0, 1.0, 0, ece=0.125))
    track_study(Study(cls=runs, gan=(), skipped=()), folder, "demo", OFFLINE, {"name": "demo"})
    found = recorded(folder)
    ends = ["test/accuracy_low", "test/accuracy_high"]
    recall = ["test/per_class/Normal_low", "test/per_class/Normal_high"]
    scores = ["test/accuracy", "test/balanced_accuracy", "test/macro_auroc", "test/per_class/Normal"]
    assert table(folder, found, "study/runs") == (
        ["arm", "fold", "seed", *scores, *ends, *recall, "test/ece"],
        [
            ["DS1", 0, 0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.75, 0.5, 1.0, None],
            ["DS1", 1, 1, 0.75, 0.75, 0.5, 0.75, 0.25, 0.75, 0.5, 1.0, None],
            ["DS3", 0, 0, 1.0, 1.0, 0.5, 1.0, 0.25, 0.75, 0.5, 1.0, 0.125],
        ],
    )
    assert table(folder, found, "study/arms") == (
        ["arm", "runs", *scores, "test/ece"],
        [["DS1", 2, 0.625, 0.625, 0.5, 0.625, None], ["DS3", 1, 1.0, 1.0, 0.5, 1.0, 0.125]],
    )
    assert math.isclose(found.summary["DS1/test/accuracy"], 0.625)


def test_a_study_without_folds_has_them_empty(folder: Path) -> None:
    track_study(Study(cls=(cls_run("DS1", 0, 0.5),), gan=(), skipped=()), folder, "demo", OFFLINE, {})
    columns, rows = table(folder, recorded(folder), "study/runs")
    assert (columns[:3], rows[0][:3]) == (["arm", "fold", "seed"], ["DS1", None, 0])


def test_charts_of_the_report_are_pictures_of_the_run(folder: Path, tmp_path: Path) -> None:
    figures = tmp_path / "report/figures"
    figures.mkdir(parents=True)
    for name in ("forest", "confusion", "fig3"):  # the last one shows radiographs
        Image.fromarray(np.zeros((4, 8), np.uint8)).save(figures / f"{name}.png")
    charts = charts_of(tmp_path / "report/index.html")
    assert charts == {
        "study/differences": figures / "forest.png",
        "study/confusion": figures / "confusion.png",
    }
    track_study(Study(cls=(cls_run("DS1", 0, 0.5),), gan=(), skipped=()), folder, "demo", OFFLINE, {}, charts)
    (row,) = recorded(folder).rows
    shown = {name for name in row if str(name).startswith("study/")}
    assert shown == {"study/runs", "study/arms", "study/differences", "study/confusion"}
    for name in charts:
        assert (row[name]["_type"], row[name]["width"], row[name]["height"]) == ("image-file", 8, 4)


MARKDOWN = """# DS3 gains 2 points.

It is decided by the patients. [The numbers](differences.csv), [the paper](https://doi.org/1).

## Figure 1

![a forest](figures/forest.png)

Only a picture.

## Table 1

![bars](figures/bars.png)

| arm | % |
|:--|--:|
| DS3 | 50 |

Mean over runs. Runs: `runs/demo/cls`

Runs: `runs/demo/cls`

### Pictures of it

| Normal |
|:-:|
| <img src="figures/a.png"> |

## Table 2

| setting | value |
|:--|:--|
| shards | `/home/jane/shards` |
"""


def test_a_report_online_has_the_answer_and_the_tables_without_files_and_paths() -> None:
    assert sections_of(MARKDOWN) == [
        "# DS3 gains 2 points.\n\nIt is decided by the patients. The numbers, [the paper](https://doi.org/1).",
        "## Table 1\n\n| arm | % |\n|:--|--:|\n| DS3 | 50 |\n\nMean over runs.",
    ]


def test_the_text_of_a_report_online_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_report, "MAX_CHARACTERS", 150)
    assert len(sections_of(MARKDOWN)) == 1


def identity(folder: Path, number: str) -> None:
    folder.mkdir(parents=True)
    other = {"config_sha256": "", "name": "", "job": "cls", "group": "g", "tags": []}
    (folder / "wandb.json").write_text(json.dumps({"id": number, **other}))


def test_the_report_online_is_about_the_results_of_the_study(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.md").write_text("# Yes")
    identity(folder / "search/DS1-lr0.1", "search")
    identity(folder / "gan/normal", "model")
    models = tuple(GanModel(name=name, summary={}, grids={}) for name in ("Normal", "Odd"))
    gan = GanRun(folder=folder / "gan", config={}, summary={}, models=models)
    study = Study(cls=(cls_run("DS1", 0, 0.5),), gan=(gan, gan), skipped=())
    saved: list[tuple[Path, Content]] = []
    monkeypatch.setattr(online_report, "save_report", lambda *content: saved.append(content) or "url")
    page = tmp_path / "index.html"
    assert write_online_report(study, folder, "demo", TrackingConfig(), page, ["study/confusion"]) == "url"
    content = Content(
        title="Study demo",
        sections=("# Yes",),
        project="cxrdist",
        group="demo",
        left_out=("search", "model"),
        classes=("Normal", "Odd"),
        models=("Normal", "Odd"),
        pictures=("study/confusion",),
    )
    assert saved == [(folder, content)]
    write_online_report(study, folder, "demo", TrackingConfig(group="mine", project="p"), page, [])
    assert (saved[1][1].group, saved[1][1].project) == ("mine", "p")


class NoJobs:
    left: tuple[str, ...] = ()

    def __init__(self, *_: object) -> None:
        pass

    def run(self) -> list[Any]:
        return []


@pytest.fixture
def finished(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A study whose jobs are done. Returns the options that its W&B run gets."""
    (folder / "cls-ds1-seed0").mkdir(parents=True)
    (folder / "cls-ds1-seed0/summary.json").write_text("{}")
    tracked: list[dict[str, Any]] = []
    plan = SimpleNamespace(jobs=(), arms=(), config=StudyConfig())
    for name, value in {
        "plan_study": lambda config: plan,
        "warn_of_power": lambda plan: None,
        "Executor": NoJobs,
        "read_results": lambda runs: SimpleNamespace(study=Study(cls=(), gan=(), skipped=())),
        "write_report": lambda results, out: out / "index.html",
        "track_study": lambda study, folder, name, tracking, options, charts: tracked.append(options),
        "print_results": lambda results: None,
    }.items():
        monkeypatch.setattr(study_run, name, value)
    return tracked


def test_the_address_of_the_report_is_printed_last(
    finished: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study_run, "can_report", lambda tracking: True)
    monkeypatch.setattr(study_run, "write_online_report", lambda *_: "https://wandb.ai/lab/reports/x")
    assert study_run.run_study(StudyConfig(wandb_report=True)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "W&B Report: https://wandb.ai/lab/reports/x"
    study_run.run_study(StudyConfig())
    assert "W&B Report" not in capsys.readouterr().out
    assert finished[0] == finished[1]  # else it were another W&B run


def test_a_study_without_a_key_goes_on_without_a_report(
    finished: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study_run, "write_online_report", lambda *_: pytest.fail("must not be written"))
    config = StudyConfig(wandb_report=True, tracking=OFFLINE)
    assert study_run.run_study(config) == 0
    assert capsys.readouterr().err == ("warning: no W&B Report will be written: --tracking.mode is offline\n")


def test_a_missing_extra_stops_the_study_before_its_jobs(
    finished: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setattr(study_run, "Executor", lambda *_: pytest.fail("must not start"))
    with pytest.raises(UserError, match=r"pip install 'cxrdist\[wandb-report\]'"):
        study_run.run_study(StudyConfig(wandb_report=True))
