"""A preset on real radiographs, several seeds, beside the paper's on request: KID against patients of whom no GAN has
seen an image, label agreement and near copies, per class.

Every run is kept in --folder: the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import CLONE, Row, device, load, parser, report, report_progress, versions
from benchmarks.gan.jobs import launch, mean_of, rounded, save_picture, std_of
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import read_json
from cxrdist.models import load_generator
from cxrdist.run.folder import SUMMARY

PAPER, PAPER_CONFIG = "paper", "configs/gan/paper.yaml"
CONFIGS = ("configs/gan/demo.yaml", "configs/gan/nih64.yaml")  # later ones override earlier ones
LOOKS = 5
COLUMNS = (
    *("preset", "class", "space", "train", "held_out", "kid_1000", "std", "floor_1000", "recall", "coverage"),
    *("agreement", "agreement_real", "copies", "copies_floor", "near_copies", "near_copies_real"),
)
PICTURE_IMAGES = 6

Found = Mapping[str, Mapping[str, Any]]
"""What an evaluation found: ``{class: {spaces, copies, ...}}``."""


def run_of(folder: Path, preset: str, seed: int) -> Path:
    return folder / f"{preset}-{seed}"


def configs_of(chosen: argparse.Namespace) -> Sequence[str]:
    return chosen.config or CONFIGS


def training_words(chosen: argparse.Namespace, preset: str, run: Path, seed: int) -> list[str]:
    """The options of train_gan.py."""
    words = ["--shards", chosen.shards, "--run", str(run), "--seed", str(seed)]
    if preset != PAPER:
        configs = [word for config in configs_of(chosen) for word in ("--config", str(CLONE / config))]
        return [*configs, *words, *shlex.split(chosen.train_options)]
    words = ["--config", str(CLONE / PAPER_CONFIG), *words, "--maps", str(chosen.paper_maps)]
    words += ["--budget", f"{chosen.paper_images} images", "--images-per-class", "null"]
    words += ["--look-every-images", str(-(-chosen.paper_images // LOOKS))]
    # On several processes each class then has the whole batch's statistics, as on one.
    return [*words, "--placement", "class"]


def train(chosen: argparse.Namespace, preset: str, seed: int) -> Path:
    run = run_of(chosen.folder, preset, seed)
    launch("train_gan.py", *training_words(chosen, preset, run, seed), processes=chosen.processes)
    return run


def evaluate(chosen: argparse.Namespace, run: Path, classifier: Path) -> Found:
    """``classifier``: one for all runs, so that they are compared in one space. The first run trains it."""
    file = run / "evaluation.json"
    if not file.exists() or not is_current(read_json(file), run, classifier, chosen.split):
        words = ["--run", str(run), "--shards", chosen.shards, "--split", chosen.split]
        words += ["--classifier", str(classifier)] if classifier != run / "classifier" else []
        launch("evaluate_gan.py", *words, processes=chosen.processes)
    return classes_of(read_json(file))


def is_current(evaluation: Mapping[str, Any], run: Path, classifier: Path, split: str) -> bool:
    """Whether an evaluation is of these weights, this split and this classifier."""
    models = read_json(run / SUMMARY)["models"]
    weights = {model["weights_sha256"] for model in models.values()}
    evaluated = {model["best"]["weights_sha256"] for model in evaluation["models"].values()}
    used = evaluation["spaces"]["classifier"]["weights_sha256"]
    return (
        evaluation["split"] == split
        and weights == evaluated
        and used == read_json(classifier / SUMMARY)["weights_sha256"]
    )


def classes_of(evaluation: Mapping[str, Any]) -> Found:
    return {
        name: of_class
        for model in evaluation["models"].values()
        for name, of_class in model["classes"].items()
    }


def rows_of(evaluations: Mapping[str, Sequence[Found]]) -> list[Row]:
    """A row per preset, class and space: means over seeds, and of KID the standard deviation."""
    return [
        {"preset": preset, "class": name, "space": space} | row_of([found[name] for found in seeds], space)
        for preset, seeds in evaluations.items()
        for name, of_class in seeds[0].items()
        for space in of_class["spaces"]
    ]


def row_of(seeds: Sequence[Mapping[str, Any]], space: str) -> Row:
    """The figures of one class in one space, of each seed. ``copies``: in pixels, whatever the space."""
    metrics = [of_class["spaces"][space] for of_class in seeds]
    kids = [found["kid"]["value"] for found in metrics]
    row: Row = {
        "train": metrics[0]["kid"]["n_floor"],
        "held_out": metrics[0]["kid"]["n_real"],
        "kid_1000": in_thousandths(mean_of(kids), 2),
        "std": in_thousandths(std_of(kids), 2),
        "floor_1000": in_thousandths(metrics[0]["kid"]["floor"], 2),  # of the real images alone
        "kids_1000": [in_thousandths(kid, 3) for kid in kids],
    }
    for name in ("recall", "coverage"):
        row[name] = rounded(mean_of([found[name]["value"] for found in metrics]), 3)
    for key, path in {
        "agreement": ("agreement", "value"),
        "agreement_real": ("agreement", "real", "value"),
        "copies": ("copies", "pixels", "share"),
        "copies_floor": ("copies", "pixels", "floor"),
        "near_copies": ("near_copies", "value"),
        "near_copies_real": ("near_copies", "null", "value"),
        "diversity": ("diversity", "pairwise"),
    }.items():
        row[key] = rounded(mean_of([figure_of(of_class, *path) for of_class in seeds]), 4)
    row["copies_of_seeds"] = [
        rounded(figure_of(of_class, "copies", "pixels", "share"), 4) for of_class in seeds
    ]
    return row


def figure_of(found: Mapping[str, Any] | None, *path: str) -> float | None:
    """A figure of an evaluation; None if it has none, as of a class with too few patients."""
    for key in path:
        found = None if found is None else found.get(key)
    return found  # type: ignore[return-value]


def in_thousandths(value: float | None, digits: int) -> float | None:
    return None if value is None else round(1000 * value, digits)


def ratios_of(evaluations: Mapping[str, Sequence[Found]], common_class: str) -> dict[str, float]:
    """Per preset and space: KID minus its floor, x 1000, the mean over the rare classes and seeds; per rare class the
    share of near copies in pixels. With the paper's preset also the KID of the others over its own.

    A figure is missing if a rare class has no KID, and a ratio if the paper's KID is not above 0.
    """
    found = {}
    for preset, seeds in evaluations.items():
        for space, of_seeds in kids_of(seeds, common_class).items():
            above = mean_of(
                [None if kid is None or floor is None else kid - floor for kid, floor in of_seeds]
            )
            if above is not None:
                found[f"(KID - floor) x 1000, {preset}, rare classes, {space}"] = round(1000 * above, 3)
        for name in seeds[0]:
            copies = mean_of([figure_of(one[name], "copies", "pixels", "share") for one in seeds])
            if name != common_class and copies is not None:
                found[f"copies, {preset}, {name}"] = round(copies, 4)
    if PAPER in evaluations:
        for preset in evaluations.keys() - {PAPER}:
            found |= kid_ratios(evaluations[preset], evaluations[PAPER], preset, common_class)
    return found


def kids_of(seeds: Sequence[Found], common_class: str) -> dict[str, list[tuple[Any, Any]]]:
    """``{space: (KID, floor) of each seed and rare class}``."""
    return {
        space: [
            (of_class["spaces"][space]["kid"]["value"], of_class["spaces"][space]["kid"]["floor"])
            for found in seeds
            for name, of_class in found.items()
            if name != common_class
        ]
        for space in seeds[0][common_class]["spaces"]
    }


def kid_ratios(
    ours: Sequence[Found], papers: Sequence[Found], preset: str, common_class: str
) -> dict[str, float]:
    """KID of a preset over the paper's, each the mean over the rare classes and seeds; per space."""
    ratios = {}
    of_ours, of_papers = kids_of(ours, common_class), kids_of(papers, common_class)
    for space in of_papers:
        kid, of_paper = (mean_of([one for one, _ in some[space]]) for some in (of_ours, of_papers))
        if kid is None or of_paper is None or of_paper <= 0:
            report_progress(f"{space}: no ratio of KID, of {kid} to {of_paper}")
        else:
            ratios[f"kid, {preset} over paper, rare classes, {space}"] = round(kid / of_paper, 3)
    return ratios


