"""The tables of a comparison as text: what the runs were made with, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cxrdist.study.compare.runs import BESIDE, ComparedRun

ABSENT = "–"


def difference_lines(runs: Sequence[ComparedRun]) -> list[str]:
    """The options that differ, one column per run; a sentence if none does."""
    names = sorted({name for run in runs for name in run.options})
    rows = [[name, *(run.options.get(name, ABSENT) for run in runs)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    if not differing:
        return ["no option differs"]
    return list(_table([["option", *(run.name for run in runs)], *differing]))


def figure_lines(runs: Sequence[ComparedRun]) -> list[str]:
    """The final metrics, with the interval of 95 % where there is one; one column per run."""
    names = sorted(
        {name for run in runs for name in run.figures if not name.endswith(BESIDE)},
        key=lambda name: (name.count("/"), name),
    )
    if not names:
        return ["no final metrics"]
    rows = [[name, *(_shown(run.figures, name) for run in runs)] for name in names]
    return list(_table([["metric", *(run.name for run in runs)], *rows]))


def _shown(figures: Mapping[str, float], name: str) -> str:
    value, low, high = (figures.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ABSENT
    return f"{value:.4g}" + ("" if low is None or high is None else f" ({low:.4g} to {high:.4g})")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
