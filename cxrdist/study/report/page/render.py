"""The templates of the page and of the Markdown file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from cxrdist.errors import shown_in_markdown
from cxrdist.study.report.charts.style import MARKERS
from cxrdist.study.report.page.paper import Cell


def page(context: dict[str, Any]) -> str:
    """The HTML page: one file that loads nothing."""
    return _environment(escape=True).get_template("page.html.j2").render(context)


def markdown(context: dict[str, Any]) -> str:
    return _environment(escape=False).get_template("page.md.j2").render(context)


def _environment(*, escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(lane=_lane, marker=_marker)
    environment.filters.update(
        uri=_uri, cell=_markdown_cell, text=_markdown_text, glue=_glue, shown=shown_in_markdown
    )
    return environment


def _lane(cell: Cell) -> dict[str, float | None]:
    """Positions of a cell's two values on an axis from 0 to 100."""
    ours = None if cell.ours is None else cell.ours * (100 if cell.is_score else 1)
    return {"paper": cell.paper, "ours": ours}


def _marker(tint: int) -> str:
    """SVG path of an arm's marker, as in the charts; about 7 px wide, centred on 0, 0."""
    return {
        "o": "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0Z",
        "s": "M-3 -3H3V3H-3Z",
        "D": "M0 -4L4 0L0 4L-4 0Z",
        "^": "M0 -3.8L3.8 3H-3.8Z",
        "v": "M0 3.8L3.8 -3H-3.8Z",
        "P": "M-1.2 -3.6H1.2V-1.2H3.6V1.2H1.2V3.6H-1.2V1.2H-3.6V-1.2H-1.2Z",
    }[MARKERS[tint]]


def _glue(text: str) -> str:
    """No line break between a number and its sign or unit."""
    for before, after in ((" %", "\u00a0%"), ("± ", "±\u00a0"), (" points", "\u00a0points")):
        text = text.replace(before, after)
    return text


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _markdown_cell(text: object) -> str:
    return _markdown_text(str(text).replace("\\", "\\\\").replace("|", "\\|"))


def _markdown_text(text: object) -> str:
    """On one line, and without HTML."""
    return " ".join(str(text).split()).replace("<", "&lt;")
