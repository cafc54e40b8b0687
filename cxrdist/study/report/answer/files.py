"""The answer as CSV files: arms.csv and differences.csv. Metrics are from 0 to 1, differences from -1 to 1."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from cxrdist.study.report.answer.answer import Answer, Difference, scores_of
from cxrdist.study.report.answer.outcomes import ACCURACY, AUROC
from cxrdist.study.report.answer.patients import Interval
from cxrdist.study.report.reading.runs import Study

DIGITS = 6
_ENDS = ("low", "high")


def arms_csv(study: Study, answer: Answer) -> str:
    """A line per arm and metric, ``class`` empty for those of all classes: runs, mean, standard deviation over runs,
    and 95 % intervals over patients and between runs, each of this mean alone."""
    header = ["arm", "real_only", "metric", "class", "runs", "mean", "sd"]
    header += [f"{which}_{end}" for which in ("over_patients", "between_runs") for end in _ENDS]
    scores = [*answer.scores, *(score for each in (ACCURACY, AUROC) for score in scores_of(study, each))]
    scores.sort(key=lambda score: study.arms.index(score.arm))
    return _text(
        header,
        (
            [
                score.arm,
                "yes" if score.arm in study.real_only else "no",
                score.outcome.metric,
                score.outcome.class_name or "",
                str(score.runs),
                _number(score.mean),
                _number(score.sd),
                *_interval(score.over_patients),
                *_interval(score.between_runs),
            ]
            for score in scores
        ),
    )


def differences_csv(answer: Answer) -> str:
    """A line per comparison of the family: mean difference, 95 % intervals of this difference alone, p (t between
    runs) as it is and after Holm, the simultaneous intervals, that which decides, and what it says.

    ``answer`` is empty where the reference is not the best arm of real images alone: it decides nothing.
    """
    header = ["outcome", "class", "arm", "reference", "pairs", "mean"]
    names = ("over_patients", "between_runs", "over_patients_simultaneous", "between_runs_simultaneous")
    header += [f"{which}_{end}" for which in names[:2] for end in _ENDS]
    header += ["p", "p_holm", "family"]
    header += [f"{which}_{end}" for which in (*names[2:], "deciding") for end in _ENDS]
    header += ["decided_by", "answer"]
    return _text(header, (_difference(each, answer) for each in answer.differences))


def _difference(each: Difference, answer: Answer) -> list[str]:
    comparison = each.comparison
    verdict = answer.verdict(comparison.outcome.class_name)
    said = ""
    if verdict is not None and comparison.reference == answer.best_real:
        said = next(arm.answer for arm in verdict.arms if arm.arm == comparison.arm)
    return [
        comparison.outcome.metric,
        comparison.outcome.class_name or "",
        comparison.arm,
        comparison.reference,
        str(len(comparison.pairs)),
        _number(comparison.mean),
        *_interval(each.over_patients),
        *_interval(each.between_runs),
        _number(comparison.p),
        _number(each.corrected.p),
        str(each.corrected.family),
        *_interval(each.over_patients_simultaneous),
        *_interval(each.corrected.interval),
        *_interval(each.deciding),
        answer.decider,
        said,
    ]


def _interval(ends: Interval | None) -> list[str]:
    return ["", ""] if ends is None else [_number(end) for end in ends]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}"


def _text(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
