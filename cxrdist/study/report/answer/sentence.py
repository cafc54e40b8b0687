"""The answer in words: its first sentence says yes, no or not shown, for what, by how much, and against which arm."""

from __future__ import annotations

from cxrdist.study.report.answer.answer import Answer, Difference
from cxrdist.study.report.answer.outcomes import BALANCED
from cxrdist.study.report.answer.patients import Interval
from cxrdist.study.report.answer.words import joined, signed
from cxrdist.study.report.reading.runs import Study
from cxrdist.study.stats.differences import Outcome
from cxrdist.study.stats.verdict import ArmVerdict, Verdict

_MOST_NAMED = 6
"""Arms and classes in a list."""


def sentences(study: Study, answer: Answer) -> list[str]:
    """The answer first, then classes, the reference, and what decided."""
    if not study.cls:
        return ["No classifier was trained yet: this report shows only the GANs."]
    if not answer.verdicts:
        return [_unanswered(study, answer)]
    leading = _leading(answer)
    found = [_first(answer, leading)]
    if leading.outcome.class_name is not None:
        found.append(f"By balanced accuracy: {_brief(answer.verdicts[0])}.")
    found += _by_class(answer, leading)
    found += _against_baseline(study, answer, leading)
    found += [_choice(answer), _deciding(answer)]
    if lacking := [arm for arm in study.planned if arm not in study.arms]:
        found.append(f"The study also names {joined(lacking)}, of which no run is finished.")
    return found


def _leading(answer: Answer) -> Verdict:
    """The verdict of the first sentence: of balanced accuracy, unless an arm helps a class alone."""
    of_classes = [each for each in answer.verdicts[1:] if answer.helps(each)]
    if answer.verdicts[0].answer == "yes" or not of_classes:
        return answer.verdicts[0]
    return max(of_classes, key=lambda each: (each.interval or (0.0, 0.0))[0])


def _unanswered(study: Study, answer: Answer) -> str:
    lacking = (
        "no arm with synthetic images was run"
        if not study.synthetic
        else "no arm of real images alone has a balanced accuracy on validation images, by which the best is chosen"
        if study.real_only
        else "no arm of real images alone was run, which the others could be compared with"
    )
    scores = [score for score in answer.scores if score.outcome == BALANCED and score.mean is not None]
    if not scores:
        return f"No answer: {lacking}."
    best = max(scores, key=lambda score: score.mean or 0.0)
    highest = f"{best.arm} has {'the highest' if len(scores) > 1 else 'a'} balanced accuracy on test"
    return f"No answer: {lacking}; {highest}, {100 * (best.mean or 0.0):.1f} %."


def _first(answer: Answer, verdict: Verdict) -> str:
    arm, best = verdict.decisive.arm, _named_best(answer)
    what = _what(verdict.outcome)
    mean = verdict.difference
    if verdict.answer == "yes":
        where = f", for {verdict.outcome.class_name}" if verdict.outcome.class_name else ""
        return (
            f"Yes{where}: {arm} exceeds {best} in {what} by {_points(mean)} points "
            f"({_evidence(answer, verdict)})."
        )
    whole = "no arm with synthetic images" if len(verdict.arms) > 1 else arm
    if verdict.answer == "no":
        closest = f"{arm} comes closest, at" if len(verdict.arms) > 1 else "the difference is"
        verb = "exceeds" if len(verdict.arms) > 1 else "does not exceed"
        return (
            f"No: {whole} {verb} {best} in {what} by {_margin(answer)} or more; "
            f"{closest} {_signed(mean)} points ({_evidence(answer, verdict)})."
        )
    start = f"Not shown: {whole} is {'' if len(verdict.arms) > 1 else 'not '}shown to exceed {best} in {what}"
    if mean is None:
        return f"{start}, since no run of both can be compared."
    which = f"the largest difference, of {arm}, is" if len(verdict.arms) > 1 else "the difference is"
    excluded = f"nor is a gain of {_margin(answer)} excluded"
    return f"{start}, {excluded}; {which} {_signed(mean)} points ({_evidence(answer, verdict)})."


def _evidence(answer: Answer, verdict: Verdict) -> str:
    """The intervals that decided, in words."""
    difference = answer.difference(verdict.outcome, verdict.decisive.arm, answer.best_real)
    assert difference is not None
    patients, runs = difference.over_patients_simultaneous, difference.corrected.interval
    over_patients = f"{_span(patients)} over test patients"
    if answer.decider == "patients":
        if patients is None:
            return f"no interval over test patients: {answer.missing or 'too few of them have the class'}"
        return (
            f"{_span(patients)}, simultaneous 95 % interval over test patients, which does not contain the "
            "variation between trainings"
        )
    folds = len({pair.fold for pair in difference.comparison.pairs})
    if runs is None:
        return f"no interval between runs: {difference.comparison.reason}"
    if folds > 1:
        return f"{_span(runs)}, simultaneous 95 % interval over {folds} folds"
    return (
        f"{_span(runs)} over {len(difference.comparison.pairs)} seeds, "
        f"{over_patients if patients else 'no interval over test patients'}, simultaneous 95 % intervals; "
        "it holds for these test patients"
    )


