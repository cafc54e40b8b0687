"""The comparison of runs from hand-written folders: tables, curves and errors, to the letter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from cxrdist.cli.main import dispatch
from cxrdist.errors import UserError
from cxrdist.metrics.predictions import Predictions, write_predictions
from cxrdist.run.tracking import api as tracking_api
from cxrdist.study.compare.compare import compare
from cxrdist.study.compare.local import group_folders, local_runs
from cxrdist.study.compare.online import online_runs
from cxrdist.study.compare.paired import paired_differences
from cxrdist.study.compare.runs import comparable

REAL = "ab" * 32


def write_cls(folder: Path, mix: str, lr: float, **changes: Any) -> Path:
    """A finished classifier run of two classes with one test image each right."""
    folder.mkdir(parents=True)
    options = {"mix": mix, "seed": 0, "learning_rate": lr, "run": str(folder), "tracking": {"mode": "auto"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    accuracy = 0.5 + lr
    test = {
        "accuracy": accuracy,
        "per_class": {"Normal": 1.0, "Odd": None},
        "intervals": {"accuracy": [accuracy - 0.125, accuracy + 0.125]},
        "confusion": [[1, 0], [0, 1]],
    }
    summary = {
        "job": "cls",
        "status": "finished",
        "mix": mix,
        "seed": 0,
        "classes": ["Normal", "Odd"],
        "counts": {"Normal": {"real": 4}, "Odd": {"real": 2}},
        "shards": {"real": REAL, "synthetic": None},
        "data": {"image_size": 32, "counts": {"train": {"Normal": {"real": 4}, "Odd": {"real": 2}}}},
        "metrics": {"test": test},
        "world_size": 1,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "versions": {"torch": "2"},
        "git_commit": None,
        "weights_sha256": f"{lr}",
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    lines = [{"images": n, "train/loss": 1 / n, "val/balanced_accuracy": n / 100} for n in (16, 32)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_cls(tmp_path / "runs/demo/a", "DS1", 0.125)
    write_cls(tmp_path / "runs/demo/b", "DS3", 0.25)
    return tmp_path / "runs/demo"


TABLES = [
    "Options that differ",
    "",
    "option         DS1-seed0  DS3-seed0",
    "learning_rate  0.125      0.25",
    "mix            DS1        DS3",
    "",
    "Final metrics (95 % interval)",
    "",
    "metric                 DS1-seed0            DS3-seed0",
    "test/accuracy          0.625 (0.5 to 0.75)  0.75 (0.625 to 0.875)",
    "test/per_class/Normal  1                    1",
    "",
]


def test_a_folder_of_runs_is_compared(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [*compare(local_runs([runs]), None, out)] == [
        *TABLES,
        f"curves: {out}/curves.png",
        f"curves: {out}/curves.svg",
    ]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "curves.svg").read_text()
    assert all(text in svg for text in ("DS1-seed0", "DS3-seed0", "val/balanced_accuracy", "train/loss"))


def test_the_command_takes_runs_or_a_group(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["runs/demo/a", "runs/demo/b"], ["runs/demo"], ["--group", "demo"]):
        dispatch(["compare", *words, "--out", "out"])
        ends = ["curves: out/curves.png", "curves: out/curves.svg"]
        assert capsys.readouterr().out.splitlines() == [*TABLES, *ends]


def test_runs_alike_but_for_their_weights_are_told_apart(tmp_path: Path) -> None:
    write_cls(tmp_path / "a", "DS1", 0.125, weights_sha256="2")
    write_cls(tmp_path / "b", "DS1", 0.125, weights_sha256="1")
    first, second = comparable(local_runs([tmp_path]), None)
    assert [(run.name, run.folder) for run in (first, second)] == [
        ("DS1-seed0", tmp_path / "b"),
        ("DS1-seed0 #2", tmp_path / "a"),
    ]
    assert [*compare([first, second], None, tmp_path)][2] == "no option differs"


def test_pairs_are_of_one_test_set_and_their_differences_of_the_same_patients(runs: Path) -> None:
    """b is right for all six images of three patients, a for those of two of them."""
    write_cls(runs / "c", "DS2", 0.5, shards={"real": "cd" * 32, "synthetic": None})
    keys = np.array([f"{n:024x}" for n in range(6)])
    labels = np.array([0, 1, 0, 1, 0, 1])
    right = np.eye(2, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[4:] = right[4:, ::-1]
    for name, probabilities in (("a", wrong), ("b", right), ("c", right)):
        predictions = Predictions.of(keys, labels, probabilities, ("x", "y"))
        patients = np.array(["1", "1", "2", "2", "3", "3"])
        write_predictions(
            runs / name / "predictions-test.csv", dataclasses.replace(predictions, patients=patients)
        )
    (line,) = paired_differences(comparable(local_runs([runs]), None))
    assert line.startswith(
        "DS3-seed0 - DS1-seed0: balanced accuracy +33.3 (+0.0 to +100.0) points, macro AUROC +0."
    )


def test_errors_say_what_is_missing(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder; name run folders"):
        local_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no run \(no config.yaml in it or below\)"):
        local_runs([tmp_path / "empty"])
    write_cls(tmp_path / "half", "DS1", 0.5, status="running")
    with pytest.raises(UserError, match="half: no run in it is finished; start the same command again"):
        local_runs([tmp_path / "half"])
    write_cls(tmp_path / "old", "DS1", 0.5, data={"image_size": 32})
    with pytest.raises(UserError, match="old: 'counts' is missing in its files, as if written by another"):
        local_runs([tmp_path / "old"])
    with pytest.raises(UserError, match="no run of the group other in runs/; name the run folders, or add"):
        group_folders("other")
    with pytest.raises(UserError, match=r"found one finished run, DS1-seed0: name two runs or more"):
        comparable(local_runs([runs / "a"]), None)


def test_runs_of_another_job_are_refused(runs: Path) -> None:
    write_cls(runs / "synth", "DS3", 0.5, job="synth")
    assert len(comparable(local_runs([runs]), None)) == 2
    with pytest.raises(
        UserError, match=r"found one finished run, DS1-seed0 \(beside synth \(synth\)\): name two"
    ):
        comparable(local_runs([runs / "a", runs / "synth"]), None)
    found = local_runs([runs])
    gan = SimpleNamespace(name="gan-demo-64px", job="gan", weights_sha256="")
    with pytest.raises(UserError, match=r"gan-demo-64px \(gan\): runs of several jobs; .* --job cls or"):
        comparable([*found, gan], None)  # type: ignore[list-item]
    assert len(comparable([*found, gan], "cls")) == 2  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name run folders, a folder that holds some"),
        (["--wandb"], "needs --group, the W&B group to read"),
        (["runs", "--group", "g"], "name either run folders or a group"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dispatch(["compare", *words])


def test_wandb_that_gives_nothing_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = SimpleNamespace(runs=lambda path, filters: [])
    with pytest.raises(UserError, match="there is no run in the group g of the W&B project lab/p"):
        online_runs(empty, "lab/p", "g")
    crashed = SimpleNamespace(name="x", state="crashed")
    with pytest.raises(UserError, match="no run is finished in the group g"):
        online_runs(SimpleNamespace(runs=lambda path, filters: [crashed]), "lab/p", "g")
    assert capsys.readouterr().err == "warning: x is left out: W&B says it is crashed\n"

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    with pytest.raises(UserError, match=r"W&B does not give the runs of p \(no route\): name the project"):
        online_runs(SimpleNamespace(runs=fails), "p", "g")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="W&B has no API key for this machine, or cannot be reached"):
        tracking_api.open_api()
