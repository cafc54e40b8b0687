"""The classifier whose features are compared: trained by a child process if needed, and checked that it was trained
on real images of the train split alone."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrdist import models
from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find
from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.models import MODEL_FILE, TrainedClassifier
from cxrdist.process import die_with_parent
from cxrdist.run.folder import SUMMARY

log = logging.getLogger(__name__)

EPOCHS = 50
MIN_IMAGES = 2000
MAX_IMAGES = {64: 40_000, 4096: 20_000}
"""``{largest image side: images}``: 2 min on two CPU cores at 64 px, 15 min at 256 px."""
INSTEAD = "remove --classifier to train one on the real train split alone"


def ensure_classifier(folder: Path, shards: ShardSet, place: str, *, seed: int = 0) -> None:
    """Train a classifier on the real images in ``folder``, unless it holds a finished run. Only rank 0 calls this.

    Calling it again resumes a training that was killed. Raises UserError if the training fails.
    """
    if (folder / SUMMARY).exists():
        return
    command = [*training_command(folder, shards, place), "--seed", str(seed)]
    log.info("%s does not exist: training a classifier of real images, which judges generated ones", folder)
    done = subprocess.run(
        command,
        env=child_environment(os.environ),
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    if done.returncode:
        raise UserError(
            f"{folder}: training the classifier failed, for the reason above; run the same command again, or name a "
            "finished classifier run with --classifier"
        )


def training_command(folder: Path, shards: ShardSet, place: str) -> list[str]:
    """Mild augmentation, and one validation at the end, so that no weights are selected on ``val``."""
    size = shards.image_size
    train_images = sum(shards.samples("train", name, "real") for name in shards.classes)
    most = next(images for side, images in MAX_IMAGES.items() if size <= side)
    budget = min(most, max(MIN_IMAGES, EPOCHS * train_images))
    words = ["--mix", "DS1", "--shards", place, "--run", str(folder)]
    for preset in (preset_of("cls", size), "configs/cls/augment.yaml"):
        words += ["--config", str(find(preset))]
    words += ["--budget", f"{budget} images", "--evaluations", "1", "--tracking.mode", "disabled"]
    return [sys.executable, str(find("launch/train_cls.py")), *words]


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment without the launcher's variables, which would make the child a rank of this job.
    ACCELERATE_USE_CPU is kept."""
    ranks = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME")
    worlds = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")
    launchers = {*ranks, *worlds, "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
    return {
        name: value
        for name, value in ours.items()
        if name == "ACCELERATE_USE_CPU"
        or not (name in launchers or name.startswith(("ACCELERATE_", "TORCHELASTIC_")))
    }


def load_classifier(
    folder: Path, shards: ShardSet, *, allow_code: bool = False, instead: str = INSTEAD
) -> TrainedClassifier:
    """The classifier of a finished run of train_cls.py. ``allow_code``: as in cxrdist.models.load_classifier;
    ``instead``: what the user can do who has no other one.

    Raises UserError if the run is not finished, or was trained on anything but real images of the train split of
    ``shards`` or of a set of its family (cxrdist.data.shards.lineage).
    """
    summary: dict[str, Any] = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    if summary.get("job") != "cls" or summary.get("status") != "finished":
        raise UserError(f"{folder}: not a finished run of train_cls.py; finish it, or {instead}")
    if not (folder / MODEL_FILE).exists():
        raise UserError(
            f"{folder}: has no {MODEL_FILE}, as a run of an earlier version of cxrdist: remove it, and train it again"
        )
    classifier = models.load_classifier(folder, allow_code=allow_code)
    if classifier.lineage["synthetic_digest"] is not None:
        raise UserError(
            f"{folder}: this classifier was trained on synthetic images, so its features may rate similar images as "
            f"close to real ones: {instead}"
        )
    if not descends_from(classifier.lineage, shards):
        raise UserError(
            f"{folder}: this classifier was trained on another set ({classifier.lineage['real_digest'][:12]}) than "
            f"{shards} ({shards.digest[:12]}), perhaps on its held-out patients: {instead}"
        )
    if list(classifier.classes) != shards.classes or classifier.image_size != shards.image_size:
        raise UserError(f"{folder}: this classifier has other classes or another image size: {instead}")
    return classifier