def _brief(verdict: Verdict) -> str:
    mean = "" if verdict.difference is None else f" ({verdict.decisive.arm} {_signed(verdict.difference)})"
    return f"{verdict.answer}{mean}"


def _by_class(answer: Answer, leading: Verdict) -> list[str]:
    """A sentence on the other classes, and one on those whose recall an arm lowers."""
    found = []
    others = [each for each in answer.verdicts[1:] if each is not leading]
    parts = []
    higher = [each for each in others if each.answer == "yes"]
    for start, of_start in (
        ("yes for", [each for each in higher if answer.helps(each)]),
        ("higher at the expense of other classes for", [each for each in higher if not answer.helps(each)]),
    ):
        named = [
            f"{each.outcome.class_name} ({each.decisive.arm} {_signed(each.difference)} points)"
            for each in of_start
        ]
        parts += [f"{start} {joined(named)}"] if named else []
    for said in ("no", "not shown"):
        of_answer = [str(each.outcome.class_name) for each in others if each.answer == said]
        parts += [f"{said} for {joined(of_answer)}"] if of_answer else []
    if parts:
        found.append(
            f"By recall of {'each class' if leading is answer.verdicts[0] else 'the other classes'}: "
            f"{'; '.join(parts)}."
        )
    lower = [
        f"{arm.arm} ({each.outcome.class_name or 'balanced accuracy'} {_signed(arm.against_best.comparison.mean)})"
        for each in answer.verdicts
        for arm in each.arms
        if arm.against_best.interval is not None and arm.against_best.interval[1] < 0
    ]
    if len(lower) > _MOST_NAMED:
        lower = [*lower[:_MOST_NAMED], f"{len(lower) - _MOST_NAMED} others (differences.csv)"]
    if lower:
        found.append(f"Shown to be lower than {answer.best_real}: {joined(lower)}.")
    return found


def _against_baseline(study: Study, answer: Answer, leading: Verdict) -> list[str]:
    if study.described and study.described.reference != answer.baseline:
        return [
            f"There is no comparison with the reference of the study, {study.described.reference}: it is no arm of "
            "real images alone with a finished run."
        ]
    if answer.baseline == answer.best_real:
        return [f"{answer.best_real} is also the reference of the study."]
    decisive: ArmVerdict = leading.decisive
    against = decisive.against_baseline
    if against.comparison.mean is None:
        return []
    interval = f" ({_span(against.interval)})" if against.interval else ""
    return [
        f"Against the reference, {answer.baseline}, {decisive.arm} changes {_what(leading.outcome)} by "
        f"{_signed(against.comparison.mean)} points{interval}; a gain over it alone would not show that synthetic "
        "images help, since other uses of the real images may do as well."
    ]


def _choice(answer: Answer) -> str:
    if len(answer.validation) == 1:
        return f"{answer.best_real} is the only arm of real images alone."
    best = 100 * answer.validation[str(answer.best_real)]
    return (
        f"{answer.best_real} was chosen among {len(answer.validation)} arms of real images alone by balanced "
        f"accuracy on validation images ({best:.1f} %), not on test."
    )


def _deciding(answer: Answer) -> str:
    """Which interval decided, and the correction."""
    which = {
        "runs": "The interval between runs decides (t over folds, corrected for their common training images)",
        "runs and patients": "The interval between runs (t over seeds) and that over test patients must agree",
        "patients": "With one fold and one seed, the interval over test patients decides (paired bootstrap)",
    }[answer.decider]
    return (
        f"{which}; it is simultaneous (Bonferroni): half of the level of 5 % is for balanced accuracy against "
        f"{answer.best_real}, half for all other comparisons. The smallest gain that matters is "
        f"{_margin(answer)}."
    )


def _named_best(answer: Answer) -> str:
    return f"{answer.best_real}, the best arm of real images alone,"


def _what(outcome: Outcome) -> str:
    return outcome.metric if outcome.class_name is None else f"the recall of {outcome.class_name}"


def described(difference: Difference | None) -> str:
    """``+7.4 (4.9 to 9.9)``, with the interval that decides; ``+7.4`` without one; ``–`` without runs."""
    if difference is None or difference.comparison.mean is None:
        return "–"
    interval = f" ({_span(difference.deciding)})" if difference.deciding else ""
    return f"{_signed(difference.comparison.mean)}{interval}"


def _margin(answer: Answer) -> str:
    points = round(100 * answer.margin, 6)
    return f"{points:g} point{'s' if points != 1 else ''}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _signed(value: float | None) -> str:
    """A difference in points with its sign; a true minus."""
    return "–" if value is None else signed(100 * value)


def _span(interval: Interval | None) -> str:
    """A difference cannot be more than 100 points, whatever few runs leave open."""
    if interval is None:
        return "–"
    low, high = (min(1.0, max(-1.0, end)) for end in interval)
    return f"{_signed(low)} to {_signed(high)}"
