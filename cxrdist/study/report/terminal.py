"""The results of a study in the terminal: the answer, then a line per arm."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from cxrdist.study.report.answer.sentence import sentences
from cxrdist.study.report.page.arms import arm_rows
from cxrdist.study.report.write import Results

SHORT = 6
"""Letters of a class name at the head of its column, or as many as tell it from the others."""


def print_results(results: Results, console: Console | None = None) -> None:
    """Print the answer and a table of the arms: balanced accuracy, recall of each class, difference to the best one
    of real images alone, with the interval that decides."""
    study, answer = results.study, results.answer
    console = console or Console()
    if not study.cls:
        console.print("no results yet: no classifier was trained")
        return
    console.print(sentences(study, answer)[0], highlight=False, markup=False, style="bold")
    console.print()
    rows = arm_rows(study, answer)
    heads = ["test, %", "bal.", *_short(study.classes), "- best real"]
    texts = [
        [
            row["arm"],
            row["balanced"]["mean"],
            *(cell["mean"] for cell in row["recalls"]),
            row["difference"].replace(" to ", ", "),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [heads, *texts]) for column in range(len(heads))]
    console.print(_line(heads, widths), style="dim", highlight=False, soft_wrap=True)
    for row, line in zip(rows, texts, strict=True):
        is_best = [False, *(cell["is_best"] for cell in (row["balanced"], *row["recalls"])), False]
        console.print(_line(line, widths, is_best), highlight=False, soft_wrap=True)
    runs = [len(study.of(arm)) for arm in study.arms]
    number = f"{min(runs)} to {max(runs)} runs" if len({*runs}) > 1 else f"{runs[0]} run{'s' * (runs[0] > 1)}"
    console.print(
        f"bal.: balanced accuracy; then the recall of each class; {number} per arm",
        style="dim",
        highlight=False,
    )
    for note in study.skipped:
        console.print(note, style="yellow", highlight=False, markup=False)


def _line(texts: Sequence[str], widths: Sequence[int], is_best: Sequence[bool] | None = None) -> str:
    """The first and last column to the left, numbers to the right; the best ones are bold."""
    cells = []
    for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
        is_number = 0 < column < len(texts) - 1
        cell = escape(text.rjust(width) if is_number else text.ljust(width))
        cells.append(f"[bold]{cell}[/bold]" if is_best and is_best[column] else cell)
    return " ".join(cells).rstrip()


def _short(classes: Sequence[str]) -> list[str]:
    """The beginnings of class names, as long as needed to tell them apart."""
    length = SHORT
    while len({name[:length] for name in classes}) < len(classes):
        length += 1
    return [name[:length].strip() for name in classes]
