"""Collect the finished runs in folders, with the reason for each skipped run, and check that they are comparable.

folders -> search (recursive) -> summary.json, config.yaml, metrics.jsonl -> ClsRun | GanRun | SynthRun -> Study
study.json of the study that the runs belong to -> Description ─┘
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cxrdist.errors import UserError, from_os
from cxrdist.files import read_json, slug
from cxrdist.study.report.reading.description import STUDY, read_description
from cxrdist.study.report.reading.runs import (
    PAPER_MIXES,
    ClsRun,
    GanModel,
    GanRun,
    Study,
    SynthRun,
    relative,
)

_CLS_KEYS = ("mix", "seed", "classes", "counts", "shards", "data", "metrics", "best_images", "images_seen")


_METRICS = ("balanced_accuracy", "accuracy", "macro_auroc", "per_class", "n", "confusion")
_FEWEST_FOLDS = 3
"""As of ``cxrdist import --folds``: train, val and test are different ones."""


def collect(folders: Sequence[Path]) -> Study:
    """Read run folders, and folders that contain runs at any depth.

    The study.json of a study is found in its folder, which the runs or their folds lie in. Raises UserError for a
    folder without a run, an invalid file, runs on different real sets or classes, and two runs of the same arm, fold
    and seed (a mean over seeds would count the seed twice).
    """
    cls: list[ClsRun] = []
    gan: list[GanRun] = []
    synth: list[SynthRun] = []
    skipped: list[str] = []
    seen: set[Path] = set()
    for given in folders:
        if not given.is_dir():
            raise UserError(
                f"{given}: no such folder; name run folders, or a folder that contains them (runs/demo)"
            )
        found = list(run_folders(given))
        if not found:
            raise UserError(
                f"{given}: contains no run (no summary.json in it or below); name run folders, or a folder that "
                "contains them"
            )
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            run = _read_run(folder)
            if isinstance(run, ClsRun):
                cls.append(run)
            elif isinstance(run, GanRun):
                gan.append(run)
            elif isinstance(run, SynthRun):
                synth.append(run)
            elif run:
                skipped.append(run)
    if not cls and not gan:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise UserError(f"no finished classifier or GAN run in {', '.join(map(str, folders))}{why}")
    _comparable(cls)
    described, ignored = read_description([run.folder for run in cls])
    order = described.arms if described else PAPER_MIXES
    cls.sort(key=lambda run: (_rank(run.arm, order), run.arm, -1 if run.fold is None else run.fold, run.seed))
    return Study(
        cls=tuple(cls),
        gan=tuple(gan),
        synth=tuple(synth),
        skipped=(*skipped, *ignored),
        described=described,
    )


def _rank(arm: str, order: Sequence[str]) -> int:
    return order.index(arm) if arm in order else len(order)


def run_folders(folder: Path) -> Iterable[Path]:
    """Run folders at or below ``folder``. A run is not searched further: the folders of a GAN run are its models."""
    if (folder / "summary.json").is_file() and _job(folder) in ("cls", "gan", "gan-model", "synth"):
        yield folder
        return
    if (folder / "summary.json").is_file() or (folder / "metrics.jsonl").is_file():
        yield folder
    try:
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError as error:
        raise from_os(error) from error
    # The runs of the search for learning rates are no results: their arms and seeds have other runs.
    left_out = {"wandb", "search"} if (folder / STUDY).is_file() else {"wandb"}
    for child in below:
        if not child.name.startswith(".") and child.name not in left_out:
            yield from run_folders(child)


def _job(folder: Path) -> str:
    return str(read_summary(folder).get("job", ""))


def _read_run(folder: Path) -> ClsRun | GanRun | SynthRun | str:
    """The run, or the reason for skipping it; "" for a folder of another job, which is not reported."""
    if not (folder / "summary.json").is_file():
        return f"{relative(folder)} is skipped: it has no summary.json, so it was interrupted or is still running"
    summary = read_summary(folder)
    job, status = summary.get("job"), summary.get("status")
    if job in ("cls", "gan") and status != "finished":
        return f"{relative(folder)} is skipped: its status is {status!r}, not 'finished'"
    if job == "gan":
        return _gan_run(folder, summary)
    if job == "cls":
        return _cls_run(folder, summary)
    if job == "synth" and status == "finished":
        return SynthRun(folder=folder, summary=summary)
    return ""


def _gan_run(folder: Path, summary: dict[str, Any]) -> GanRun:
    _need(folder, summary, ("models", "shards"))
    models = []
    for name, figures in summary["models"].items():
        samples = folder / slug(name) / "samples"
        grids = {
            of: max((samples / slug(of)).glob("images-*.png"), default=None) for of in figures["classes"]
        }
        models.append(GanModel(name=name, summary=figures, grids=grids))
    config = _read_config(folder) if (folder / "config.yaml").is_file() else {}
    return GanRun(folder=folder, config=config, summary=summary, models=tuple(models))


def _cls_run(folder: Path, summary: dict[str, Any]) -> ClsRun:
    _need(folder, summary, _CLS_KEYS)
    for key in ("data", "metrics", "shards"):
        _need(folder, summary[key], ("val", "test") if key == "metrics" else (), f"{key}: ")
    for split, keys in (("val", _METRICS[:1]), ("test", _METRICS)):
        _need(folder, summary["metrics"][split], keys, f"metrics: {split}: ")
    _check_numbers(folder, summary)
    return ClsRun(
        folder=folder,
        config=_read_config(folder),
        summary=summary,
        curve=_read_curve(folder / "metrics.jsonl"),
    )


def _check_numbers(folder: Path, summary: dict[str, Any]) -> None:
    seed, fold, folds = summary["seed"], summary["data"].get("fold"), summary["data"].get("folds")
    known = {"seed": seed} | {name: n for name, n in (("fold", fold), ("folds", folds)) if n is not None}
    wrong = [name for name, value in known.items() if not isinstance(value, int) or value < 0]
    if not wrong and folds is not None and folds < _FEWEST_FOLDS:
        wrong = ["folds"]
    if not wrong and fold is not None and fold >= (folds or 1):
        wrong = ["fold"]
    if wrong:
        raise UserError(
            f"{folder / 'summary.json'}: {wrong[0]}: cannot be {known[wrong[0]]}; run the job again, or exclude "
            "this folder"
        )


def _need(folder: Path, found: Any, keys: Iterable[str], inside: str = "") -> None:
    if not isinstance(found, dict):
        raise UserError(
            f"{folder / 'summary.json'}: {inside}not a JSON object; run the job again, or exclude this folder"
        )
    missing = [f"{inside}{key}" for key in keys if key not in found]
    if missing:
        raise UserError(
            f"{folder / 'summary.json'}: {', '.join(missing)} missing, as if written by another version of cxrdist; "
            "run the job again, or exclude this folder"
        )


def read_summary(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "summary.json")
    if not isinstance(content, dict):
        raise UserError(
            f"{folder / 'summary.json'}: not a JSON object; run the job again, or exclude this folder"
        )
    return content


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os(error) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({error}); run the job again, or exclude this folder") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a YAML mapping; run the job again, or exclude this folder")
    return content


def _read_curve(path: Path) -> tuple[dict[str, float], ...]:
    if not path.is_file():
        return ()
    # A resumed run may have written some lines twice; the later one belongs to the kept weights.
    by_images: dict[int, dict[str, float]] = {}
    with path.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, start=1):
            try:
                point = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise UserError(f"{path}:{n}: not JSON ({error}); run the job again") from error
            if {"images", "epoch", "val/balanced_accuracy"} <= point.keys():
                by_images[int(point["images"])] = point
    return tuple(by_images[images] for images in sorted(by_images))


def _comparable(runs: Sequence[ClsRun]) -> None:
    by_arm: dict[tuple[str, int | None, int], ClsRun] = {}
    first_of_fold: dict[int | None, ClsRun] = {}
    for run in runs:
        first = first_of_fold.setdefault(run.fold, run)
        for what, ours, theirs in (
            ("class names", run.classes, runs[0].classes),
            ("folds", run.summary["data"].get("folds"), runs[0].summary["data"].get("folds")),
            ("real set (digest)", run.summary["shards"].get("real"), first.summary["shards"].get("real")),
        ):
            if ours != theirs:
                raise UserError(
                    f"{first.folder} and {run.folder} differ in the {what}: {_brief(theirs)} and {_brief(ours)}; "
                    "write separate reports"
                )
        twin = by_arm.setdefault((run.arm, run.fold, run.seed), run)
        if twin is not run:
            raise UserError(
                f"{twin.folder} and {run.folder} are both {run.arm} with seed {run.seed}"
                f"{'' if run.fold is None else f' on fold {run.fold}'}; exclude one of them"
            )


def _brief(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)[:12]
