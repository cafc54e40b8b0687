"""What is expected of the arms of a study, from a pilot: finished classifiers of the study, or of another folder.

They give the recall of each class, and the spread of the balanced accuracy between seeds and between folds. Without
any, both are assumed, and said to be.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.errors import UserError
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.report.reading.runs import number
from cxrdist.study.report.reading.search import read_summary, run_folders
from cxrdist.study.stats.power import Spread

ASSUMED_RECALL = 0.7
ASSUMED_SEED_SD = 0.02
"""Between seeds of one arm, in the demo's set and budget: 0.006 to 0.03."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What is expected of an arm."""

    recalls: Mapping[str, float]
    """Of each class, between 0 and 1."""
    spread: Spread
    """Of the balanced accuracy."""
    basis: str
    """What it rests on."""


def pilot_of(config: StudyConfig, patients: Mapping[str, int]) -> Pilot:
    """From the finished classifiers in the folder of the study, or in ``config.pilot``. Raises UserError if there is
    none in ``config.pilot``.

    ``patients``: test patients of each class. A measured recall of 0 or 1 on few of them is no certainty: one success
    and one failure are added to each (Laplace's rule of succession).
    """
    classes = list(patients)
    folder = config.folder if config.pilot is None else Path(config.pilot)
    runs = _finished(folder, classes)
    if not runs and config.pilot is not None:
        raise UserError(f"pilot: {folder} has no finished classifier of the classes {', '.join(classes)}")
    if not runs:
        return Pilot(
            recalls=dict.fromkeys(classes, ASSUMED_RECALL),
            spread=Spread(seed_sd=ASSUMED_SEED_SD),
            basis=f"assumptions, since no classifier is finished: recalls of {ASSUMED_RECALL:.0%}, and a standard "
            f"deviation of {100 * ASSUMED_SEED_SD:g} points between seeds",
        )
    means = {name: float(np.mean([_recalls(run)[name] for run in runs])) for name in classes}
    recalls = {name: (means[name] * count + 1) / (count + 2) for name, count in patients.items()}
    seed_sd, fold_sd = _spread(runs, recalls)
    measured = f"{len(runs)} finished classifier{'s' if len(runs) != 1 else ''} in {folder}"
    if seed_sd is None:
        measured += f"; a standard deviation of {100 * ASSUMED_SEED_SD:g} points between seeds is assumed"
    return Pilot(
        recalls=recalls,
        spread=Spread(seed_sd=ASSUMED_SEED_SD if seed_sd is None else seed_sd, fold_sd=fold_sd),
        basis=measured,
    )


def _finished(folder: Path, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Summaries of the finished classifiers of these classes, without those of a search of learning rates."""
    runs = run_folders(folder) if folder.is_dir() else ()
    # As for the report, the classifier that evaluates a GAN, below its run, is none.
    summaries = [
        read_summary(run)
        for run in runs
        if "search" not in run.relative_to(folder).parts and (run / "summary.json").is_file()
    ]
    return [
        summary
        for summary in summaries
        if summary.get("job") == "cls" and summary.get("status") == "finished" and _has(summary, classes)
    ]


def _has(summary: dict[str, Any], classes: Sequence[str]) -> bool:
    """Whether a classifier has what a pilot is read for."""
    try:
        values = [_recalls(summary).get(name) for name in classes]
        values.append(summary["metrics"]["test"]["balanced_accuracy"])
        return None not in map(number, values) and {"mix", "data"} <= {*summary}
    except (KeyError, TypeError, AttributeError):
        return False


def _recalls(summary: dict[str, Any]) -> dict[str, float]:
    of_classes: dict[str, float] = summary["metrics"]["test"]["per_class"]
    return of_classes


def _of_patients(run: dict[str, Any], recalls: Mapping[str, float]) -> float:
    """The variance of a classifier's balanced accuracy that its few test images explain; 0 if their number is
    unknown. A patient with several counts several times, so it is rather too small."""
    counts = run["metrics"]["test"].get("n") or {}
    if not all(counts.get(name) for name in recalls):
        return 0.0
    return sum(recall * (1 - recall) / counts[name] for name, recall in recalls.items()) / len(recalls) ** 2


def _spread(runs: Sequence[dict[str, Any]], recalls: Mapping[str, float]) -> tuple[float | None, float]:
    """Standard deviations of the balanced accuracy: between seeds, pooled over arms and folds (None without two
    seeds), and between folds beyond what seeds and few test patients explain, pooled over arms."""
    by_arm: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_arm[str(run["mix"])][run["data"].get("fold")].append(run["metrics"]["test"]["balanced_accuracy"])
    groups = [values for folds in by_arm.values() for values in folds.values()]
    seed_variance = _pooled(groups)
    means = [[float(np.mean(values)) for values in folds.values()] for folds in by_arm.values()]
    fold_variance = _pooled(means)
    if fold_variance is None:
        return (None if seed_variance is None else math.sqrt(seed_variance)), 0.0
    seeds = float(np.mean([len(values) for values in groups]))
    explained = (seed_variance or 0.0) / seeds + float(np.mean([_of_patients(run, recalls) for run in runs]))
    return (
        None if seed_variance is None else math.sqrt(seed_variance),
        math.sqrt(max(0.0, fold_variance - explained)),
    )


def _pooled(groups: Sequence[Sequence[float]]) -> float | None:
    """Variance within groups; None if no group has two values."""
    degrees = sum(len(group) - 1 for group in groups if len(group) > 1)
    if not degrees:
        return None
    return sum(float(np.var(group)) * len(group) for group in groups if len(group) > 1) / degrees
