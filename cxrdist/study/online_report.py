"""The W&B Report of a study: which parts of report.md it shows, and panels over which runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cxrdist.errors import from_os
from cxrdist.files import slug
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.identity import read_identity
from cxrdist.run.tracking.report.blocks import Content
from cxrdist.run.tracking.report.save import save_report
from cxrdist.study.report.reading.runs import GanRun, Study

MAX_CHARACTERS = 50_000
"""Of the Markdown in a Report; sections after that are left out."""
CHARTS = {
    "differences": "forest.png",
    "differences of recall": "forest-classes.png",
    "validation": "fig5.png",
    "confusion": "confusion.png",
}
"""Charts of results among the figures of the report; figures with radiographs are not sent."""

NOT_SENT = "## Readers\n"
"""The section that names people."""

_SOURCE = re.compile(r" ?\b(?:Runs?|Sets of run):? `[^`]*`")
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")


def write_online_report(
    study: Study, folder: Path, name: str, tracking: TrackingConfig, page: Path, charts: Iterable[str]
) -> str | None:
    """The URL of the Report, None if W&B fails. ``page``: a file of the report, beside report.md; ``charts``: names
    of pictures that ``track_study`` has logged."""
    try:
        markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    except OSError as error:
        raise from_os(error) from error
    content = Content(
        title=f"Study {name}",
        sections=tuple(sections_of(markdown)),
        project=tracking.project_name,
        group=tracking.group or name,
        left_out=tuple(dict.fromkeys(_no_results(folder, study.gan))),
        classes=study.classes if study.cls else (),
        models=tuple(dict.fromkeys(model.name for run in study.gan for model in run.models)),
        pictures=tuple(charts),
    )
    return save_report(folder, content)


def charts_of(page: Path) -> dict[str, Path]:
    """``{name: PNG file}`` of the charts that the report has. ``page``: a file of the report, beside figures/."""
    files = {f"study/{name}": page.parent / "figures" / file for name, file in CHARTS.items()}
    return {name: path for name, path in files.items() if path.is_file()}


def sections_of(markdown: str) -> list[str]:
    """The parts of report.md that stand without its files: what precedes the first section (the answer), then the
    sections with a table of results, but for that on readers. Lines with code (paths of runs, options, digests) and
    pictures are left out."""
    first, *others = re.split(r"^(?=###? )", markdown, flags=re.MULTILINE)
    chosen, characters = [], 0
    for part in [first, *(part for part in others if _is_table(part) and not part.startswith(NOT_SENT))]:
        text = _without_files(part)
        characters += len(text)
        if characters > MAX_CHARACTERS:
            break
        chosen.append(text)
    return chosen


def _is_table(section: str) -> bool:
    """True for a section with a table, none of whose rows has code or a picture."""
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return bool(rows) and not any("`" in row or "<img" in row for row in rows)


def _without_files(section: str) -> str:
    lines = (
        _RELATIVE_LINK.sub(r"\1", _SOURCE.sub("", line)) for line in section.splitlines() if "![" not in line
    )
    text = "\n".join(line for line in lines if "`" not in line)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _no_results(folder: Path, gans: Iterable[GanRun]) -> Iterable[str]:
    """W&B ids of runs in the group whose figures are no results, or are in another run too: the searches for learning
    rates, and models of a GAN run that have W&B runs of their own beside that of the whole."""
    folders = sorted((folder / "search").glob("*"))
    folders += [run.folder / slug(model.name) for run in gans for model in run.models]
    return (identity.id for each in folders if (identity := read_identity(each)) is not None)
