"""The classifier whose features tell images apart: checked that it knows no held-out and no synthetic image, or
trained by a process of its own where there is none."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrdist.config import find, load_yaml
from cxrdist.console import say
from cxrdist.data.shards.lineage import family
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.nets.dcnn import DCNN, DCNNConfig
from cxrdist.presets import PRESETS
from cxrdist.process import die_with_parent
from cxrdist.run.checkpoint import load_weights, weights_sha256
from cxrdist.run.folder import CONFIG, SUMMARY

EPOCHS = 50
LEAST_IMAGES = 2000
MOST_IMAGES = {64: 40_000, 4096: 20_000}
"""By the image's side up to which it holds: 2 min on two CPU cores at 64 px, a quarter of an hour at 256."""


def ensure_classifier(folder: Path, shards: ShardSet, place: str) -> None:
    """Have a classifier of the real images trained in ``folder`` unless it holds one that is finished; rank 0 alone
    calls this. Killed and called again, it begins again. Raises UserError where the training fails."""
    if (folder / SUMMARY).exists():
        return
    command = training_command(folder, shards, place)
    say(f"{folder} is not there yet: training the classifier whose features are compared (once)")
    done = subprocess.run(
        command,
        env=child_environment(os.environ),
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    if done.returncode:
        raise UserError(
            f"{folder}: the classifier's training failed, for the reason above; the same command tries again, and "
            "--classifier RUN takes one that there is"
        )


def training_command(folder: Path, shards: ShardSet, place: str) -> list[str]:
    """Mild augmentation, and one look at ``val`` at the end: no weights are chosen by what they do there."""
    size = shards.image_size
    train_images = sum(shards.samples("train", name, "real") for name in shards.classes)
    most = next(images for side, images in MOST_IMAGES.items() if size <= side)
    budget = min(most, max(LEAST_IMAGES, EPOCHS * train_images))
    words = ["--mix", "DS1", "--shards", place, "--run", str(folder)]
    for preset in (
        next(name for side, name in PRESETS["cls"].items() if size <= side),
        "configs/cls/augment.yaml",
    ):
        words += ["--config", str(find(preset))]
    words += ["--budget", f"{budget} images", "--evaluations", "1", "--tracking.mode", "disabled"]
    return [sys.executable, str(find("launch/train_cls.py")), *words]


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Without what would make a process take itself for a rank of our job; that we stay on CPU it may know."""
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

    Raises UserError where it is not finished, or has learnt from anything but real images of the train split of
    ``shards`` or of its family (cxrdist.data.shards.lineage).
    """
    if not (folder / SUMMARY).exists():
        raise UserError(f"{folder}: no finished run of train_cls.py; finish it, or leave --classifier away")
    summary: dict[str, Any] = read_json(folder / SUMMARY)
    if summary.get("job") != "cls" or summary.get("status") != "finished":
        raise UserError(f"{folder}: no finished run of train_cls.py; name one, or leave --classifier away")
    instead = "leave --classifier away, and one is trained on the real train split alone"
    if summary["shards"]["synthetic"] is not None:
        raise UserError(
            f"{folder}: this classifier has learnt from synthetic images, and would find those like them close to "
            f"real ones: {instead}"
        )
    if summary["shards"]["real"] not in family(shards):
        raise UserError(
            f"{folder}: this classifier has learnt from another set ({summary['shards']['real'][:12]}) than {shards} "
            f"({shards.digest[:12]}), perhaps from its held-out patients: {instead}"
        )
    if summary["classes"] != shards.classes or summary["data"]["image_size"] != shards.image_size:
        raise UserError(f"{folder}: this classifier is of other classes or another image size: {instead}")
    network = DCNN(network_config(load_yaml(folder / CONFIG), shards))
    load_weights(folder / "model.safetensors", network)
    if weights_sha256(network) != summary["weights_sha256"]:
        raise UserError(f"{folder}/model.safetensors: changed since it was trained; train it again")
    return network


def network_config(config: dict[str, Any], shards: ShardSet) -> DCNNConfig:
    """The classifier's shape from its run's config.yaml."""
    return DCNNConfig(
        size=shards.image_size,
        classes=len(shards.classes),
        widths=tuple(config["widths"]),
        hidden=config["hidden"],
        kernel=config["kernel"],
        bias=config["bias"],
    )
