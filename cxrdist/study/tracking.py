"""The W&B run of a study: the mean test metrics of each arm, made from its classifiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cxrdist.run.folder import environment, joint_digest
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.description import Description, without_paths
from cxrdist.run.tracking.start import start
from cxrdist.study.report.reading.runs import ClsRun, Study

METRICS = ("accuracy", "balanced_accuracy", "macro_auroc")


def track_study(
    study: Study, folder: Path, name: str, tracking: TrackingConfig, options: dict[str, Any]
) -> None:
    """Log a finished study. ``folder``: of its runs; ``options``: of the study, as JSON types."""
    tracker = start(
        folder,
        dataclasses.replace(tracking, group=tracking.group or name),
        Description(
            job="study",
            name=f"study-{name}",
            tags=("study", *study.arms),
            config=without_paths({**options, **environment()}),
        ),
    )
    for run in study.cls:
        tracker.use_artifact("classifier", run.summary["weights_sha256"], run.name)
    classifiers = {run.name: run.summary for run in study.cls}
    tracker.log_artifact("study", joint_digest(classifiers, "weights_sha256"), name)
    tracker.finish({"metrics": {arm: {"test": means(study.of(arm))} for arm in study.arms}})


def means(runs: Sequence[ClsRun]) -> dict[str, float]:
    """The mean of each test metric over runs, of those that have a value in all of them."""
    found: dict[str, list[Any]] = {metric: [run.test.get(metric) for run in runs] for metric in METRICS}
    return {metric: round(fmean(values), 6) for metric, values in found.items() if None not in values}
