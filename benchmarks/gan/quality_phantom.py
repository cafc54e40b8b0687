"""Presets on phantoms: what an oracle finds in their images, beside a plain PyTorch loop of the same processor time.

Every run is kept in --folder: the same command resumes. A training that was interrupted starts again, since its
processor time is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import CLONE, Row, device, load, parser, report, versions
from benchmarks.gan.jobs import Cost, launch, mean_of, measured, rounded, run_python, save_picture, std_of
from benchmarks.gan.phantom_oracle import FIGURES, Images, Judge, means, oracle, phantom_set
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import read_json
from cxrdist.models import load_generator
from cxrdist.run.folder import SUMMARY

REFERENCE, REAL = "recipe C, plain PyTorch loop", "other phantoms"
CONFIGS = ("configs/gan/demo.yaml", "configs/gan/demo-dcgan.yaml")
DIGITS = {"kid_1000": 2}
PICTURE_IMAGES = 6
COLUMNS = (
    "generator",
    *(column for figure in FIGURES for column in (figure, f"{figure}_std")),
    *("real_copies", "cpu_s", "wall_s", "images", "img_s"),
)


@dataclass(frozen=True)
class Trained:
    """The images of one trained generator, and what they cost."""

    images: Images
    cost: Cost
    images_seen: int


def train_preset(chosen: argparse.Namespace, config: str, seed: int) -> Trained:
    """A run of train_gan.py, as users start it, and its exported generators."""
    run = chosen.folder / f"{Path(config).stem}-{seed}"
    words = ["--config", str(CLONE / config), "--shards", chosen.shards, "--run", str(run)]
    words += ["--seed", str(seed)] + (["--budget", chosen.budget] if chosen.budget else [])
    cost = measured(run, words, lambda: launch("train_gan.py", *words, processes=chosen.processes))
    generators = [load_generator(model.parent) for model in sorted(run.glob("*/model.json"))]
    images = {name: one.sample(name, chosen.images) for one in generators for name in one.classes}
    return Trained(images, cost, read_json(run / SUMMARY)["images_seen"])


def train_reference(chosen: argparse.Namespace, cpu_s: float, seed: int, classes: Sequence[str]) -> Trained:
    """The plain loop of the recipe, for ``cpu_s`` processor seconds. Its process starts faster than a job: it has the
    difference for training."""
    out = chosen.folder / f"recipe-c-{seed}.npz"
    words = ["--shards", chosen.shards, "--cpu-seconds", str(cpu_s), "--seed", str(seed)]
    words += ["--images", str(chosen.images), "--out", str(out)]
    cost = measured(out, words, lambda: run_python("-m", "benchmarks.gan.reference_gan", *words))
    found = np.load(out)
    images = dict(zip(classes, found["images"], strict=True))
    # Without drawing the images, which the presets' costs do not include either.
    return Trained(
        images, Cost(round(float(found["cpu_seconds"]), 1), cost.wall_s), int(found["images_seen"])
    )


def row_of(
    generator: str, seeds: Sequence[Mapping[str, Mapping[str, float]]], real_copies: float | None
) -> Row:
    """Figures of each seed, ``{figure: {class: value}}``: mean and standard deviation over seeds, each the mean over
    classes."""
    of_seeds = [means(figures) for figures in seeds]
    row: Row = {"generator": generator, "seeds": len(seeds)}
    for figure in FIGURES:
        digits, values = DIGITS.get(figure, 4), [found[figure] for found in of_seeds]
        row[figure] = rounded(mean_of(values), digits)
        row[f"{figure}_std"] = rounded(std_of(values), digits)
    row["real_copies"] = rounded(real_copies, 4)
    row["of_seeds"] = [
        {figure: rounded(found[figure], DIGITS.get(figure, 4)) for figure in FIGURES} for found in of_seeds
    ]
    row["of_classes"] = {
        name: {
            figure: rounded(mean_of([figures[figure][name] for figures in seeds]), DIGITS.get(figure, 4))
            for figure in FIGURES
        }
        for name in seeds[0][FIGURES[0]]
    }
    return row


def cost_of(runs: Sequence[Trained]) -> Row:
    """Means over seeds. ``img_s``: images seen in a processor second of the whole command."""
    cpu_s = mean_of([run.cost.cpu_s for run in runs]) or 0.0
    images = mean_of([run.images_seen for run in runs]) or 0.0
    return {
        "cpu_s": round(cpu_s, 1),
        "wall_s": rounded(mean_of([run.cost.wall_s for run in runs]), 1),
        "images": round(images),
        "img_s": round(images / cpu_s, 1) if cpu_s else None,
        "cpu_s_of_seeds": [run.cost.cpu_s for run in runs],
    }


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Of the first preset: its KID over the reference's, and its copies over those of real images."""
    by_name = {row["generator"]: row for row in rows}
    first = next(row for name, row in by_name.items() if name not in (REAL, REFERENCE))
    found = {}
    reference = by_name.get(REFERENCE)
    if reference is not None and reference["kid_1000"] > 0:
        kid = first["kid_1000"] / reference["kid_1000"]
        found[f"KID, {first['generator']} over recipe C"] = round(kid, 3)
    if first["real_copies"]:
        ratio = first["copies"] / first["real_copies"]
        found[f"copies, {first['generator']} over real phantoms"] = round(ratio, 3)
    return found


