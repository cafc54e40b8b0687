"""A reviewer's decision on a synthetic image: as it was given, checked, and what becomes of the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from cxrdist.data.shards.removed import Reason
from cxrdist.data.shards.schema import is_text
from cxrdist.errors import nearest

Answer = Literal["keep", "remove", "unsure"]
ANSWERS: tuple[str, ...] = get_args(Answer)
RemoveIf = Literal["any", "majority", "all"]
Unsure = Literal["keep", "remove"]
REVIEW = "review"
"""What removes a sample, in the file of removed samples."""
WORDS = ": "
"""In a reason, between its label and the reviewer's own words."""


def label_of(reason: str) -> str:
    """``artefact or noise`` of ``artefact or noise: grid at the left``: what reasons are counted by."""
    return reason.partition(WORDS)[0]


@dataclass(frozen=True, kw_only=True)
class Given:
    """A decision as it stands in a file or a database, where anything may be written."""

    where: str
    """``line 7`` of the file, ``decision 7`` of the database."""
    key: Any
    decision: Any
    reviewer: Any
    reason: Any
    time: Any
    """None if it is unknown."""
    problem: str = ""
    """Why the rest of it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one reviewer decided on one image."""

    where: str
    key: str
    answer: str
    reviewer: str
    reason: str
    time: str | None
    """ISO 8601 in UTC, ending in Z."""


def checked(every: Iterable[Given], known: Mapping[str, Any]) -> tuple[list[Decision], list[str]]:
    """The decisions, one for each reviewer and key, and what is wrong with them, each with its place. ``known``: the
    keys of the set."""
    decisions: dict[tuple[str, str], Decision] = {}
    problems: list[str] = []
    for given in every:
        if why := given.problem or _wrong_in(given, known):
            problems.append(f"{given.where}: {why}")
            continue
        decision = Decision(
            where=given.where,
            key=given.key,
            answer=given.decision,
            reviewer=given.reviewer,
            reason=given.reason,
            time=utc(given.time),
        )
        first = decisions.setdefault((decision.key, decision.reviewer), decision)
        if first is not decision:
            before = "the same" if first.answer == decision.answer else f"but {first.answer}"
            problems.append(
                f"{decision.where}: {decision.reviewer} decides {decision.answer} on {decision.key}, {before} in "
                f"{first.where}"
            )
    return list(decisions.values()), problems


def _wrong_in(given: Given, known: Mapping[str, Any]) -> str:
    texts = {"key": given.key, "decision": given.decision, "reviewer": given.reviewer, "reason": given.reason}
    for name, text in texts.items():
        if not is_text(text):
            return f"{name} is {str(text)[:40]!a}, not text without line breaks and control characters"
    if given.key not in known:
        return f"unknown key {given.key[:60]!r}"
    if given.decision not in ANSWERS:
        return f"unknown decision {given.decision[:60]!r}{nearest(given.decision, ANSWERS)}"
    if not given.reviewer:
        return "names no reviewer"
    if given.time is not None and utc(given.time) is None:
        return f"time {str(given.time)[:60]!a} is not like 2026-07-04T09:30:00Z"
    return ""


def utc(time: Any) -> str | None:
    """``2026-07-04T11:30:00+02:00`` as ``2026-07-04T09:30:00Z``; None if it is no time with a zone."""
    try:
        parsed = datetime.fromisoformat(time)
        if parsed.tzinfo is None:
            return None
        return parsed.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError):
        return None


def removals(
    decisions: Iterable[Decision], *, remove_if: RemoveIf = "any", unsure: Unsure = "keep"
) -> dict[str, Reason]:
    """Key -> reason, of the images that are to be removed: that ``any`` of their reviewers removes, the ``majority``
    (more than half), or ``all``. ``unsure``: what an unsure reviewer counts as."""
    of_key: dict[str, list[Decision]] = {}
    for decision in decisions:
        of_key.setdefault(decision.key, []).append(decision)
    found = {}
    for key, votes in of_key.items():
        against = [v for v in votes if v.answer == "remove" or (v.answer, unsure) == ("unsure", "remove")]
        least = {"any": 1, "majority": len(votes) // 2 + 1, "all": len(votes)}[remove_if]
        if len(against) >= least:
            found[key] = _reason(against)
    return found


def _reason(against: Sequence[Decision]) -> Reason:
    """Of several reviewers: each label once, then their words; all their names, and the time of the last one."""
    votes = sorted(against, key=lambda vote: vote.reviewer)
    parts = [vote.reason.partition(WORDS) for vote in votes]
    labels, words = ("; ".join(dict.fromkeys(part[n] for part in parts if part[n])) for n in (0, 2))
    times = [vote.time for vote in votes if vote.time is not None]
    return Reason(
        reason=f"{labels}{WORDS}{words}" if words else labels,
        by=REVIEW,
        reviewer=", ".join(vote.reviewer for vote in votes),
        time=max(times, key=datetime.fromisoformat) if times else None,
    )
