"""Read runs for a comparison from W&B: the same names, options and figures as from the runs' folders."""

from __future__ import annotations

import logging
from typing import Any

from cxrdist.errors import UserError
from cxrdist.study.compare.runs import CURVES, ComparedRun, figures_of, options_of

log = logging.getLogger(__name__)

_DATA = ("evaluation",)
"""Keys of a config that another job than the run's own has written."""


def online_runs(api: Any, project: str, group: str) -> list[ComparedRun]:
    """The finished runs of a W&B group. ``api``: wandb.Api(), or what answers like it; ``project``: ``project`` or
    ``entity/project``. Raises UserError if W&B cannot be asked, or the group has no finished run."""
    try:
        found = list(api.runs(project, filters={"group": group}))
        runs = [_read(run) for run in found if _is_finished(run)]
    except Exception as error:  # W&B raises its own kinds, and those of its libraries
        why = " ".join(str(error).split())
        raise UserError(
            f"W&B does not give the runs of {project} ({why}): name the project as entity/project with --project"
        ) from error
    if not runs:
        what = "no run is finished" if found else "there is no run"
        raise UserError(
            f"{what} in the group {group} of the W&B project {project}; see --group and --project"
        )
    return runs


def _is_finished(run: Any) -> bool:
    if run.state != "finished":
        log.warning("%s is left out: W&B says it is %s", run.name, run.state)
    return bool(run.state == "finished")


def _read(run: Any) -> ComparedRun:
    job, summary = str(run.job_type), dict(run.summary)
    config = {key: value for key, value in run.config.items() if key not in _DATA}
    return ComparedRun(
        name=run.name,
        job=job,
        options=options_of(config),
        figures=figures_of(job, summary),
        curves=_curves(run, job, summary),
        weights_sha256=str(summary.get("weights_sha256", "")),
    )


def _curves(run: Any, job: str, summary: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    metrics: tuple[str, ...] = CURVES.get(job, ())
    if job == "gan":
        models = [key.removesuffix("/loss_d") for key in summary if key.endswith("/loss_d")]
        metrics = tuple(f"{model}/{metric}" for model in models for metric in metrics)
    curves = {}
    for metric in metrics:
        rows = run.scan_history(keys=["images", metric])
        if points := [(int(row["images"]), float(row[metric])) for row in rows]:
            curves[metric] = points
    return curves
