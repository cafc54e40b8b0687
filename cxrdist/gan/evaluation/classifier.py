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

from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find, load_yaml
from cxrdist.data.shards.lineage import family
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.nets.dcnn import DCNN, DCNNConfig
from cxrdist.process import die_with_parent
from cxrdist.run.checkpoint import load_weights, weights_sha256
from cxrdist.run.folder import CONFIG, SUMMARY

log = logging.getLogger(__name__)

EPOCHS = 50
MIN_IMAGES = 2000
MAX_IMAGES = {64: 40_000, 4096: 20_000}
"""``{largest image side: images}``: 2 min on two CPU cores at 64 px, 15 min at 256 px."""


def ensure_classifier(folder: Path, shards: ShardSet, place: str) -> None:
    """Train a classifier on the real images in ``folder``, unless it holds a finished run. Only rank 0 calls this.

    Calling it again resumes a training that was killed. Raises UserError if the training fails.
    """
    if (folder / SUMMARY).exists():
        return
    command = training_command(folder, shards, place)
    log.info("%s does not exist: training the classifier whose features are compared", folder)
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


def load_classifier(folder: Path, shards: ShardSet) -> DCNN:
    """The classifier of a finished run of train_cls.py.

    Raises UserError if the run is not finished, or was trained on anything but real images of the train split of
    ``shards`` or of a set of its family (cxrdist.data.shards.lineage).
    """
    summary: dict[str, Any] = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    if summary.get("job") != "cls" or summary.get("status") != "finished":
        raise UserError(f"{folder}: not a finished run of train_cls.py; finish it, or remove --classifier")
    instead = "remove --classifier to train one on the real train split alone"
    if summary["shards"]["synthetic"] is not None:
        raise UserError(
            f"{folder}: this classifier was trained on synthetic images, so its features may rate similar images as "
            f"close to real ones: {instead}"
        )
    if summary["shards"]["real"] not in family(shards):
        raise UserError(
            f"{folder}: this classifier was trained on another set ({summary['shards']['real'][:12]}) than {shards} "
            f"({shards.digest[:12]}), perhaps on its held-out patients: {instead}"
        )
    if summary["classes"] != shards.classes or summary["data"]["image_size"] != shards.image_size:
        raise UserError(f"{folder}: this classifier has other classes or another image size: {instead}")
    network = DCNN(network_config(load_yaml(folder / CONFIG), shards))
    load_weights(folder / "model.safetensors", network)
    if weights_sha256(network) != summary["weights_sha256"]:
        raise UserError(f"{folder}/model.safetensors: changed since it was trained; train it again")
    return network


def network_config(config: dict[str, Any], shards: ShardSet) -> DCNNConfig:
    """The network's config, from the run's config.yaml and the set."""
    return DCNNConfig(
        size=shards.image_size,
        classes=len(shards.classes),
        widths=tuple(config["widths"]),
        hidden=config["hidden"],
        kernel=config["kernel"],
        bias=config["bias"],
    )
