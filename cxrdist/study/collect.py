"""Collect the finished runs in folders, with the reason for each skipped run, and check that they are comparable.

folders -> search (recursive) -> summary.json, config.yaml, metrics.jsonl -> ClsRun | GanRun -> Study
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxrdist.errors import UserError, from_os
from cxrdist.files import read_json, slug

PAPER_MIXES = ("DS1", "DS2", "DS3")
_CLS_KEYS = ("mix", "seed", "classes", "counts", "shards", "data", "metrics", "best_images", "images_seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClsRun:
    """One finished classifier run."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    curve: tuple[dict[str, float], ...]
    """The lines of metrics.jsonl with validation metrics, by images seen; one per number of images."""

    @property
    def mix(self) -> str:
        return str(self.summary["mix"])

    @property
    def seed(self) -> int:
        return int(self.summary["seed"])

    @property
    def fold(self) -> int | None:
        """Number of its fold in a cross-validation; None without folds."""
        fold = self.summary["data"].get("fold")
        return None if fold is None else int(fold)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.summary["classes"])

    @property
    def test(self) -> dict[str, Any]:
        """Metrics of the kept checkpoint on the test split."""
        metrics: dict[str, Any] = self.summary["metrics"]["test"]
        return metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class GanModel:
    """One GAN, of one or several classes."""

    name: str
    summary: dict[str, Any]
    grids: dict[str, Path | None]
    """The newest sample grid of each of its classes, None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GanRun:
    """One finished run of train_gan.py: a GAN per class, or one of all classes."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    models: tuple[GanModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Runs on the same real set and classes, so that their results are comparable."""

    cls: tuple[ClsRun, ...]
    """Ordered by mix (the paper's three first), then seed."""
    gan: tuple[GanRun, ...]
    skipped: tuple[str, ...]
    """A sentence for each run that was found but not used."""

    @property
    def mixes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.mix for run in self.cls))

    @property
    def classes(self) -> tuple[str, ...]:
        if self.cls:
            return self.cls[0].classes
        return tuple(dict.fromkeys(name for run in self.gan for model in run.models for name in model.grids))

    def of(self, mix: str) -> tuple[ClsRun, ...]:
        """The runs of one mix, one per seed."""
        return tuple(run for run in self.cls if run.mix == mix)


def collect(folders: Sequence[Path]) -> Study:
    """Read run folders, and folders that contain runs at any depth.

    Raises UserError for a folder without a run, an invalid file, runs on different real sets or classes, and two
    runs of the same mix and seed (a mean over seeds would count the seed twice).
    """
    cls: list[ClsRun] = []
    gan: list[GanRun] = []
    skipped: list[str] = []
    seen: set[Path] = set()
    for given in folders:
        if not given.is_dir():
            raise UserError(
                f"{given}: no such folder; name run folders, or a folder that contains them (runs/demo)"
            )
        found = list(_search(given))
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
            elif run:
                skipped.append(run)
    if not cls and not gan:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise UserError(f"no finished classifier or GAN run in {', '.join(map(str, folders))}{why}")
    _comparable(cls)
    cls.sort(key=lambda run: (_mix_rank(run.mix), run.mix, run.seed))
    return Study(cls=tuple(cls), gan=tuple(gan), skipped=tuple(skipped))


def relative(path: Path) -> str:
    """The path relative to the current folder."""
    return Path(os.path.relpath(path)).as_posix()


def number(value: object) -> float | None:
    """A value that may be missing: None for None and NaN (a class without test images)."""
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def _mix_rank(mix: str) -> int:
    return PAPER_MIXES.index(mix) if mix in PAPER_MIXES else len(PAPER_MIXES)


def _search(folder: Path) -> Iterable[Path]:
    """Run folders at or below ``folder``. A run is not searched further: the folders of a GAN run are its models."""
    if (folder / "summary.json").is_file() and _job(folder) in ("cls", "gan", "gan-model"):
        yield folder
        return
    if (folder / "summary.json").is_file() or (folder / "metrics.jsonl").is_file():
        yield folder
    try:
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError as error:
        raise from_os(error) from error
    for child in below:
        if not child.name.startswith(".") and child.name != "wandb":
            yield from _search(child)


def _job(folder: Path) -> str:
    return str(_read_summary(folder).get("job", ""))


def _read_run(folder: Path) -> ClsRun | GanRun | str:
    """The run, or the reason for skipping it; "" for a folder of another job, which is not reported."""
    if not (folder / "summary.json").is_file():
        return f"{relative(folder)} is skipped: it has no summary.json, so it was interrupted or is still running"
    summary = _read_summary(folder)
    job, status = summary.get("job"), summary.get("status")
    if job in ("cls", "gan") and status != "finished":
        return f"{relative(folder)} is skipped: its status is {status!r}, not 'finished'"
    if job == "gan":
        return _gan_run(folder, summary)
    if job == "cls":
        return _cls_run(folder, summary)
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
    return ClsRun(
        folder=folder,
        config=_read_config(folder),
        summary=summary,
        curve=_read_curve(folder / "metrics.jsonl"),
    )


def _need(folder: Path, summary: dict[str, Any], keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in summary]
    if missing:
        raise UserError(
            f"{folder / 'summary.json'}: {', '.join(missing)} missing, as if written by another version of cxrdist; "
            "run the job again, or exclude this folder"
        )


def _read_summary(folder: Path) -> dict[str, Any]:
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
        twin = by_arm.setdefault((run.mix, run.fold, run.seed), run)
        if twin is not run:
            raise UserError(
                f"{twin.folder} and {run.folder} are both {run.mix} with seed {run.seed}"
                f"{'' if run.fold is None else f' on fold {run.fold}'}; exclude one of them"
            )


def _brief(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)[:12]
