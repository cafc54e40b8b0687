"""Compare finished runs: options that differ, final metrics, paired differences, curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cxrdist.study.compare.curves import write_curves
from cxrdist.study.compare.paired import paired_differences
from cxrdist.study.compare.runs import ComparedRun, comparable
from cxrdist.study.compare.tables import difference_lines, figure_lines


def compare(runs: Sequence[ComparedRun], job: str | None, out: Path) -> Iterator[str]:
    """The lines of the comparison; writes the curves to ``out``. ``job``: cls or gan, null for that of all runs.

    Raises UserError if there are fewer than two runs of one job.
    """
    chosen = comparable(runs, job)
    yield from ("Options that differ", "", *difference_lines(chosen), "")
    yield from ("Final metrics (95 % interval)", "", *figure_lines(chosen), "")
    if lines := paired_differences(chosen):
        yield from ("Paired differences on the test set", "", *lines, "")
    for path in write_curves(chosen, out):
        yield f"curves: {path}"
