"""Numbers and names as the page and its tables write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxrdist.console import duration
from cxrdist.study.report.reading.runs import ClsRun, GanRun, relative

NONE = "–"
DIGITS = 12
"""Digits of a digest or commit in tables."""


def span(least: float, most: float, form: str = ".1f") -> str:
    low, high = format(least, form), format(most, form)
    return low if low == high else f"{low} to {high}"


def count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else NONE


def time(seconds: object) -> str:
    return duration(seconds) if isinstance(seconds, int | float) else NONE


def short(digest: object) -> str:
    return str(digest)[:DIGITS] if digest else NONE


def commit(found: object) -> str:
    # A plus sign marks a run of changed files and must not be cut off.
    return short(found) + ("+" if str(found).endswith("+") else "")


def percent(value: float | None, digits: int = 1) -> str:
    """Of a share from 0 to 1, without the sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def run_names(runs: Sequence[ClsRun] | Sequence[GanRun]) -> str:
    """The runs behind a figure, grouped by parent folder: ``runs/demo: ds1-0, ds1-1``. The first ten of each."""
    by_parent: dict[str, list[str]] = {}
    for run in runs:
        path = Path(relative(run.folder))
        by_parent.setdefault(path.parent.as_posix(), []).append(path.name)
    return "; ".join(f"{parent}: {_few(names)}" for parent, names in by_parent.items())


def _few(names: Sequence[str]) -> str:
    most = 10
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
