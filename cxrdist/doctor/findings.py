"""What the checks find: lines of a level, what was found, and the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxrdist.doctor.options import DoctorOptions
from cxrdist.errors import UserError, from_os

Level = Literal["ok", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One line of a report. ``cure``: what to do; a line of level ok has none."""

    level: Level
    what: str
    cure: str = ""


def ok(what: str) -> Finding:
    return Finding("ok", what)


def warning(what: str, cure: str) -> Finding:
    return Finding("warning", what, cure)


def error(what: str, cure: str = "") -> Finding:
    """``cure`` empty: the message of a UserError, which says it."""
    return Finding("error", what, cure)


Look = Callable[[DoctorOptions], Iterable[Finding]]


@dataclass(frozen=True)
class Section:
    """The findings of a check."""

    title: str
    findings: tuple[Finding, ...]


def section(title: str, look: Look, options: DoctorOptions) -> Section:
    """What a check finds. An exception that ends it is one more finding, and ends no other check."""
    found: list[Finding] = []
    try:
        found.extend(look(options))
    except (UserError, OSError) as failure:
        found.append(error(str(failure if isinstance(failure, UserError) else from_os(failure))))
    except ImportError as failure:
        found.append(
            error(f"can't be imported: {failure}", "install it again: pip install -c constraints.txt -e .")
        )
    except Exception as failure:  # such as a container's user without a home folder
        said = f"{type(failure).__name__}: {failure}".splitlines()[0]
        found.append(error(f"not checked to the end: {said}"))
    return Section(title, tuple(found))


def as_json(sections: Sequence[Section]) -> dict[str, Any]:
    """``{"errors": n, "warnings": n, "sections": [{"title", "findings": [{"level", "what", "cure"}]}]}``."""
    return {
        "errors": count(sections, "error"),
        "warnings": count(sections, "warning"),
        "sections": [asdict(section) for section in sections],
    }


def count(sections: Sequence[Section], level: Level) -> int:
    return sum(finding.level == level for section in sections for finding in section.findings)
