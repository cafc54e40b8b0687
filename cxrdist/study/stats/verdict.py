"""Whether synthetic images helped: yes, no or not shown, per metric and class.

    yes         an arm with synthetic images is better than the best arm with real images alone: its simultaneous
                interval lies above 0
    no          no arm is better by ``margin``: the interval of every arm lies below it
    not shown   neither: the study is too small to tell

The reference is the best real-only arm, chosen on the validation split. Chosen on test it would owe part of its lead
to chance. Against DS1, the plain real images, a gain alone is no evidence of synthetic images: class weights or
duplicated images may do as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from cxrdist.study.stats.correction import Corrected
from cxrdist.study.stats.differences import Outcome

Answer = Literal["yes", "no", "not shown"]

MARGIN = 0.01
"""The smallest gain that matters: a point, for metrics from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ArmVerdict:
    """What the study says of one arm with synthetic images."""

    arm: str
    answer: Answer
    against_best: Corrected
    against_baseline: Corrected
    """The same as ``against_best`` if the baseline is the best real-only arm."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the study says of all arms with synthetic images, for one metric or class."""

    outcome: Outcome
    answer: Answer
    decisive: ArmVerdict
    """yes: the arm with the highest lower end of its interval. no: that with the highest upper end, which comes
    closest to the margin. not shown: that with the largest difference, if any has one."""
    arms: tuple[ArmVerdict, ...]
    """Of each arm, in the order of ``synthetic``."""
    best_real: str
    baseline: str
    margin: float

    @property
    def difference(self) -> float | None:
        """Of the decisive arm to the best real-only one, in the units of the metric."""
        return self.decisive.against_best.comparison.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """Simultaneous, of ``difference``."""
        return self.decisive.against_best.interval


def verdicts(
    corrected: Sequence[Corrected],
    *,
    synthetic: Collection[str],
    best_real: str,
    baseline: str = "DS1",
    margin: float = MARGIN,
) -> list[Verdict]:
    """One verdict per outcome, in the order of ``corrected``.

    ``corrected``: every arm of ``synthetic`` against ``best_real`` and against ``baseline``, for each outcome,
    corrected in families (``correction.correct``) of which none divides the arms of an outcome. ``margin`` is in the
    units of the metric. Raises ValueError if a comparison is missing, or if a family has fewer comparisons than arms.
    """
    wanted = {(arm, reference) for arm in synthetic for reference in (best_real, baseline)}
    found: dict[Outcome, dict[tuple[str, str], Corrected]] = {}
    for each in corrected:
        pair = (each.comparison.arm, each.comparison.reference)
        if pair in wanted:
            found.setdefault(each.comparison.outcome, {})[pair] = each
    if any(each.family < len(synthetic) for of_outcome in found.values() for each in of_outcome.values()):
        raise ValueError(f"the {len(synthetic)} arms must be corrected as one family, not in parts")
    for outcome, of_outcome in found.items():
        if missing := wanted - {*of_outcome}:
            arm, reference = min(missing)
            raise ValueError(f"{outcome}: no comparison of {arm} with {reference}")
    return [
        _verdict(
            outcome,
            tuple(
                ArmVerdict(
                    arm=arm,
                    answer=_answer(of_outcome[arm, best_real].interval, margin),
                    against_best=of_outcome[arm, best_real],
                    against_baseline=of_outcome[arm, baseline],
                )
                for arm in synthetic
            ),
            best_real,
            baseline,
            margin,
        )
        for outcome, of_outcome in found.items()
    ]


def _answer(interval: tuple[float, float] | None, margin: float) -> Answer:
    if interval is None:
        return "not shown"
    low, high = interval
    if low > 0:
        return "yes"
    return "no" if high < margin else "not shown"


def _verdict(
    outcome: Outcome, arms: tuple[ArmVerdict, ...], best_real: str, baseline: str, margin: float
) -> Verdict:
    answers = {arm.answer for arm in arms}
    if "yes" in answers:
        answer: Answer = "yes"
    else:
        answer = "no" if answers == {"no"} else "not shown"
    return Verdict(
        outcome=outcome,
        answer=answer,
        decisive=max(arms, key=lambda arm: _rank(arm, answer)),
        arms=arms,
        best_real=best_real,
        baseline=baseline,
        margin=margin,
    )


def _rank(arm: ArmVerdict, answer: Answer) -> float:
    """How decisive an arm is for the answer of all."""
    if answer == "not shown":
        mean = arm.against_best.comparison.mean
        return -math.inf if mean is None else mean
    interval = arm.against_best.interval
    if interval is None:
        return -math.inf
    return interval[0 if answer == "yes" else 1]
