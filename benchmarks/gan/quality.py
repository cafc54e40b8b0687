"""Images of the conditional GAN beside those of the paper's: the same real radiographs, as many images of each class
seen in training, several seeds. KID against patients of whom neither has seen an image.

Every run is kept in --folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import CLONE, Row, device, load, parser, report, report_progress, versions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import slug
from cxrdist.models import load_generator

PAPER, MODERN = "paper", "modern"
CONFIGS = {PAPER: "configs/gan/paper.yaml", MODERN: "configs/gan/demo-modern.yaml"}
LOOKS = 5
COLUMNS = (
    *("preset", "class", "space", "train", "held_out", "kid_1000", "std", "floor_1000"),
    *("recall", "coverage"),
)
PICTURE_IMAGES = 6

Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What an evaluation found: ``{class: {space: figures}}``."""


def launch(script: str, *words: str, processes: int) -> None:
    """A job of ours, as users start it."""
    command = [sys.executable]
    if processes > 1:
        config = "gpu.yaml" if torch.cuda.is_available() else "cpu2.yaml"
        command += ["-m", "accelerate.commands.launch"]
        command += ["--config_file", str(CLONE / "configs/accelerate" / config)]
        command += ["--num_processes", str(processes)]
    command += [str(CLONE / "launch" / script), *words, "--tracking.mode", "disabled"]
    report_progress(" ".join(command[1:]))
    env = {**os.environ, "PYTHONPATH": str(CLONE)}
    subprocess.run(command, env=env, check=True, stdout=sys.stderr)


def run_of(folder: Path, preset: str, seed: int) -> Path:
    return folder / f"{preset}-{seed}"


