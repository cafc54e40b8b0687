"""W&B Reports as they arrive at a server of W&B, which is a local one here."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from cxrdist.errors import UserError
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.report.blocks import Content
from cxrdist.run.tracking.report.save import REPORT, can_report, save_report
from tests.helpers.wandb_server import ENTITY, INTERNAL_ID, PROJECT, WandbServer

CONTENT = Content(
    title="Study demo",
    sections=("# Yes\n\nDS3 is better.", "## Table 1\n\n| arm |\n|:--|\n| DS3 |"),
    project=PROJECT,
    group="demo",
    classes=("Normal", "Pneumothorax"),
    models=("all classes",),
    pictures=("study/confusion",),
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """W&B with a key for it."""
    started = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", started.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # it keeps the address of its server
    yield started
    wandb.teardown()
    started.close()


def grids(server: WandbServer) -> dict[str, dict[str, Any]]:
    """``{heading: metadata of the panel grid below it}`` of the only Report."""
    (number,) = server.views
    found, heading = {}, ""
    for block in server.blocks(number):
        if block["type"] == "heading":
            (child,) = block["children"]
            heading = child["text"]
        elif block["type"] == "panel-grid":
            found[heading] = block["metadata"]
    return found


def runset(job: str, *more: dict[str, Any]) -> dict[str, Any]:
    """Filters of the runs of a job."""
    first = {"key": {"section": "run", "name": "group"}, "op": "=", "value": "demo", "disabled": False}
    second = {"key": {"section": "run", "name": "jobType"}, "op": "=", "value": job, "disabled": False}
    return {"filterFormat": "filterV2", "filters": [first, {**second, "connector": "AND"}, *more]}


def panels(grid: dict[str, Any]) -> list[dict[str, Any]]:
    return list(grid["panelBankSectionConfig"]["panels"])


def test_a_report_has_the_text_and_panels_over_the_runs_of_the_group(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = save_report(tmp_path, CONTENT)
    (number,) = server.views
    assert url == f"{server.url}/lab/cxrdist/reports/Study-demo--{number}"
    assert json.loads((tmp_path / REPORT).read_text()) == {"url": url}
    assert capsys.readouterr() == ("", "")
    view = server.views[number]
    assert (view["displayName"], view["type"]) == ("Study demo", "runs")
    assert (view["project"]["entityName"], view["project"]["name"]) == (ENTITY, PROJECT)
    assert [(block["type"], block.get("content")) for block in server.blocks(number)] == [
        ("markdown-block", "# Yes\n\nDS3 is better."),
        ("markdown-block", "## Table 1\n\n| arm |\n|:--|\n| DS3 |"),
        *[("heading", None), ("panel-grid", None)] * 4,
    ]
    found = grids(server)
    jobs = {"Validation during training": "cls", "Test metrics": "cls", "Losses of the GANs": "gan"}
    jobs["Charts of the study"] = "study"
    assert [*found] == [*jobs]
    for heading, job in jobs.items():
        (runs,) = found[heading]["runSets"]
        assert runs["filters"] == runset(job)
        assert runs["project"] == {"id": INTERNAL_ID, "name": PROJECT, "entityName": ENTITY}


def test_panels_draw_the_metrics_that_the_jobs_log(server: WandbServer, tmp_path: Path) -> None:
    save_report(tmp_path, CONTENT)
    found = grids(server)
    (validation,) = panels(found["Validation during training"])
    assert validation["viewType"] == "Run History Line Plot"
    by_arm = {"groupBy": "arm.value", "groupAgg": "mean", "aggregate": True, "limit": 100}
    wanted = {"xAxis": "images", "metrics": ["val/balanced_accuracy"], **by_arm, "groupArea": "minmax"}
    assert wanted.items() <= validation["config"].items()
    bars = panels(found["Test metrics"])
    names = ["balanced_accuracy", "macro_auroc", "accuracy", "per_class/Normal", "per_class/Pneumothorax"]
    assert [bar["config"]["metrics"] for bar in bars] == [[f"test/{name}"] for name in names]
    for bar in bars:
        assert bar["viewType"] == "Bar Chart"
        assert {**by_arm, "groupArea": "stddev", "barLimit": 100}.items() <= bar["config"].items()
    places = [(bar["layout"]["x"], bar["layout"]["y"]) for bar in bars]
    assert places == [(0, 0), (12, 0), (0, 8), (12, 8), (0, 16)]
    losses = [panel["config"]["metrics"] for panel in panels(found["Losses of the GANs"])]
    assert losses == [["all classes/loss_d"], ["all classes/loss_g"]]
    (picture,) = panels(found["Charts of the study"])
    assert (picture["viewType"], picture["config"]["mediaKeys"]) == ("Media Browser", ["study/confusion"])


def test_runs_that_are_no_results_are_left_out_and_absent_panels_too(
    server: WandbServer, tmp_path: Path
) -> None:
    bare = Content(title="t", sections=("a",), project=PROJECT, group="demo", left_out=("a1", "b2"))
    save_report(tmp_path, bare)
    found = grids(server)
    assert [*found] == ["Validation during training", "Test metrics"]
    without = {
        "key": {"section": "run", "name": "name"},
        "op": "NIN",
        "value": ["a1", "b2"],
        "disabled": False,
    }
    (runs,) = found["Test metrics"]["runSets"]
    assert runs["filters"] == runset("cls", {**without, "connector": "AND"})


def test_any_name_of_a_study_is_taken(server: WandbServer, tmp_path: Path) -> None:
    group = 'a=b\'s "<x>" \\ ü'
    url = save_report(tmp_path, Content(title=group, sections=(), project=PROJECT, group=group))
    (number,) = server.views
    assert url == f"{server.url}/lab/cxrdist/reports/a-b-s---x-----ü--{number}"
    (runs,) = grids(server)["Test metrics"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == group
    assert save_report(tmp_path, CONTENT) is not None  # found again by this URL
    assert [*server.views] == [number]


def test_a_second_study_writes_the_same_report(server: WandbServer, tmp_path: Path) -> None:
    first = save_report(tmp_path, CONTENT)
    (number,) = server.views
    spec = json.loads(server.views[number]["spec"])
    thread = {"id": "t1", "comments": ["looks right"]}
    server.views[number]["spec"] = json.dumps({**spec, "discussionThreads": [thread]})
    changed = Content(title="Study demo", sections=("# No",), project=PROJECT, group="demo")
    assert save_report(tmp_path, changed) == first
    assert ([*server.views], server.writes) == ([number], 2)
    assert [b["content"] for b in server.blocks(number) if b["type"] == "markdown-block"] == ["# No"]
    assert json.loads(server.views[number]["spec"])["discussionThreads"] == [thread]


def test_another_project_has_a_report_of_its_own(server: WandbServer, tmp_path: Path) -> None:
    save_report(tmp_path, CONTENT)
    (view,) = server.views.values()
    view["project"] = {"id": "p", "name": "other", "entityName": ENTITY}
    save_report(tmp_path, CONTENT)
    assert len(server.views) == 2


def test_the_report_belongs_to_the_entity_of_the_runs(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "team")
    save_report(tmp_path, CONTENT)
    (view,) = server.views.values()
    assert view["project"]["entityName"] == "team"
    (runs,) = grids(server)["Test metrics"]["runSets"]
    assert runs["project"]["entityName"] == "team"


def test_a_report_that_was_deleted_is_written_anew(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = save_report(tmp_path, CONTENT)
    server.views.clear()
    assert save_report(tmp_path, CONTENT) is not None
    assert len(server.views) == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: the W&B Report {url} cannot be read (TypeError: ")
    assert warning.endswith("); a new one is written")


def test_a_study_outlives_a_report_that_fails(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses = True
    assert save_report(tmp_path, CONTENT) is None
    assert not (tmp_path / REPORT).exists()
    assert capsys.readouterr() == (
        "",
        "warning: the W&B Report is not written (WandbApiFailedError: input: permission denied)\n",
    )


def test_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"needs wandb-workspaces: pip install 'cxrdist\[wandb-report\]'"):
        can_report(TrackingConfig(mode="online"))


def test_a_study_that_is_not_online_is_told_that_it_has_no_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert can_report(TrackingConfig(mode="online"))
    assert not caplog.records
    assert not can_report(TrackingConfig(mode="disabled"))
    assert not can_report(TrackingConfig())
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not can_report(TrackingConfig())
    no = "no W&B Report will be written"
    assert caplog.record_tuples == [
        ("cxrdist.run.tracking.report.save", logging.WARNING, f"{no}: --tracking.mode is disabled"),
        (
            "cxrdist.run.tracking.report.save",
            logging.WARNING,
            f"{no}: W&B has no API key for this machine; run `wandb login` or set WANDB_API_KEY",
        ),
        ("cxrdist.run.tracking.report.save", logging.WARNING, f"{no}: WANDB_MODE is offline"),
    ]
