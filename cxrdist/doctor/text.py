"""A report as aligned text, in sections."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from cxrdist.doctor.findings import Finding, Section, count
from cxrdist.errors import shown

COLUMNS = 110
LEVEL_COLUMNS = 10


def section_lines(section: Section) -> Iterator[str]:
    """The title, and the lines of each finding below it."""
    yield section.title
    for finding in section.findings:
        yield from _lines_of(finding)


def verdict(sections: Sequence[Section]) -> str:
    """The last line of a report: how many errors and warnings it has."""
    errors, warnings = count(sections, "error"), count(sections, "warning")
    if not errors and not warnings:
        return "no problems found"
    return f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _lines_of(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"  {finding.level}", finding.what)
    if finding.cure:
        yield from _wrapped("", f"-> {finding.cure}", hang=3)


def _wrapped(head: str, text: str, hang: int = 0) -> list[str]:
    indent = " " * (2 + LEVEL_COLUMNS)
    return textwrap.wrap(
        shown(text),
        COLUMNS,
        initial_indent=head.ljust(len(indent)),
        subsequent_indent=indent + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
