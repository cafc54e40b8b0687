"""What the jobs tell W&B, offline: a GAN, its evaluation, a synthesis and two classifiers, then their comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import slug
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.study.compare.compare import compare
from cxrdist.study.compare.local import local_runs
from cxrdist.study.compare.online import online_runs
from cxrdist.study.report.reading.search import collect
from cxrdist.study.tracking import track_study
from tests.helpers.launching import replaced, run, summary
from tests.helpers.wandb_records import Recorded, recorded

pytestmark = pytest.mark.slow

OFFLINE = ["--tracking.mode", "offline"]
GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "1600 images"]
GAN += ["--precision", "fp32", "--look-every-images", "800", "--learning-rate", "0.002"]
GAN += ["--images-per-class", "7", *OFFLINE]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "64 images", "--evaluations", "2"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", *OFFLINE]
CLASSES = ["Normal", "Pleural Effusion", "Pneumothorax"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A folder with the runs of a small study: gan (evaluated), other-gan, synth, ds1, ds3."""
    folder, shards = tmp_path_factory.mktemp("work"), ["--shards", str(tiny_set)]
    run("train_gan.py", *GAN, *shards, "--run", "runs/tiny/gan", cwd=folder)
    short = replaced(GAN, "--budget", "64 images", "--look-every-images", "32", "--seed", "1")
    run("train_gan.py", *short, *shards, "--run", "runs/tiny/gan1", cwd=folder)
    ds1 = ["--mix", "DS1", "--run", "runs/tiny/ds1"]
    run("train_cls.py", *CLS, *shards, *ds1, cwd=folder)
    judge = ["--images", "8", "--k", "1", "--classifier", "runs/tiny/ds1", *OFFLINE]
    run("evaluate_gan.py", *judge, *shards, "--run", "runs/tiny/gan", cwd=folder)
    out = ["--out", "synthetic", "--run", "runs/tiny/synth", *OFFLINE]
    run("synthesize.py", "--gates", "none", "--gan", "runs/tiny/gan", *shards, *out, cwd=folder)
    ds3 = ["--mix", "DS3", "--synthetic", "synthetic", "--run", "runs/tiny/ds3"]
    run("train_cls.py", *CLS, *shards, *ds3, cwd=folder)
    return folder / "runs/tiny"


def ids(found: Recorded) -> tuple[str, str, str, list[str]]:
    first = found.runs[0]
    return first.display_name, first.job_type, first.run_group, [*first.tags]


def test_a_gan_and_its_evaluation_are_one_run(work: Path, tiny_set: Path) -> None:
    found, shards = recorded(work / "gan"), ShardSet(tiny_set)
    assert ids(found) == (
        "gan-demo-dcgan-32px",
        "gan",
        "tiny",
        ["gan", "demo-dcgan", "32px", "seed0"],
    )
    assert len(found.runs) == 2 and len({one.run_id for one in found.runs}) == 1
    assert found.runs[1].tags[-1] == "evaluated"
    assert found.config["data"] == {
        "real_digest": shards.digest,
        "synthetic_digest": None,
        "image_size": 32,
        "classes": CLASSES,
        "train_counts": {name: {"real": n} for name, n in zip(CLASSES, (8, 6, 4))},
    }
    machine = found.config["machine"]
    assert (machine["world_size"], machine["device"], machine["precision"]) == (1, "cpu", "fp32")
    assert {"cxrdist", "torch", "python"} <= found.config["versions"].keys()
    assert found.config["batch"] == 16 and found.config["evaluation"]["k"] == 1
    looks = [(row["images"], name) for row in found.rows for name in CLASSES if f"{name}/loss_d" in row]
    assert looks == [(images, name) for name in CLASSES for images in (800, 1600)]
    assert found.steps() == [*range(12)]  # two looks of three models, then their evaluation
    for row, (_, name) in zip(found.rows, looks):
        assert row[f"{name}/samples"]["_type"] == "image-file"
        assert row["throughput/images_per_s"] > 0 and f"{name}/spread" in row
    evaluation = json.loads((work / "gan/evaluation.json").read_text())
    for name in CLASSES:
        of_class = evaluation["models"][re.sub("[^a-z]+", "-", name.lower())]["classes"][name]
        kid = of_class["spaces"]["classifier"]["kid"]
        assert found.summary[f"{name}/kid/classifier"] == kid["value"]
        assert found.summary[f"{name}/kid/classifier_floor"] == kid["floor"]
        assert found.summary[f"{name}/agreement"] == of_class["agreement"]["value"]
        assert found.summary[f"{name}/loss_d"] == summary(work / "gan")["metrics"][name]["loss_d"]
    assert "overall/fid/classifier" in found.summary and "mean/agreement" in found.summary