def picture_rows(runs: Sequence[Path], shards: ShardSet, classes: Sequence[str]) -> list[list[np.ndarray]]:
    """Per class: real images, then those of each run. The first of each, not selected."""
    generators = [[load_generator(model.parent) for model in run.glob("*/model.json")] for run in runs]
    return [
        [
            shards.images("train", name, "real", PICTURE_IMAGES),
            *(
                one.sample(name, PICTURE_IMAGES)
                for of_run in generators
                for one in of_run
                if name in one.classes
            ),
        ]
        for name in classes
    ]


def options() -> argparse.ArgumentParser:
    made = parser(
        __doc__ or "",
        "python -m benchmarks.gan.quality real --shards shards/nih --json benchmarks/results/gan_quality.json",
    )
    made.add_argument("--shards", default="shards/nih", help="set of real images with a held-out split")
    made.add_argument("--folder", type=Path, default=Path("runs/gan-quality"), help="where the runs are kept")
    made.add_argument(
        "--config",
        action="append",
        help="preset that is measured; several are combined as by train_gan.py, and the last one names it; by "
        f"default {' and '.join(CONFIGS)}",
    )
    made.add_argument(
        "--train-options", default="", help="more of train_gan.py, of this preset, as one word in quotes"
    )
    made.add_argument("--mix", help="mix of real images that the preset is trained on")
    made.add_argument("--use-unlabelled", action="store_true", help="train on unlabelled images too")
    made.add_argument("--budget", help="of each GAN; by default the preset's own")
    made.add_argument("--with-paper", action="store_true", help="also train the paper's preset")
    made.add_argument("--paper-images", type=int, default=40_000, help="of each class, seen by the paper's")
    made.add_argument("--paper-maps", type=int, default=64, help="feature maps at 4x4 of the paper's")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--split", default="val", help="held-out split that is compared with")
    made.add_argument("--classifier", type=Path, help="run of train_cls.py; by default one is trained")
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--picture", type=Path, help="PNG of real images and those of each preset")
    return made


