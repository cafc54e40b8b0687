"""The tracker alone, offline: what its ``.wandb`` files hold, whole, resumed and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import wandb

from cxrdist.errors import UserError
from cxrdist.run.tracking.config import TrackingConfig, resolve_mode
from cxrdist.run.tracking.description import Description, without_paths
from cxrdist.run.tracking.identity import IDENTITY, group_of, read_identity
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.run.tracking.record_file import files_of
from cxrdist.run.tracking.start import start
from cxrdist.run.tracking.tracker import WandbTracker
from tests.helpers.launching import CLONE
from tests.helpers.wandb_records import recorded

OFFLINE = TrackingConfig(mode="offline")
KEPT = 300
"""Rows of about 200 bytes: more than the 32 KiB that W&B keeps in memory."""


def description(**config: Any) -> Description:
    return Description(
        job="cls", name="DS3-seed0", tags=("cls", "DS3", "64px", "seed0"), config={"seed": 0, **config}
    )


@pytest.fixture(autouse=True)
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs/demo/cls"
    folder.mkdir(parents=True)
    return folder


def test_a_run_is_named_tagged_and_grouped(folder: Path) -> None:
    tracker = start(folder, OFFLINE, description(data={"real_digest": "ab", "image_size": 64}))
    tracker.log(64, {"val/balanced_accuracy": 0.5})
    tracker.log(128, {"val/balanced_accuracy": 0.7})
    tracker.log(192, {"val/balanced_accuracy": 0.6})
    tracker.finish({"metrics": {"val": {"balanced_accuracy": 0.7}, "test": {"accuracy": 0.65}}})
    found, identity = recorded(folder), read_identity(folder)
    assert identity is not None
    (run,) = found.runs
    assert (run.run_id, run.display_name, run.job_type) == (identity.id, "DS3-seed0", "cls")
    assert (run.run_group, [*run.tags]) == ("demo", ["cls", "DS3", "64px", "seed0"])
    assert found.config == {
        "_wandb": found.config["_wandb"],
        "seed": 0,
        "data": {"real_digest": "ab", "image_size": 64},
    }
    assert found.metrics["*"].step_metric == "images"
    best = found.metrics["val/balanced_accuracy"]
    assert (best.step_metric, best.summary.max, best.summary.last) == ("images", True, False)
    rows = [(row["_step"], row["images"], row["val/balanced_accuracy"]) for row in found.rows]
    assert rows == [(0, 64, 0.5), (1, 128, 0.7), (2, 192, 0.6)]
    assert found.summary["val/balanced_accuracy"] == 0.7
    assert found.summary["test/accuracy"] == 0.65


def test_nothing_is_said_of_host_user_or_paths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = without_paths(
        {"shards": "/home/jane.doe/hospital/shards", "loader": {"cache": "/mnt/jane.doe/c"}}
    )
    tracker = start(folder, OFFLINE, description(**config))
    tracker.finish({"images_seen": 64})
    note = f"W&B offline: `wandb sync {folder}/wandb/offline-run-*` uploads this run later\n"
    assert capsys.readouterr() == ("", note)
    assert recorded(folder).summary["images_seen"] == 64
    (path,) = files_of(folder, json.loads((folder / IDENTITY).read_text())["id"])
    assert b"jane.doe" not in path.read_bytes()
    assert recorded(folder).config["shards"] == "shards"


def test_the_printed_command_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path / "my run", OFFLINE, description()).finish({})
    assert f"`wandb sync '{tmp_path}/my run/wandb'/offline-run-*`" in capsys.readouterr().err


def test_other_ranks_track_nothing(folder: Path) -> None:
    tracker = start(folder, OFFLINE, description(), is_main=False)
    tracker.log(1, {})
    tracker.finish({})
    assert list(folder.iterdir()) == []


def test_a_resumed_run_is_one_run_without_a_row_twice(folder: Path) -> None:
    """The first process logs 4 rows, of which the checkpoint covers 3, as a job killed after its log and before its
    checkpoint; it computes the fourth again."""
    metrics, tracker = MetricsFile(folder, 0), start(folder, OFFLINE, description())
    for images in (1, 2, 3, 4):
        metrics.log(images, {"loss": images / 10})
        tracker.log(images, {"loss": images / 10})
    tracker.finish({})
    first = recorded(folder)
    metrics = MetricsFile(folder, 3)
    tracker = start(folder, OFFLINE, description())
    tracker.replay(metrics.kept)
    for images in (4, 5):
        tracker.log(images, {"loss": images / 10})
    tracker.finish({})
    found = recorded(folder)
    assert len(found.runs) == 2
    assert {run.run_id for run in found.runs} == {first.runs[0].run_id}
    rows = [(row["_step"], row["images"], row["loss"]) for row in found.rows]
    assert rows == [(0, 1, 0.1), (1, 2, 0.2), (2, 3, 0.3), (3, 4, 0.4), (4, 5, 0.5)]


def test_another_config_in_the_same_folder_is_another_run(folder: Path) -> None:
    ids = []
    for config in ({"lr": 0.1}, {"lr": 0.1, "loader": {"workers": 2}}, {"lr": 0.2}):
        start(folder, OFFLINE, description(**config)).finish({})
        identity = read_identity(folder)
        assert identity is not None
        ids.append(identity.id)
    assert ids[0] == ids[1] != ids[2]


def test_an_evaluation_joins_the_run_of_its_gan(folder: Path) -> None:
    tracker = start(folder, OFFLINE, description())
    tracker.log(64, {"Normal/loss_d": 1.0})
    tracker.finish({})
    recorded(folder)
    judge = Description(job="gan-eval", name="gan-eval", tags=("gan-eval",), config={"evaluation": {"k": 5}})
    tracker = start(folder, OFFLINE, judge, joins=True)
    tracker.log(64, {"Normal/evaluated/kid_train": 0.1})
    tracker.finish({"metrics": {"Normal": {"kid": {"classifier": 0.2}}}})
    found = recorded(folder)
    assert len({run.run_id for run in found.runs}) == 1
    assert [(run.display_name, run.job_type) for run in found.runs] == [("DS3-seed0", "cls")] * 2
    assert [*found.runs[1].tags] == ["cls", "DS3", "64px", "seed0", "evaluated"]
    assert found.steps() == [0, 1]
    assert found.summary["Normal/kid/classifier"] == 0.2
    assert (found.config["seed"], found.config["evaluation"]) == (0, {"k": 5})


KILLED = """
import os, sys, time
from pathlib import Path
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.start import start
from tests.run.tracking.test_tracker import KEPT, description
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
metrics, tracker = MetricsFile(folder, 0), start(folder, TrackingConfig(mode="offline"), description())
for images in range(rows):
    metrics.log(images, {"loss": images / 10})
    tracker.log(images, {"loss": images / 10})
