"""Where each number comes from: digests, versions, devices and times of every run."""

from __future__ import annotations

from typing import Any

from cxrdist.study.report.answer.words import joined
from cxrdist.study.report.charts.style import tint
from cxrdist.study.report.page.generators import model_figures
from cxrdist.study.report.page.words import NONE, commit, count, short, time
from cxrdist.study.report.reading.runs import ClsRun, GanRun, Study, relative


def classifier_row(run: ClsRun, study: Study) -> dict[str, Any]:
    summary = run.summary
    return {
        "run": relative(run.folder),
        "arm": run.arm,
        "tint": tint(study, run.arm),
        "fold": NONE if run.fold is None else str(run.fold),
        "seed": run.seed,
        "kept": count(summary["best_images"]),
        "synthetic": short(summary["shards"].get("synthetic")),
        "order": short(summary.get("order_sha256")),
        "weights": short(summary.get("weights_sha256")),
        **_machine(summary),
    }


def gan_row(run: GanRun) -> dict[str, Any]:
    models = [{"name": model.name, **model_figures(model.summary)} for model in run.models]
    return {"run": relative(run.folder), **_machine(run.summary), "models": models}


def lineage_rows(study: Study) -> list[dict[str, str]]:
    """Each synthetic set with its generators and the real set that it descends from."""
    return [
        {
            "run": relative(run.folder),
            "synthetic": short(run.summary.get("shards", {}).get("synthetic")),
            "real": short(run.summary.get("shards", {}).get("real")),
            "generators": ", ".join(dict.fromkeys(_generators(run.summary.get("generators")))) or NONE,
            "images": count(run.summary.get("images_made")),
            "time": time(run.summary.get("seconds")),
        }
        for run in study.synth
    ]


def _generators(found: object) -> list[str]:
    """Digests of the weights, whether they are given by class or as a list."""
    if isinstance(found, dict):
        return [digest for value in found.values() for digest in _generators(value)]
    if isinstance(found, list):
        return [digest for value in found for digest in _generators(value)]
    return [short(found)] if isinstance(found, str) and len(found) == 64 else []


def versions(study: Study) -> str:
    """The versions that all runs name; those that differ with all their values."""
    found: dict[str, dict[str, None]] = {}
    summaries = [
        *(run.summary for run in study.cls),
        *(run.summary for run in study.gan),
        *(run.summary for run in study.synth),
    ]
    for summary in summaries:
        for name, version in summary.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return ", ".join(f"{name} {' or '.join(values)}" for name, values in sorted(found.items())) or NONE


def total_time(study: Study) -> str:
    """The time of all jobs of each kind together."""
    parts = []
    for kind, runs in (("classifiers", study.cls), ("GANs", study.gan), ("syntheses", study.synth)):
        known = [run.summary.get("seconds") for run in runs]
        seconds = [value for value in known if isinstance(value, int | float)]
        if seconds:
            parts.append(f"{len(runs)} {kind if len(runs) != 1 else _ONE[kind]} {time(sum(seconds))}")
    return joined(parts) if parts else NONE


_ONE = {"classifiers": "classifier", "GANs": "GAN", "syntheses": "synthesis"}


def _machine(summary: dict[str, Any]) -> dict[str, str]:
    return {
        "images": count(summary.get("images_seen")),
        "steps": count(summary.get("steps")),
        "ranks": count(summary.get("world_size")),
        "device": str(summary.get("device") or NONE),
        "time": time(summary.get("seconds")),
        "real": short(summary["shards"].get("real")),
        "commit": commit(summary.get("git_commit")),
    }
