"""The W&B run of a study: its classifiers' test metrics and their means of each arm, as tables, and its charts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cxrdist.run.folder import environment, joint_digest
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.description import Description, without_paths
from cxrdist.run.tracking.figures import flat_metrics
from cxrdist.run.tracking.start import start
from cxrdist.study.report.reading.runs import ClsRun, Study

METRICS = ("accuracy", "balanced_accuracy", "macro_auroc")
PER_CLASS = "per_class/"
DIGITS = 6


def track_study(
    study: Study,
    folder: Path,
    name: str,
    tracking: TrackingConfig,
    options: dict[str, Any],
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Log a finished study. ``folder``: of its runs; ``options``: of the study, as JSON types; ``pictures``: ``{name:
    PNG file}`` of charts of its results."""
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
    tracker.table("study/runs", run_rows(study.cls))
    tracker.table("study/arms", arm_rows(study))
    for title, path in (pictures or {}).items():
        tracker.chart(title, path)
    tracker.finish({"metrics": {arm: {"test": means(study.of(arm))} for arm in study.arms}})


def means(runs: Sequence[ClsRun]) -> dict[str, float]:
    """The mean of each test metric over runs, of those that have a value in all of them."""
    found: dict[str, list[Any]] = {metric: [run.test.get(metric) for run in runs] for metric in METRICS}
    return {metric: round(fmean(values), DIGITS) for metric, values in found.items() if None not in values}


def run_rows(runs: Sequence[ClsRun]) -> list[dict[str, Any]]:
    """A row per classifier: arm, fold, seed, and its metrics on test with the ends of their intervals."""
    found = [_metrics(run) for run in runs]
    columns = _union(found)
    return [
        {"arm": run.arm, "fold": run.fold, "seed": run.seed, **{name: of.get(name) for name in columns}}
        for run, of in zip(runs, found, strict=True)
    ]


def arm_rows(study: Study) -> list[dict[str, Any]]:
    """A row per arm: the number of its runs, and the mean of each metric that all of them have."""
    rows = []
    columns = [name for name in _union(map(_metrics, study.cls)) if not name.endswith(("_low", "_high"))]
    for arm in study.arms:
        found = [_metrics(run) for run in study.of(arm)]
        shared = {
            name: round(fmean(of[name] for of in found), DIGITS) if all(name in of for of in found) else None
            for name in columns
        }
        rows.append({"arm": arm, "runs": len(found), **shared})
    return rows


def _metrics(run: ClsRun) -> dict[str, float]:
    """The metrics on test as flat keys: those of all classes, and the recall of each class."""
    flat = flat_metrics(run.test)
    return {
        f"test/{key}": value for key, value in flat.items() if "/" not in key or key.startswith(PER_CLASS)
    }


def _union(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for of in found for name in of))