time.sleep(1)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, KEPT])
def test_what_a_killed_process_lost_is_logged_again(folder: Path, rows: int) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), str(rows)]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of this process
    done = subprocess.run(command, cwd=CLONE, env={**own, "PYTHONPATH": str(CLONE)})
    assert done.returncode == -signal.SIGKILL
    metrics, tracker = MetricsFile(folder, rows), start(folder, OFFLINE, description())
    tracker.replay(metrics.kept)
    tracker.log(rows, {"loss": rows / 10})
    tracker.finish({})
    found = recorded(folder)
    assert len({run.run_id for run in found.runs}) == 1
    # Of five rows W&B had written none: that file is gone. Of many it had written the first ones.
    assert len(found.runs) == (1 if rows == 5 else 2)
    assert [row["images"] for row in found.rows] == found.steps() == list(range(rows + 1))
    assert [row["loss"] for row in found.rows] == [images / 10 for images in range(rows + 1)]


def test_charts_and_tables_are_made_of_plain_arrays(folder: Path) -> None:
    labels = np.array([0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    tracker = start(folder, OFFLINE, description())
    tracker.confusion("test/confusion", labels, probabilities, ["Normal", "Odd"])
    tracker.pr_curves("test/pr", labels, probabilities, ["Normal", "Odd"])
    rows = [{"key": f"k{n}", "label": "Odd", "p": 0.5} for n in range(3)]
    films = np.zeros((3, 8, 8), np.uint8)
    tracker.prediction_table("test/real", rows, films)
    tracker.prediction_table("test/phantom", rows, films, is_phantom=True)
    with pytest.raises(ValueError, match="must not have the patients"):
        tracker.prediction_table("test/p", [{"patient": "a"}])
    tracker.finish({})
    found = recorded(folder)
    (row,) = found.rows
    tables = {
        name: json.loads(
            (next((folder / "wandb").glob("offline-run-*")) / "files" / value["path"]).read_text()
        )
        for name, value in row.items()
        if isinstance(value, dict) and "path" in value
    }
    assert tables["test/confusion_table"]["data"] == [
        ["Normal", "Normal", 1],
        ["Normal", "Odd", 0],
        ["Odd", "Normal", 1],
        ["Odd", "Odd", 1],
    ]
    precision = {(name, recall): value for name, recall, value in tables["test/pr_table"]["data"]}
    # Normal: 0.9 is one of one, 0.6 would be one of two. Odd: 0.8 of one, then 0.4 of two.
    assert (precision["Normal", 0.5], precision["Normal", 1.0]) == (1.0, 1.0)
    assert (precision["Odd", 0.5], precision["Odd", 1.0]) == (1.0, 1.0)
    assert tables["test/real"]["columns"] == ["key", "label", "p"]
    assert tables["test/phantom"]["columns"] == ["key", "label", "p", "film"]
    assert found.config["_wandb"]["visualize"]["test/pr"]["panel_config"]["panelDefId"] == (
        "wandb/area-under-curve/v0"
    )


def test_artifacts_have_digests_and_lineage(folder: Path) -> None:
    tracker = start(folder, OFFLINE, description())
    tracker.use_artifact("real-set", "a" * 64, "phantom")
    tracker.use_artifact("gan", "b" * 64, "gan")
    tracker.log_artifact("synthetic-set", "c" * 64, "phantom-synthetic")
    tracker.finish({})
    found = recorded(folder)
    assert found.used == [f"real-set-{'a' * 16}", f"gan-{'b' * 16}"]
    (made,) = (one for one in found.artifacts if not one.use_after_commit)
    assert (made.name, made.type) == (f"synthetic-set-{'c' * 16}", "synthetic-set")
    assert json.loads(made.metadata) == {
        "sha256": "c" * 64,
        "name": "phantom-synthetic",
        "made_from": {"real-set": ["a" * 64], "gan": ["b" * 64]},
    }
    assert [content.path for content in made.manifest.contents] == ["digest.txt"]


def test_system_metrics_are_sent_only_if_asked(folder: Path) -> None:
    for wanted in (False, True):
        tracker = start(folder, TrackingConfig(mode="offline", system_metrics=wanted), description())
        assert isinstance(tracker, WandbTracker)
        assert tracker.run.settings.x_disable_stats is not wanted
        tracker.finish({})


def test_training_outlives_wandb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, *_: object, **__: object) -> None:
            raise ConnectionResetError("gone")

    tracker = start(folder, OFFLINE, description())
    assert isinstance(tracker, WandbTracker)
    whole, tracker.run = tracker.run, Broken()
    capsys.readouterr()
    tracker.log(1, {})
    tracker.log(2, {})
    tracker.use_artifact("gan", "b" * 64, "gan")
    tracker.finish({})
    assert capsys.readouterr() == (
        "",
        "warning: W&B failed (ConnectionResetError: gone); from here on metrics are only in metrics.jsonl\n",
    )
    whole.finish()


def test_figures_outlive_artifacts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(folder, OFFLINE, description())
    assert isinstance(tracker, WandbTracker)
    monkeypatch.delattr(type(tracker.run), "_log_artifact")
    capsys.readouterr()
    tracker.use_artifact("gan", "b" * 64, "gan")
    tracker.log_artifact("classifier", "c" * 64, "cls")
    tracker.finish({"metrics": {"test": {"accuracy": 0.5}}})
    assert capsys.readouterr().err == (
        "warning: W&B failed to take artifacts (AttributeError: 'Run' object has no attribute '_log_artifact'); "
        "this run has none\n"
    )
    assert recorded(folder).summary["test/accuracy"] == 0.5


def test_training_outlives_a_start_that_fails_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(WandbTracker, "open", fails)
    assert type(start(folder, TrackingConfig(mode="auto"), description())) is NoTracker
    assert capsys.readouterr().err == (
        "warning: W&B failed to start (OSError: no space); continuing offline\n"
        "warning: W&B failed to start offline too (no space); metrics are only in files\n"
    )


def test_wandb_goes_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode("auto") == "online"
    assert resolve_mode("disabled") == "disabled"
    for word, mode in (("disabled", "disabled"), ("dryrun", "offline"), ("run", "online")):
        monkeypatch.setenv("WANDB_MODE", word)
        assert resolve_mode("auto") == mode
    assert resolve_mode("offline") == "offline"  # an option wins
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert resolve_mode("auto") == "disabled"


@pytest.mark.parametrize("is_main", [True, False])
def test_a_mode_that_is_none_is_refused_on_every_rank(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_main: bool
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(UserError) as caught:
        start(folder, TrackingConfig(), description(), is_main=is_main)
    assert str(caught.value) == "WANDB_MODE is 'offlin': set it to online, offline or disabled"


def test_variables_of_wandb_come_after_options_and_before_what_a_job_says_of_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"PROJECT": "lab", "NAME": "first", "JOB_TYPE": "trial", "RUN_GROUP": "pilot", "TAGS": "a,b"}
    for name, value in said.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert (TrackingConfig().project_name, TrackingConfig(project="mine").project_name) == ("lab", "mine")
    start(folder, OFFLINE, description()).finish({})
    (run,) = recorded(folder).runs
    assert (run.project, run.display_name, run.job_type, run.run_group) == ("lab", "first", "trial", "pilot")
    assert [*run.tags] == ["cls", "DS3", "64px", "seed0", "a", "b"]


@pytest.mark.parametrize(
    ("base_url", "machine", "mode"),
    [
        (None, "api.wandb.ai", "online"),
        ("https://wandb.lab.org", "wandb.lab.org", "online"),
        ("https://wandb.lab.org", "api.wandb.ai", "offline"),
        (None, "wandb.lab.org", "offline"),
    ],
)
def test_a_stored_key_counts_for_its_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base_url: str | None, machine: str, mode: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password {'k' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    if base_url is not None:
        monkeypatch.setenv("WANDB_BASE_URL", base_url)
    wandb.teardown()  # it keeps the address of its server
    try:
        assert resolve_mode("auto") == mode
    finally:
        wandb.teardown()


def test_a_login_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever host this version of wandb logs in to."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert resolve_mode("auto") == "offline"
    host = urlsplit(wandb.Settings().base_url).netloc
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    assert resolve_mode("auto") == "online"


def test_the_group_is_the_study_and_no_other_part_of_a_path() -> None:
    assert group_of(Path("runs/demo/cls"), None) == "demo"
    assert group_of(Path("/home/jane.doe/runs/demo/cls"), None) == "demo"
    assert group_of(Path("/home/jane.doe/cls"), None) is None
    assert group_of(Path("runs/gan"), None) is None
    assert group_of(Path("runs/demo/cls"), "mine") == "mine"
