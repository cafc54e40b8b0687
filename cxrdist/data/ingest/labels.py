"""From many findings to one class: the class names, their order, and the label rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cxrdist.data.shards.schema import NORMAL, canonical_order, class_rank
from cxrdist.errors import UserError, nearest

if TYPE_CHECKING:
    from cxrdist.data.importers.common.base import Record

NO_TARGET = "no target finding"
SEVERAL_TARGETS = "several targets"
OTHER_FINDINGS = "other findings beside the target"
NOT_ASKED_FOR = "class not asked for"


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """One class per record, or the reason why it has none."""

    label: list[str | None]
    """The class of each record, in their order; None for a record that is left out."""
    left_out: dict[str, int]
    """Reason -> number of records left out for it; every record has a label or is counted here once."""
    examples: dict[str, Record]
    """Reason -> the first record left out for it."""
    classes: tuple[str, ...]
    """The classes that have at least one record, in canonical order."""


@dataclass(frozen=True, kw_only=True)
class Positives:
    """The input of a rule: the positive findings of one record that is not simply normal."""

    targets: tuple[str, ...]
    """Positive target classes, without repetition."""
    others: int
    """Number of findings that are no target, the normal finding beside others included."""


Verdict = tuple[str | None, str]
"""(class, "") or (None, reason)."""
Rule = Callable[[Positives, Sequence[str]], Verdict]
"""(positives, all target classes, the rarest first) -> verdict."""


def strict(positives: Positives, rarest_first: Sequence[str]) -> Verdict:
    """The target, if it is the only finding."""
    label, reason = one_target(positives, rarest_first)
    return (None, OTHER_FINDINGS) if label and positives.others else (label, reason)


def one_target(positives: Positives, rarest_first: Sequence[str]) -> Verdict:
    """The target, if it is the only one; other findings are allowed beside it."""
    if len(positives.targets) > 1:
        return None, SEVERAL_TARGETS
    return rarest(positives, rarest_first)


def rarest(positives: Positives, rarest_first: Sequence[str]) -> Verdict:
    """The positive target that the fewest images of the source have."""
    if not positives.targets:
        return None, NO_TARGET
    return min(positives.targets, key=rarest_first.index), ""


LabelRule = Literal["strict", "one-target", "rarest"]
RULES: dict[str, Rule] = {"strict": strict, "one-target": one_target, "rarest": rarest}
"""Under every rule an image with only the normal finding is of the class Normal."""


def assign(
    records: Sequence[Record],
    rule: str,
    targets: Mapping[str, str],
    normal: str | None,
    classes: Sequence[str] | None,
) -> Labelling:
    """The class of every record under a rule of ``RULES``. ``Record.label`` overrides the rule, and
    ``Record.left_out`` and ``Record.no_class`` override both.

    ``targets`` and ``normal`` are the importer's. ``classes`` selects some classes (None: all that occur); the rule
    still sees all targets, so an image with two of them does not become a clean one by selecting one. Raises
    UserError for an unknown rule or class, for a class without any image, and if no record has a class.
    """
    if rule not in RULES:
        raise UserError(f"unknown label rule {rule!r}{nearest(rule, RULES)}")
    rarest_first = _rarest_first(records, targets)
    verdicts = [_judge(record, RULES[rule], targets, normal, rarest_first) for record in records]
    available = Counter(label for label, _ in verdicts if label)
    reasons = Counter(reason for label, reason in verdicts if not label)
    if not available:
        why = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        under, another = (
            (f" under the label rule {rule!r}", ", or try another label rule") if targets else ("", "")
        )
        raise UserError(
            f"no image has a class{under} ({why or 'the source has no images'}): check the source{another}"
        )

    known = canonical_order([*available, *targets.values(), *([NORMAL] if normal is not None else [])])
    chosen = canonical_order(available if classes is None else classes)
    if not chosen:
        raise UserError(f"no class is selected; known: {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise UserError(f"unknown class {name!r}{nearest(name, known)}")
        if not available[name]:
            raise UserError(
                f"{name} has no image under the label rule {rule!r}: remove it from --classes, "
                f"or try another rule ({', '.join(RULES)})"
            )
    verdicts = [
        (None, NOT_ASKED_FOR) if label and label not in chosen else (label, why) for label, why in verdicts
    ]
    reasons = Counter(reason for label, reason in verdicts if not label)
    examples: dict[str, Record] = {}
    for record, (label, reason) in zip(records, verdicts):
        if not label:
            examples.setdefault(reason, record)
    return Labelling(
        label=[label for label, _ in verdicts],
        examples=examples,
        left_out=dict(sorted(reasons.items())),
        classes=chosen,
    )


def _rarest_first(records: Sequence[Record], targets: Mapping[str, str]) -> list[str]:
    images = Counter(
        name
        for record in records
        if record.left_out is None and record.no_class is None
        for name in _positive(record, targets)
    )
    return sorted(set(targets.values()), key=lambda name: (images[name], class_rank(name)))


def _positive(record: Record, targets: Mapping[str, str]) -> set[str]:
    return {targets[finding] for finding in record.findings if finding in targets}


def _judge(
    record: Record, rule: Rule, targets: Mapping[str, str], normal: str | None, rarest_first: Sequence[str]
) -> Verdict:
    if reason := record.no_class or record.left_out:
        return None, reason
    if record.label is not None:
        return record.label, ""
    findings = set(record.findings)
    if findings == {normal}:
        return NORMAL, ""
    positives = Positives(
        targets=canonical_order(_positive(record, targets)), others=len(findings - targets.keys())
    )
    return rule(positives, rarest_first)