def with_train_options(chosen: argparse.Namespace) -> argparse.Namespace:
    """``--train-options`` with the options that have a name of their own here."""
    words = shlex.split(chosen.train_options)
    words += ["--mix", chosen.mix] if chosen.mix else []
    words += ["--use-unlabelled"] if chosen.use_unlabelled else []
    words += ["--budget", chosen.budget] if chosen.budget else []
    return argparse.Namespace(**{**vars(chosen), "train_options": shlex.join(words)})


def main(words: Sequence[str]) -> None:
    chosen = with_train_options(options().parse_args(words))
    shards = ShardSet(chosen.shards)
    counts = {name: shards.samples("train", name, "real") for name in shards.classes}
    presets = [*([PAPER] if chosen.with_paper else []), Path(configs_of(chosen)[-1]).stem]
    classifier = chosen.classifier or run_of(chosen.folder, presets[0], 0) / "classifier"
    evaluations: dict[str, list[Found]] = {preset: [] for preset in presets}
    seconds: dict[str, list[float]] = {preset: [] for preset in presets}
    loads = [load()]
    for seed in range(chosen.seeds):
        for preset in presets:
            run = train(chosen, preset, seed)
            evaluations[preset].append(evaluate(chosen, run, classifier))
            seconds[preset].append(json.loads((run / SUMMARY).read_text())["seconds"])
            loads.append(load())
    if chosen.picture:
        first = [run_of(chosen.folder, preset, 0) for preset in presets]
        save_picture(chosen.picture, picture_rows(first, shards, list(counts)))
    result = {
        "device": device(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions("cxrdist", "torch", "numpy"),
        "load_1_min": loads,
        "processes": chosen.processes,
        "shards": shards.digest,
        "split": chosen.split,
        "train_images": counts,
        "train_options": chosen.train_options,
        "training_seconds": seconds,
        "rows": rows_of(evaluations),
        "ratios": ratios_of(evaluations, max(counts, key=lambda name: counts[name])),
    }
    report(result, COLUMNS, chosen.json)
