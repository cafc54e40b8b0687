"""The paper's protocol at 256 px on phantoms, for a GPU: how fast it trains, and how long ten folds would take.

A phantom set, some minutes of the classifier (configs/cls/paper.yaml) and of the GAN that configs/study/paper.yaml
names, at their measured rates; epochs a minute of DS1, DS2 and DS3 with the paper's counts; and the time of all jobs
of configs/study/paper.yaml on one device. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import CLONE, Row, device, load, parser, report, versions
from benchmarks.gan.jobs import launch, run_python

EPOCH_IMAGES = {"DS1": 46_420, "DS2": 10_065, "DS3": 150_980}
"""Of the paper's counts; see docs/order.md."""
STUDY = "configs/study/paper.yaml"
COLUMNS = ("job", "images", "s", "img_s", "data_wait", "device", "precision")


def train_classifier(folder: Path, shards: str, budget: str) -> Row:
    run = folder / "cls"
    words = ["--config", str(CLONE / "configs/cls/paper.yaml"), "--mix", "DS1", "--shards", shards]
    launch("train_cls.py", *words, "--run", str(run), "--budget", budget, "--evaluations", "1", processes=1)
    summary = read(run)
    return row("classifier", summary)


def train_gan(folder: Path, shards: str, budget: str, config: str) -> Row:
    run = folder / "gan"
    words = ["--config", str(CLONE / config), "--shards", shards, "--run", str(run), "--budget", budget]
    launch("train_gan.py", *words, processes=1)
    (model,) = read(run)["models"].values()
    return row("gan", model)


def read(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def row(job: str, summary: dict[str, Any]) -> Row:
    return {
        "job": job,
        "images": summary["images_seen"],
        "s": summary["seconds"],
        "img_s": round(summary["images_seen"] / summary["seconds"], 1),
        "data_wait": summary["data_wait"],
        "device": summary["device"],
        "precision": summary["precision"],
    }


def study_hours(study: dict[str, Any], gan_images: int, img_s: dict[str, float]) -> dict[str, float]:
    """Hours of the trainings of the study, one after the other on one device, by kind."""
    from cxrdist.study.arms.config import StudyConfig
    from cxrdist.study.arms.jobs import plan_study

    # Of a source that is not read: no set has to exist to count the jobs.
    options: dict[str, Any] = {**study, "source": "phantom --size 256", "dry_run": True}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    plan = plan_study(StudyConfig(**options))
    jobs = Counter(job.kind for job in plan.jobs)
    images = int(str(study["budget"]).split()[0])
    classifiers = (jobs["classifier"] + jobs["search"]) * images / img_s["classifier"]
    return {
        "classifiers": round(classifiers / 3600, 1),
        "gans": round(jobs["gan"] * gan_images / img_s["gan"] / 3600, 1),
    }


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    folder = chosen.folder.resolve()
    study = yaml.safe_load((CLONE / STUDY).read_text())
    gan_config = chosen.gan_config or study["gan_config"]
    shards = str(folder / "set")
    words = ["--size", str(chosen.size), "--images", str(chosen.images), "--encoding", "npy"]
    run_python("-m", "cxrdist", "import", "phantom", "--out", shards, *words)
    began = load()
    rows = [
        train_classifier(folder, shards, chosen.budget),
        train_gan(folder, shards, chosen.gan_budget, gan_config),
    ]
    img_s = {each["job"]: each["img_s"] for each in rows}
    gan_images = int(str(yaml.safe_load((CLONE / gan_config).read_text())["budget"]).split()[0])
    hours = study_hours(study, gan_images, img_s)
    epochs = {mix: round(60 * img_s["classifier"] / images, 3) for mix, images in EPOCH_IMAGES.items()}
    return {
        "device": device(),
        "versions": versions("torch", "accelerate"),
        "load": began,
        "rows": rows,
        "epochs_per_minute": epochs,
        "study_hours": hours,
        "ratios": {
            **{f"epochs a minute of {mix}": value for mix, value in epochs.items()},
            **{f"hours of the {kind} of {STUDY}": value for kind, value in hours.items()},
        },
    }


def main() -> None:
    made = parser(__doc__ or "", "python -m benchmarks.cls.paper --json benchmarks/results/cls_paper.json")
    made.add_argument(
        "--folder", type=Path, default=Path("runs/cls-paper-phantom"), help="set and runs, kept"
    )
    made.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    made.add_argument("--images", type=int, default=8000, help="phantoms of the set, all classes together")
    made.add_argument("--budget", default="300000 images", help="of the classifier")
    made.add_argument("--gan-budget", default="60000 images", help="of the GAN")
    made.add_argument("--gan-config", help="another config than the study's, for a try on a CPU")
    chosen = made.parse_args()
    report(measure(chosen), COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
