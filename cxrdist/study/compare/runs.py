"""A run as `cxrdist compare` sees it, the same whether it is read from files or from W&B."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError

JOBS = ("cls", "gan")
BESIDE = ("_low", "_high", "_floor", "_real", "_null")
"""Endings of the keys that stand beside a figure: its interval, and the same figure of real images."""
CURVES = {"cls": ("val/balanced_accuracy", "train/loss"), "gan": ("loss_d", "loss_g")}
"""Metrics whose curves are drawn; those of a GAN are each model's."""

_NOT_COMPARED = ("run", "tracking", "loader", "out")
_GAN_FIGURE = re.compile(
    r"[^/]+/(loss_d|loss_g|d_accuracy|kid_train|copy_rate|agreement|near_copies|diversity/.*"
    r"|(fid|kid|precision|recall|density|coverage)/.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One finished run."""

    name: str
    job: str
    options: dict[str, str]
    """What the run was made with, as text: ``{"data.image_size": "64"}``."""
    figures: dict[str, float]
    """Final metrics under the flat keys of W&B (run.tracking.figures), with ``_low`` and ``_high`` beside them."""
    curves: dict[str, list[tuple[int, float]]]
    """``{metric: [(images seen, value)]}``."""
    weights_sha256: str
    folder: Path | None = None
    """None if it was read from W&B."""


def options_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The config of a run (run.tracking.description.config_of) as flat text, without what says where it lies."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if not prefix and (key in _NOT_COMPARED or key.startswith("_")):
            continue
        if isinstance(value, Mapping):
            flat |= options_of(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)[:12] if re.fullmatch(r"[0-9a-f]{40,}\+?", str(value)) else str(value)


def figures_of(job: str, flat: Mapping[str, Any]) -> dict[str, float]:
    """The final metrics among the flat keys of a run's summary."""
    return {
        key: float(value)
        for key, value in flat.items()
        if isinstance(value, int | float) and _is_figure(job, _base(key))
    }


def _is_figure(job: str, key: str) -> bool:
    if job == "cls":
        return key.startswith("test/") and not key.startswith("test/n/")
    return _GAN_FIGURE.fullmatch(key) is not None


def _base(key: str) -> str:
    return next((key.removesuffix(end) for end in BESIDE if key.endswith(end)), key)


def comparable(runs: Sequence[ComparedRun], job: str | None) -> list[ComparedRun]:
    """The runs in the order of their names, each with a name of its own. ``job``: only its runs.

    Raises UserError if there are fewer than two, or runs of several jobs.
    """
    jobs = sorted({run.job for run in runs if run.job in JOBS})
    if job is None and len(jobs) > 1:
        raise UserError(
            f"{_listed(runs)}: runs of several jobs; name runs of one, or choose with --job cls or --job gan"
        )
    chosen = [run for run in runs if run.job == (job or (jobs[0] if jobs else None))]
    if len(chosen) < 2:
        others = [run for run in runs if run not in chosen]
        also = f" (beside {_listed(others)})" if others else ""
        found = (
            f"one finished run, {chosen[0].name}" if chosen else f"no finished run of {job or 'cls or gan'}"
        )
        raise UserError(f"found {found}{also}: name two runs or more to compare")
    chosen.sort(key=lambda run: (run.name, run.weights_sha256))
    named, seen = [], dict[str, int]()
    for run in chosen:
        seen[run.name] = seen.get(run.name, 0) + 1
        named.append(replace(run, name=run.name if seen[run.name] == 1 else f"{run.name} #{seen[run.name]}"))
    return named


def _listed(runs: Sequence[ComparedRun]) -> str:
    return ", ".join(f"{run.name} ({run.job})" for run in runs)