def train(chosen: argparse.Namespace, preset: str, seed: int, classes: int) -> Path:
    run = run_of(chosen.folder, preset, seed)
    images = chosen.images * (classes if preset == MODERN else 1)  # its one model sees those of all classes
    words = ["--config", str(CLONE / CONFIGS[preset]), "--shards", chosen.shards, "--run", str(run)]
    words += ["--seed", str(seed), "--maps", str(chosen.maps), "--budget", f"{images} images"]
    words += ["--look-every-images", str(-(-images // LOOKS)), "--images-per-class", "null"]
    if preset == PAPER:
        # On several processes each class then has the whole batch's statistics, as on one.
        words += ["--placement", "class"]
    launch("train_gan.py", *words, processes=chosen.processes)
    return run


def evaluate(chosen: argparse.Namespace, run: Path, classifier: Path) -> Found:
    """``classifier``: one for all runs, so that they are compared in one space."""
    words = ["--run", str(run), "--shards", chosen.shards, "--split", chosen.split]
    # The first run is the one that has it trained.
    words += ["--classifier", str(classifier)] if classifier != run / "classifier" else []
    launch("evaluate_gan.py", *words, processes=chosen.processes)
    evaluation = json.loads((run / "evaluation.json").read_text())
    return {
        name: of_class["spaces"]
        for model in evaluation["models"].values()
        for name, of_class in model["classes"].items()
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """None where one is missing: of a class with too few images for the figure."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def rows_of(evaluations: Mapping[str, Sequence[Found]]) -> list[Row]:
    """A row per preset, class and space: the mean over seeds, and of KID the standard deviation."""
    return [
        {"preset": preset, "class": name, "space": space} | row_of([found[name][space] for found in seeds])
        for preset, seeds in evaluations.items()
        for name, spaces in seeds[0].items()
        for space in spaces
    ]


def row_of(seeds: Sequence[Mapping[str, Any]]) -> Row:
    """The figures of one class in one space, of each seed."""
    kids = [figures["kid"]["value"] for figures in seeds]
    floor = seeds[0]["kid"]["floor"]  # of the real images alone
    average = mean_of(kids)
    row: Row = {
        "train": seeds[0]["kid"]["n_floor"],
        "held_out": seeds[0]["kid"]["n_real"],
        "kid_1000": None if average is None else round(1000 * average, 2),
        "std": None if average is None or len(kids) < 2 else round(1000 * stdev(kids), 2),
        "floor_1000": None if floor is None else round(1000 * floor, 2),
        "kids_1000": [None if kid is None else round(1000 * kid, 3) for kid in kids],
    }
    for name in ("recall", "coverage"):
        average = mean_of([figures[name]["value"] for figures in seeds])
        row[name] = None if average is None else round(average, 3)
    return row


def ratios_of(evaluations: Mapping[str, Sequence[Found]], common_class: str) -> dict[str, float]:
    """KID of modern over that of paper, each the mean over the rare classes and seeds; per space. None for a space
    where the paper's is not above 0, or where a rare class has no KID."""
    ratios = {}
    for space in evaluations[PAPER][0][common_class]:
        means = {
            preset: mean_of(
                [
                    spaces[space]["kid"]["value"]
                    for found in seeds
                    for name, spaces in found.items()
                    if name != common_class
                ]
            )
            for preset, seeds in evaluations.items()
        }
        paper, modern = means[PAPER], means[MODERN]
        if paper is None or modern is None or paper <= 0:
            report_progress(f"{space}: no ratio of KID, of {modern} to {paper}")
        else:
            ratios[f"kid, modern over paper, rare classes, {space}"] = round(modern / paper, 3)
    return ratios


def picture(folder: Path, shards: ShardSet, classes: Sequence[str], file: Path) -> None:
    """A row per class: real images, the paper's, the conditional GAN's, of the first seed. The first of each, none
    chosen."""
    size, rows = shards.image_size, []
    for name in classes:
        generators = [run_of(folder, PAPER, 0) / slug(name), run_of(folder, MODERN, 0) / "all-classes"]
        images = [shards.images("train", name, "real", PICTURE_IMAGES)]
        images += [load_generator(place).sample(name, PICTURE_IMAGES) for place in generators]
        white = np.full((size, size // 4), 255, np.uint8)
        groups = [np.hstack([np.pad(image, 1, constant_values=255) for image in some]) for some in images]
        gap = np.pad(white, 1, constant_values=255)
        rows.append(np.hstack([groups[0], gap, groups[1], gap, groups[2]]))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(file)


def options() -> argparse.ArgumentParser:
    made = parser(
        __doc__ or "",
        "python -m benchmarks.gan.quality --shards shards/nih --json benchmarks/results/gan_quality.json",
    )
    made.add_argument("--shards", default="shards/nih", help="set of real images with a held-out split")
    made.add_argument("--folder", type=Path, default=Path("runs/gan-quality"), help="where the runs are kept")
    made.add_argument("--images", type=int, default=40_000, help="images of each class seen in training")
    made.add_argument("--maps", type=int, default=64, help="feature maps at 4x4, of both presets")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--split", default="val", help="held-out split that is compared with")
    made.add_argument("--classifier", type=Path, help="run of train_cls.py; by default one is trained")
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--picture", type=Path, help="PNG of real images and those of both presets")
    return made


def main() -> None:
    chosen = options().parse_args()
    shards = ShardSet(chosen.shards)
    counts = {name: shards.samples("train", name, "real") for name in shards.classes}
    classifier = chosen.classifier or run_of(chosen.folder, PAPER, 0) / "classifier"
    evaluations: dict[str, list[Found]] = {preset: [] for preset in CONFIGS}
    loads = [load()]
    for seed in range(chosen.seeds):
        for preset in CONFIGS:
            run = train(chosen, preset, seed, len(counts))
            evaluations[preset].append(evaluate(chosen, run, classifier))
            loads.append(load())
    if chosen.picture:
        picture(chosen.folder, shards, list(counts), chosen.picture)
    result = {
        "device": device(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions("cxrdist", "torch", "numpy"),
        "load_1_min": loads,
        "shards": shards.digest,
        "split": chosen.split,
        "train_images": counts,
        "images_per_class_seen": chosen.images,
        "rows": rows_of(evaluations),
        "ratios": ratios_of(evaluations, max(counts, key=lambda name: counts[name])),
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