def test_lineage_goes_from_the_real_set_to_the_classifier(work: Path, tiny_set: Path) -> None:
    real = f"real-set-{ShardSet(tiny_set).digest[:16]}"
    gan, synth, cls = (recorded(work / name) for name in ("gan", "synth", "ds3"))
    made = f"synthetic-set-{summary(work / 'synth')['shards']['synthetic'][:16]}"
    evaluated = f"gan-{summary(work / 'gan')['weights_sha256'][:16]}"
    assert gan.used == [real, real] and gan.made[-1] == evaluated
    assert (synth.used, synth.made) == ([real, evaluated], [made])
    classifier = f"classifier-{summary(work / 'ds3')['weights_sha256'][:16]}"
    assert (cls.used, cls.made) == ([real, made], [classifier])
    assert ids(synth) == ("synth-DS3-32px", "synth", "tiny", ["synth", "DS3", "32px", "seed0"])
    assert synth.summary["gates/Normal/admitted"] == 8


def test_a_classifiers_table_has_the_kept_figures(work: Path, tiny_set: Path) -> None:
    found, its = recorded(work / "ds3"), summary(work / "ds3")
    assert ids(found) == ("DS3-seed0", "cls", "tiny", ["cls", "DS3", "32px", "seed0"])
    assert found.config["data"]["epoch_counts"]["Pneumothorax"] == {"real": 4, "synthetic": 12}
    assert found.config["data"]["synthetic_digest"] == its["shards"]["synthetic"]
    assert found.metrics["val/balanced_accuracy"].summary.max
    for split in ("val", "test"):
        figures = its["metrics"][split]
        for metric in ("accuracy", "balanced_accuracy", "macro_auroc"):
            assert found.summary[f"{split}/{metric}"] == figures[metric]
        for name in CLASSES:
            assert found.summary[f"{split}/per_class/{name}"] == figures["per_class"][name]
    lines = [json.loads(line) for line in (work / "ds3/metrics.jsonl").read_text().splitlines()]
    *rows, charts = found.rows
    assert [row["images"] for row in rows] == [line["images"] for line in lines]
    assert charts["images"] == 64 and charts["test/predictions"]["_type"] == "table-file"
    assert {name for name in found.summary if name.startswith("test/confusion")}
    for row, line in zip(found.rows, lines):
        assert line.items() <= row.items()


