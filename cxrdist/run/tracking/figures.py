"""The figures of a finished job as flat keys, the same in W&B and in the tables of `cxrdist compare`.

test/accuracy, test/per_class/<class>, test/balanced_accuracy_low   a classifier's; _low and _high: the interval
<model>/loss_d, <class>/kid/<space>, <class>/agreement, mean/...    a GAN's, and those of its evaluation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INTERVALS = "intervals"


def flat_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a job's summary and, as flat keys, its metrics. Nested values that are no metrics are left
    out: they are in the config."""
    plain = {
        k: v for k, v in summary.items() if isinstance(v, str | int | float) and k not in ("job", "status")
    }
    return plain | flat_metrics(summary.get("metrics", {}))


def flat_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics -> ``{"a/b/c": value}``, without null and lists (a confusion matrix). ``intervals``:
    ``{metric: [low, high]}`` becomes ``metric_low`` and ``metric_high`` beside the metric."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if key == INTERVALS:
            flat |= _ends(value, prefix)
        elif isinstance(value, Mapping):
            flat |= flat_metrics(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{key}"] = value
    return flat


def _ends(intervals: Mapping[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, ends in intervals.items():
        if isinstance(ends, Mapping):
            flat |= _ends(ends, f"{prefix}{key}/")
        elif ends is not None and None not in ends:
            flat |= {f"{prefix}{key}_low": ends[0], f"{prefix}{key}_high": ends[1]}
    return flat


def evaluation_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of ``evaluation.json`` (gan/evaluation/evaluate.py) as flat keys: ``<class>/kid/<space>`` with
    ``_floor``, ``_low`` and ``_high``; ``<class>/agreement`` with ``_real``; ``<class>/near_copies`` with ``_null``;
    ``<class>/diversity/pairwise``; the same of ``overall`` and ``mean``."""
    classes = {name: found for model in result["models"].values() for name, found in model["classes"].items()}
    spaces = {**{name: found["spaces"] for name, found in classes.items()}, "overall": result["overall"]}
    flat: dict[str, float] = {}
    for name, of_spaces in spaces.items():
        for space, metrics in of_spaces.items():
            for metric, found in metrics.items():
                flat |= _estimate(f"{name}/{metric}/{space}", found, ("floor",))
    for name, found in {**classes, "mean": result["mean_over_classes"]}.items():
        flat |= _estimate(f"{name}/agreement", found["agreement"], ("real",))
        flat |= _estimate(f"{name}/near_copies", found["near_copies"], ("null",))
        flat |= flat_metrics(found["diversity"], f"{name}/diversity/")
    return flat


def _estimate(key: str, found: Mapping[str, Any], beside: tuple[str, ...]) -> dict[str, float]:
    """A value with its interval and the values beside it (which may have an interval of their own)."""
    low, high = found.get("interval") or (None, None)
    flat = {key: found["value"], f"{key}_low": low, f"{key}_high": high}
    for name in beside:
        other = found.get(name)
        flat[f"{key}_{name}"] = other["value"] if isinstance(other, Mapping) else other
    return {name: value for name, value in flat.items() if value is not None}
