"""Run folders of a study, written by hand: every image is right or wrong as the test says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cxrdist.metrics.classification import metrics_of
from cxrdist.metrics.predictions import Predictions, write_predictions
from cxrdist.metrics.subgroups import by_subgroup

CLASSES = ("Edema", "Normal")
REAL, SYNTHETIC = "a", "b"
IMAGES = 40
"""Test images of each class, each of a patient of its own."""


def write_run(
    folder: Path,
    arm: str,
    right: Sequence[int],
    *,
    seed: int = 0,
    fold: int | None = None,
    folds: int = 5,
    val: float = 0.5,
    classes: Sequence[str] = CLASSES,
    images: int = IMAGES,
    synthetic: bool = False,
    keeps_predictions: bool = True,
    **changes: Any,
) -> Path:
    """A finished classifier run that is right for the first ``right[k]`` test images of class k.

    ``val``: its balanced accuracy on validation images. ``changes``: to its summary.
    """
    folder.mkdir(parents=True)
    predictions = _predictions(right, classes, images, fold)
    if keeps_predictions:
        write_predictions(folder / "predictions-test.csv", predictions)
    test = metrics_of(predictions) | {"subgroups": by_subgroup(predictions)}
    counts = {name: {"real": 40 + 10 * k} for k, name in enumerate(classes)}
    made = {name: {"real": 40, "synthetic": 60 if synthetic else 0} for name in classes}
    summary = {
        "job": "cls",
        "status": "finished",
        "mix": arm,
        "seed": seed,
        "classes": list(classes),
        "counts": made,
        "stages": [{"mix": arm, "counts": made, "images_seen": 640, "epochs": 6.4, "learning_rate": 0.001}],
        "shards": {
            "real": (REAL if fold is None else str(fold)) * 64,
            "synthetic": SYNTHETIC * 64 if synthetic else None,
        },
        "data": {
            "importer": "nih14",
            "release": "NIH ChestX-ray14",
            "is_phantom": False,
            "image_size": 64,
            "label_rule": "one-target",
            "folds": None if fold is None else folds,
            "fold": fold,
            "counts": {
                "train": counts,
                "val": {name: {"real": images} for name in classes},
                "test": {name: {"real": images} for name in classes},
            },
        },
        "metrics": {"val": {**test, "balanced_accuracy": val}, "test": test},
        "best_images": 512,
        "epochs": 6.4,
        "images_seen": 640,
        "steps": 5,
        "world_size": 1,
        "device": "cpu",
        "weights_sha256": f"{seed}" * 64,
        "order_sha256": "d" * 64,
        "seconds": 33.1,
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789abcdef",
        **changes,
    }
    config = {"mix": arm, "shards": "shards/none", "run": str(folder), "seed": seed, "learning_rate": 0.001}
    points = [
        {"images": n, "epoch": n / 100, "val/balanced_accuracy": val - 0.1 + n / 6400}
        for n in (128, 256, 384, 512, 640)
    ]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return folder


def _predictions(right: Sequence[int], classes: Sequence[str], images: int, fold: int | None) -> Predictions:
    labels = np.repeat(np.arange(len(classes)), images)
    is_right = np.concatenate([np.arange(images) < hits for hits in right])
    chosen = np.where(is_right, labels, (labels + 1) % len(classes))
    sure = 0.8
    probabilities = np.full((len(labels), len(classes)), (1 - sure) / (len(classes) - 1))
    probabilities[np.arange(len(labels)), chosen] = sure
    keys = [f"f{fold or 0}i{image:04}" for image in range(len(labels))]
    made = Predictions.of(keys, labels, probabilities, classes)
    return replace(
        made,
        patients=np.array([f"p{key}" for key in keys]),
        view=np.array(["PA", "AP"] * (len(labels) // 2 + 1))[: len(labels)],
        sex=np.array(["F", "F", "M"] * (len(labels) // 3 + 1))[: len(labels)],
    )


def write_study(folder: Path, arms: Mapping[str, bool], **changes: Any) -> Path:
    """study.json of arms (name -> whether it uses synthetic images)."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "name": folder.name,
        "reference": next(iter(arms)),
        "margin_points": 1.0,
        "folds": 1,
        "seeds": [0],
        "budget": "640 images",
        "learning_rates": [],
        "chosen_rates": {},
        "arms": [{"name": arm, "about": "", "mixes": [arm], "synthetic": made} for arm, made in arms.items()],
        **changes,
    }
    (folder / "study.json").write_text(json.dumps(described))
    return folder / "study.json"
