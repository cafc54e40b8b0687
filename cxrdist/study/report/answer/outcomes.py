"""The metrics that a study is judged by, as arrays over folds and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cxrdist.study.report.reading.runs import ClsRun, Study, number
from cxrdist.study.stats.differences import Outcome

BALANCED = Outcome("balanced accuracy")
RECALL = "recall"
ACCURACY = Outcome("accuracy")
AUROC = Outcome("macro AUROC")
KEYS = {"balanced accuracy": "balanced_accuracy", RECALL: "per_class", "accuracy": "accuracy"}
"""Key in a run's summary, and in the bootstrap over patients."""

Split = Literal["val", "test"]


def outcomes(study: Study) -> list[Outcome]:
    """What arms are compared by: the balanced accuracy, and the recall of each class."""
    return [BALANCED, *(Outcome(RECALL, name) for name in study.classes)]


def value_of(run: ClsRun, outcome: Outcome, split: Split = "test") -> float | None:
    """The metric of a run, from 0 to 1; None if it has none, as a class without images."""
    metrics = run.test if split == "test" else run.val
    found = metrics.get(KEYS.get(outcome.metric, "macro_auroc"))
    return number(found.get(outcome.class_name) if isinstance(found, dict) else found)


def values(study: Study, arms: Sequence[str], outcome: Outcome, split: Split = "test") -> np.ndarray:
    """[arms, folds, seeds] float64, NaN where a run is missing; all folds that the patients were dealt into."""
    folds = max((int(run.summary["data"].get("folds") or 1) for run in study.cls), default=1)
    seeds = {seed: place for place, seed in enumerate(study.seeds)}
    found = np.full((len(arms), folds, len(seeds)), np.nan)
    for run in study.cls:
        value = value_of(run, outcome, split)
        if run.arm in arms and value is not None:
            found[arms.index(run.arm), run.fold or 0, seeds[run.seed]] = value
    return found


def mean_over_folds(of_runs: np.ndarray) -> float | None:
    """[folds, seeds] float64 -> the mean over folds of the mean over seeds, without NaN; None without values."""
    means = [row[~np.isnan(row)].mean() for row in of_runs if not np.isnan(row).all()]
    return float(np.mean(means)) if means else None
