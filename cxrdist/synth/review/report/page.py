"""The Markdown of the report: the findings as text, from one template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from cxrdist.errors import shown_in_markdown
from cxrdist.synth.review.statistics import REPLICATES

NONE = "–"
MOST_REASONS = 20
"""Reasons that are shown; all of them are in the JSON."""


def markdown(found: dict[str, Any]) -> str:
    """``found``: of ``findings``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        name=shown_in_markdown, share=_share, figure=_figure, seconds=_seconds, number=_number, moment=_moment
    )
    readers = found["readers"]
    text = environment.get_template("report.md.j2").render(
        **found,
        of_blinded=[reader for reader in readers if reader["blinded"]],
        of_curate=[reader for reader in readers if reader["curate"]],
        most_reasons=MOST_REASONS,
        replicates=REPLICATES,
    )
    return text.rstrip("\n") + "\n"


def _share(figure: dict[str, Any]) -> str:
    """``11/14, 78.6 (52.4 to 92.4)``: count, n, % and interval."""
    if figure["value"] is None:
        return f"{NONE} ({figure['why']})"
    percent, low, high = (f"{100 * figure[key]:.1f}" for key in ("value", "low", "high"))
    return f"{figure['count']}/{figure['n']}, {percent} ({_range(low, high)})"


def _figure(figure: dict[str, Any]) -> str:
    """``0.41 (0.12 to 0.66)``, or what is missing and why."""
    if figure["value"] is None:
        return f"{NONE} ({figure['why']})"
    ends = figure["why"] if figure["low"] is None else _range(_number(figure["low"]), _number(figure["high"]))
    return f"{_number(figure['value'])} ({ends})"


def _range(low: str, high: str) -> str:
    """No line break within."""
    return f"{low}\u00a0to\u00a0{high}"


def _number(value: float | None, digits: int = 2) -> str:
    """With a true minus sign, and none before a zero."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _moment(time: str) -> str:
    """``2026-03-01T10:00+00:00`` -> ``2026-03-01 10:00``."""
    return time[:16].replace("T", " ")


def _seconds(found: dict[str, Any]) -> str:
    """``4.2 (3.1 to 6.0)``: median and quartiles."""
    if found["median"] is None:
        return NONE
    median, low, high = (f"{found[key]:.1f}" for key in ("median", "q25", "q75"))
    return f"{median} ({_range(low, high)})"