def test_a_resumed_job_is_one_run(work: Path, tiny_set: Path, tmp_path: Path) -> None:
    words = replaced(CLS, "--shards", str(tiny_set), "--mix", "DS1", "--run", "cut")
    run("train_cls.py", *words, cwd=tmp_path)
    whole = recorded(tmp_path / "cut")
    # As after a kill between the first evaluation and the second.
    for name in ("summary.json", "model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    last = max((tmp_path / "cut/checkpoints").iterdir())
    (last / "optimizers.pt").write_bytes(b"torn")
    run("train_cls.py", *words, cwd=tmp_path)
    found = recorded(tmp_path / "cut")
    assert len(found.runs) == 2 and len({one.run_id for one in found.runs}) == 1
    assert found.steps() == [*range(len(found.rows))]
    trained = [[row["images"] for row in one.rows if "train/loss" in row] for one in (found, whole)]
    assert trained[0] == trained[1]


def test_a_gan_whose_classes_are_trained_apart_has_a_joint_run(tiny_set: Path, tmp_path: Path) -> None:
    short = replaced(GAN, "--budget", "64 images", "--look-every-images", "32", "--placement", "class")
    run("train_gan.py", *short, "--shards", str(tiny_set), "--run", "gan", cwd=tmp_path, processes=2)
    joint, its = recorded(tmp_path / "gan"), summary(tmp_path / "gan")
    assert ids(joint)[:2] == ("gan-demo-dcgan-32px", "gan")
    for name, model in its["models"].items():
        assert joint.summary[f"{name}/loss_d"] == model["metrics"]["loss_d"]
        assert [row["images"] for row in joint.rows if f"{name}/loss_d" in row] == [32, 64]
        alone = recorded(tmp_path / "gan" / slug(name))
        assert ids(alone)[:3] == (f"gan-demo-dcgan-32px-{slug(name)}", "gan", "gan")
        assert [(row["images"], row[f"{name}/loss_d"]) for row in alone.rows] == [
            (row["images"], row[f"{name}/loss_d"]) for row in joint.rows if f"{name}/loss_d" in row
        ]


def test_a_study_has_the_means_of_its_mixes(work: Path) -> None:
    track_study(collect([work]), work, "tiny", TrackingConfig(mode="offline"), {"name": "tiny"})
    found = recorded(work)
    assert ids(found) == ("study-tiny", "study", "tiny", ["study", "DS1", "DS3"])
    of_mix = {mix: summary(work / mix.lower()) for mix in ("DS1", "DS3")}
    assert found.used == [f"classifier-{its['weights_sha256'][:16]}" for its in of_mix.values()]
    for mix, its in of_mix.items():
        assert found.summary[f"{mix}/test/accuracy"] == its["metrics"]["test"]["accuracy"]


class Api:
    """Answers as wandb.Api() about the runs of folders, from what their jobs recorded."""

    def __init__(self, *folders: Path) -> None:
        self.found = [recorded(folder) for folder in folders]

    def runs(self, path: str, filters: dict[str, str]) -> list[Any]:
        assert path == "lab/cxrdist"
        return [self._run(one) for one in self.found if one.runs[0].run_group == filters["group"]]

    def _run(self, one: Recorded) -> Any:
        def scan_history(keys: list[str]) -> list[dict[str, Any]]:
            return [{key: row[key] for key in keys} for row in one.rows if row.keys() >= set(keys)]

        return SimpleNamespace(
            name=one.runs[0].display_name,
            job_type=one.runs[0].job_type,
            state="finished",
            config=one.config,
            summary=one.summary,
            scan_history=scan_history,
        )


@pytest.mark.parametrize(
    ("names", "option", "metric"),
    [
        (("ds1", "ds3"), "data.epoch_counts.Pneumothorax.synthetic", "test/balanced_accuracy"),
        (("gan", "gan1"), "seed", "Normal/kid/classifier"),
    ],
)
def test_files_and_wandb_give_the_same_tables_and_curves(
    work: Path, tmp_path: Path, names: tuple[str, ...], option: str, metric: str
) -> None:
    folders = [work / name for name in names]
    here = local_runs(folders)
    there = online_runs(Api(*folders), "lab/cxrdist", "tiny")
    lines = [*compare(here, None, tmp_path / "out")]
    # W&B does not have the predictions.
    ours = [line for line in lines if not line.startswith(("Paired", "DS3-seed0 - ")) and line]
    assert [line for line in compare(there, None, tmp_path / "out") if line] == ours
    text = "\n".join(lines)
    assert re.search(rf"^{re.escape(option)} ", text, re.MULTILINE)
    assert re.search(rf"^{re.escape(metric)} ", text, re.MULTILINE)
    assert not re.search("^(run|tracking|data.real_digest) ", text, re.MULTILINE)
    key = lambda run: (run.name, run.weights_sha256)  # noqa: E731
    for one, other in zip(sorted(here, key=key), sorted(there, key=key), strict=True):
        assert (one.options, one.figures, one.curves) == (other.options, other.figures, other.curves)
        assert one.curves