def picture_rows(classes: Sequence[str], columns: Sequence[Images]) -> list[list[np.ndarray]]:
    """Per class the first images of each column, not selected."""
    return [[images[name][:PICTURE_IMAGES] for images in columns] for name in classes]


def options() -> argparse.ArgumentParser:
    made = parser(
        __doc__ or "",
        "python -m benchmarks.gan.quality phantom --json benchmarks/results/gan_quality_phantom.json",
    )
    made.add_argument(
        "--folder", type=Path, default=Path("runs/gan-quality-phantom"), help="sets, oracle and runs, kept"
    )
    made.add_argument("--shards", help="phantom set that is learned from; by default the demo's, in --folder")
    made.add_argument(
        "--config", action="append", help=f"preset, several allowed; by default {' and '.join(CONFIGS)}"
    )
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--budget", help="of each GAN, as train_gan.py takes it; by default the preset's own")
    made.add_argument("--images", type=int, default=500, help="generated of each class")
    made.add_argument("--fresh", type=int, default=500, help="fresh phantoms of each class to compare with")
    made.add_argument("--oracle-images", type=int, default=2000, help="phantoms of each class that it learns")
    made.add_argument("--oracle-budget", default="36000 images", help="as train_cls.py takes it")
    made.add_argument("--size", type=int, default=64, help="pixels, of the default set")
    made.add_argument(
        "--judge-size",
        type=int,
        help="pixels of the oracle; larger images are averaged down; by default the set's",
    )
    made.add_argument(
        "--reference", action=argparse.BooleanOptionalAction, default=True, help="also run recipe C"
    )
    made.add_argument(
        "--picture", type=Path, help="PNG: training images, then each generator's of the first seed"
    )
    return made


def main(words: Sequence[str]) -> None:
    chosen = options().parse_args(words)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if chosen.shards is None:
        chosen.shards = str(chosen.folder / "phantom")
        size = ["--size", str(chosen.size), "--seed", "0", "--encoding", "npy"]
        run_python("-m", "cxrdist", "import", "phantom", "--out", chosen.shards, *size)
    shards = ShardSet(chosen.shards)
    phantoms = phantom_set(
        chosen.folder / "judge-phantoms",
        chosen.judge_size or shards.image_size,
        learned=chosen.oracle_images,
        fresh=chosen.fresh,
    )
    if phantoms.classes != shards.classes:
        raise SystemExit(f"{chosen.shards}: has other classes than {phantoms.classes}")
    network = oracle(chosen.folder / "oracle", phantoms, chosen.oracle_budget, chosen.processes)
    judge = Judge(network, phantoms, shards)
    loads = [load()]
    runs: dict[str, list[Trained]] = {}
    for seed in range(chosen.seeds):
        # In turn, so that all generators share what else the machine was doing.
        trained = {
            Path(config).name: train_preset(chosen, config, seed) for config in chosen.config or CONFIGS
        }
        if chosen.reference:
            cpu_s = next(iter(trained.values())).cost.cpu_s
            trained[REFERENCE] = train_reference(chosen, cpu_s, seed, shards.classes)
        for name, run in trained.items():
            runs.setdefault(name, []).append(run)
        loads.append(load())
    real = judge.figures(
        {name: phantoms.images("val", name, "real", chosen.images) for name in phantoms.classes}
    )
    null_rate = means(real)["copies"]
    rows = [
        row_of(name, [judge.figures(run.images) for run in some], null_rate) | cost_of(some)
        for name, some in runs.items()
    ]
    rows.append(row_of(REAL, [real], null_rate))
    if chosen.picture:
        train = {name: shards.images("train", name, "real", PICTURE_IMAGES) for name in shards.classes}
        columns = [train, *(some[0].images for some in runs.values())]
        save_picture(chosen.picture, picture_rows(shards.classes, columns))
    summary = read_json(chosen.folder / "oracle" / SUMMARY)
    result = {
        "device": device(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions("cxrdist", "torch", "numpy"),
        "load_1_min": loads,
        "processes": chosen.processes,
        "shards": shards.digest,
        "train_images": {name: shards.samples("train", name, "real") for name in shards.classes},
        "judge": {"shards": phantoms.digest, "weights_sha256": summary["weights_sha256"]},
        "rows": rows,
        "ratios": ratios_of(rows),
    }
    report(result, COLUMNS, chosen.json)
