"""The report of run folders: ``index.html``, ``report.md``, ``arms.csv``, ``differences.csv``, ``figures/*.png``;
``readers.json`` if readers have judged the study's images.

runs -> reading/ (Study) -> answer/ (Answer) -> charts/, page/ -> files
                                            └-> terminal.py

HTML and Markdown are rendered from the same context, so that they contain the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.errors import from_os
from cxrdist.files import write_atomic
from cxrdist.study.report.answer.answer import Answer, answer_of
from cxrdist.study.report.answer.files import arms_csv, differences_csv
from cxrdist.study.report.page.context import content_of
from cxrdist.study.report.page.render import markdown, page
from cxrdist.study.report.reading.runs import Study
from cxrdist.study.report.reading.search import collect


@dataclass(frozen=True, kw_only=True)
class Results:
    """The runs of a study and what they say, for page and terminal."""

    study: Study
    answer: Answer


def read_results(runs: Sequence[Path]) -> Results:
    """``runs``: run folders, or folders that contain some. Raises UserError if they are not comparable."""
    study = collect(runs)
    return Results(study=study, answer=answer_of(study))


def write_report(results: Results, out: Path) -> Path:
    """Write the files of the report to ``out``; ``index.html``, whose path is returned, is self-contained.

    The same runs give the same bytes. Raises UserError if a file of a run cannot be read, or ``out`` not be written.
    """
    content = content_of(results.study, results.answer)
    files: dict[str, bytes | str] = {f"figures/{name}": png for name, png in content.pictures.items()}
    files |= content.copies
    if results.study.cls:
        files["arms.csv"] = arms_csv(results.study, results.answer)
        files["differences.csv"] = differences_csv(results.answer)
    files |= {"report.md": markdown(content.context), "index.html": page(content.context)}
    try:
        for name, data in files.items():
            write_atomic(out / name, data)
    except OSError as error:
        raise from_os(error) from error
    return out / "index.html"
