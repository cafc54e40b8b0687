"""The finished runs of a study, as the report reads them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAPER_MIXES = ("DS1", "DS2", "DS3")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClsRun:
    """One finished classifier run."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    curve: tuple[dict[str, float], ...]
    """The lines of metrics.jsonl with validation metrics, by images seen; one per number of images."""

    @property
    def arm(self) -> str:
        """The arm of the study, by default the mix."""
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

    @property
    def val(self) -> dict[str, Any]:
        """Metrics of the kept checkpoint on the validation split."""
        metrics: dict[str, Any] = self.summary["metrics"]["val"]
        return metrics

    @property
    def used_synthetic(self) -> bool:
        return bool(self.summary["shards"].get("synthetic"))

    @property
    def name(self) -> str:
        """``DS3-seed0``, or ``DS3-fold2-seed0``."""
        return f"{self.arm}{'' if self.fold is None else f'-fold{self.fold}'}-seed{self.seed}"


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
class SynthRun:
    """One finished synthesis."""

    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a study was meant to compare, from its study.json."""

    folder: Path
    """The folder of study.json."""
    name: str
    reference: str
    margin_points: float
    arms: tuple[str, ...]
    """In the order of the study, whether they were run or not."""
    synthetic: frozenset[str]
    """The arms that use synthetic images."""
    about: dict[str, str]
    """A sentence on each arm."""
    chosen_rates: dict[str, float]
    """The learning rate of each arm that was searched for or given."""
    searched_rates: tuple[float, ...]
    budget: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Runs on the same real set and classes, so that their results are comparable."""

    cls: tuple[ClsRun, ...]
    """By arm (in the order of study.json; without one the paper's three first), then fold and seed."""
    gan: tuple[GanRun, ...]
    synth: tuple[SynthRun, ...] = ()
    skipped: tuple[str, ...] = ()
    """A sentence for each run that was found but not used."""
    described: Description | None = field(default=None)
    """None if there is no study.json: then the arms of the runs are the study."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have runs."""
        return tuple(dict.fromkeys(run.arm for run in self.cls))

    @property
    def planned(self) -> tuple[str, ...]:
        """The arms that have runs, then those that the study names and that have none."""
        named = self.described.arms if self.described else ()
        return tuple(dict.fromkeys((*self.arms, *named)))

    @property
    def synthetic(self) -> tuple[str, ...]:
        """The arms that use synthetic images: as study.json says, else those of which a run has used some."""
        named = self.described.synthetic if self.described else frozenset()
        used = {run.arm for run in self.cls if run.used_synthetic}
        return tuple(arm for arm in self.planned if arm in named or arm in used)

    @property
    def real_only(self) -> tuple[str, ...]:
        """The arms with runs of which none has used synthetic images."""
        return tuple(arm for arm in self.arms if arm not in self.synthetic)

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The folds that have runs."""
        return tuple(sorted({run.fold for run in self.cls}, key=lambda fold: -1 if fold is None else fold))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.cls}))

    @property
    def classes(self) -> tuple[str, ...]:
        if self.cls:
            return self.cls[0].classes
        return tuple(dict.fromkeys(name for run in self.gan for model in run.models for name in model.grids))

    def of(self, arm: str) -> tuple[ClsRun, ...]:
        """The runs of one arm, one per fold and seed."""
        return tuple(run for run in self.cls if run.arm == arm)


def relative(path: Path) -> str:
    """The path relative to the current folder."""
    return Path(os.path.relpath(path)).as_posix()


def number(value: object) -> float | None:
    """A value that may be missing: None for None and NaN (a class without test images)."""
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)
