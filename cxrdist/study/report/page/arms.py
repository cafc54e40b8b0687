"""Tables of all arms: their scores, what they were trained on, and their scores in subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from cxrdist.study.report.answer.answer import Answer, ArmScore
from cxrdist.study.report.answer.outcomes import BALANCED, RECALL
from cxrdist.study.report.answer.patients import Interval
from cxrdist.study.report.answer.sentence import described
from cxrdist.study.report.answer.words import signed
from cxrdist.study.report.charts.style import tint
from cxrdist.study.report.page.words import NONE, count, percent, time
from cxrdist.study.report.reading.runs import ClsRun, Study, number
from cxrdist.study.stats.differences import Outcome

ABOUT = {
    "DS1": "all real images, as they are",
    "DS2": "real images, every class down to the smallest",
    "DS3": "all real images, filled with synthetic ones",
}
"""For arms of which no study.json says anything."""
ATTRIBUTES = ("view", "sex", "age")


def arm_rows(study: Study, answer: Answer) -> list[dict[str, Any]]:
    """A row per arm: balanced accuracy with its interval, recall of each class, difference to the best real arm."""
    recalls = [Outcome(RECALL, name) for name in study.classes]
    best = {
        outcome: max(
            (
                round(score.mean, 9)
                for score in answer.scores
                if score.outcome == outcome and score.mean is not None
            ),
            default=None,
        )
        for outcome in (BALANCED, *recalls)
    }

    def cell(arm: str, outcome: Outcome) -> dict[str, Any]:
        score = answer.score(arm, outcome)
        mean = score.mean if score else None
        return {
            "mean": percent(mean),
            "sd": percent(score.sd) if score and score.sd is not None else None,
            "is_best": mean is not None and round(mean, 9) == best[outcome] and len(study.arms) > 1,
        }

    rows = []
    for arm in study.arms:
        balanced = answer.score(arm, BALANCED)
        rows.append(
            {
                "arm": arm,
                "tint": tint(study, arm),
                "origin": "real" if arm in study.real_only else "synthetic",
                "about": about(study, arm),
                "runs": len(study.of(arm)),
                "balanced": cell(arm, BALANCED),
                "interval": _interval(shown_interval(balanced, answer)),
                "recalls": [cell(arm, outcome) for outcome in recalls],
                "difference": difference_text(study, answer, arm),
            }
        )
    return rows


def shown_interval(score: ArmScore | None, answer: Answer) -> Interval | None:
    """The 95 % interval of an arm's balanced accuracy: between runs if the study has folds, else over patients."""
    if score is None:
        return None
    return score.between_runs if answer.decider == "runs" else score.over_patients


def difference_text(study: Study, answer: Answer, arm: str) -> str:
    """The difference of balanced accuracy to the best real arm, with the deciding interval of a synthetic arm."""
    if arm == answer.best_real:
        return "best real"
    if arm in study.synthetic:
        return described(answer.difference(BALANCED, arm, answer.best_real))
    ours, best = (answer.score(name, BALANCED) for name in (arm, answer.best_real or ""))
    if ours is None or best is None or ours.mean is None or best.mean is None:
        return NONE
    return signed(100 * (ours.mean - best.mean))


def about(study: Study, arm: str) -> str:
    """A sentence on an arm, without its own name before a colon."""
    said = study.described.about.get(arm, "") if study.described else ""
    return said.removeprefix(f"{arm}: ") or ABOUT.get(arm, "")


def _interval(ends: Interval | None) -> str:
    return NONE if ends is None else f"{percent(max(0.0, ends[0]))} to {percent(min(1.0, ends[1]))}"


def mix_rows(study: Study) -> list[dict[str, Any]]:
    """What each arm was trained on, of its first run: a row per stage with real and synthetic images per class."""
    rows = []
    for arm in study.arms:
        run = study.of(arm)[0]
        stages = run.summary.get("stages") or [{"counts": run.summary["counts"]}]
        for number_, stage in enumerate(stages, start=1):
            quotas = [stage["counts"].get(name, {}) for name in study.classes]
            real = sum(quota.get("real", 0) for quota in quotas)
            made = sum(quota.get("synthetic", 0) for quota in quotas)
            rows.append(
                {
                    "arm": arm if len(stages) == 1 else f"{arm}, stage {number_}",
                    "tint": tint(study, arm),
                    "cells": [_quota(quota) for quota in quotas],
                    "total": count(real + made),
                    "share": NONE if not real + made else f"{100 * made / (real + made):.0f}",
                    "epochs": _epochs(stage.get("epochs", run.summary.get("epochs"))),
                    "seen": count(stage.get("images_seen", run.summary.get("images_seen"))),
                    "rate": _rate(study, arm, run, stage),
                    "seconds": time(_median([r.summary.get("seconds") for r in study.of(arm)])),
                }
            )
    return rows


def _quota(quota: dict[str, int]) -> str:
    made = quota.get("synthetic", 0)
    return f"{quota.get('real', 0):,}" + (f" + {made:,}" if made else "")


def _epochs(value: object) -> str:
    known = number(value)
    return NONE if known is None else f"{known:.1f}"


def _rate(study: Study, arm: str, run: ClsRun, stage: dict[str, Any]) -> str:
    """The learning rate: of the stage, else that chosen for the arm, else the option of its run."""
    chosen = study.described.chosen_rates.get(arm) if study.described else None
    rate = stage.get("learning_rate") or chosen or run.config.get("learning_rate")
    return NONE if rate is None else f"{float(rate):g}"


def _median(values: Sequence[object]) -> float | None:
    known = sorted(value for value in map(number, values) if value is not None)
    return known[len(known) // 2] if known else None


def subgroup_table(study: Study) -> dict[str, Any] | None:
    """Balanced accuracy by view, sex and age, mean over runs: a column per subgroup with its images in all folds
    together, a row per arm. None if no attribute is known."""
    found: dict[tuple[str, str], None] = {}
    for attribute in ATTRIBUTES:
        for run in study.cls:
            groups = run.test.get("subgroups", {}).get(attribute, {})
            found |= dict.fromkeys((attribute, group) for group in groups)
    if not found:
        return None
    return {
        "groups": [
            {"name": f"{attribute} {group}", "images": count(_images(study, attribute, group))}
            for attribute, group in found
        ],
        "rows": [
            {
                "arm": arm,
                "tint": tint(study, arm),
                "cells": [_in_group(study.of(arm), attribute, group) for attribute, group in found],
            }
            for arm in study.arms
        ],
    }


def _images(study: Study, attribute: str, group: str) -> int:
    of_fold = {run.fold: _group(run, attribute, group).get("images", 0) for run in study.cls}
    return sum(int(images) for images in of_fold.values())


def _in_group(runs: Sequence[ClsRun], attribute: str, group: str) -> str:
    found = [number(_group(run, attribute, group).get("balanced_accuracy")) for run in runs]
    known = [value for value in found if value is not None]
    return percent(fmean(known)) if known else NONE


def _group(run: ClsRun, attribute: str, group: str) -> dict[str, Any]:
    found: dict[str, Any] = run.test.get("subgroups", {}).get(attribute, {}).get(group, {})
    return found
