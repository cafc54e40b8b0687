"""The templates of cards. Text from manifests and models is escaped: in a card it is text, never Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from cxrdist.errors import shown

NONE = "–"
_WORD = re.compile(r"[\w./-]+", re.ASCII)
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|#~&$!]")


def render(template: str, context: Mapping[str, Any]) -> str:
    """A card as Markdown, from ``templates/<template>.md.j2``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # "text" escapes for Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(text=text, code=code, count=count, number=number, percent=percent)
    card = environment.get_template(f"{template}.md.j2").render(context)
    return re.sub(r"\n{3,}", "\n\n", card).strip() + "\n"


def text(value: object) -> str:
    """Any text, on one line, as Markdown that shows it as it is, also in a table."""
    return _SPECIAL.sub(r"\\\g<0>", shown(" ".join(str(value).split())))


def code(value: object) -> str:
    """A digest or another single word as code; other text as text, which backticks in it cannot leave."""
    return f"`{value}`" if _WORD.fullmatch(str(value)) else text(value)


def count(value: int | None) -> str:
    """``12000`` -> ``12,000``."""
    return NONE if value is None else f"{value:,}"


def number(value: Any) -> str:
    """A number with three digits; lists of numbers as ``1.2 to 3``."""
    if value is None:
        return NONE
    if isinstance(value, list):
        return " to ".join(map(number, value))
    if not isinstance(value, int | float):
        return text(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """``0.0125`` -> ``1.2 %``."""
    return NONE if value is None else f"{value:.1%}".replace("%", " %")
