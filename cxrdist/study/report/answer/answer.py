"""Whether synthetic images helped, computed once for page, tables and terminal.

runs' summaries ──> stats.differences ──> stats.correction ──┬─> stats.verdict ──> Answer
kept predictions ──> bootstrap over patients (patients.py) ──┘

The first question of a study is whether an arm with synthetic images has a higher balanced accuracy than the best arm
of real images alone. Its comparisons, one for each such arm, are a family with half of alpha; the other half is for
all other comparisons: the recall of each class, and those with the reference. In one family, each class and each
reference would cost the first question power. Which interval decides depends on the runs:

    several folds               that between runs: t over folds (stats.differences), which have different patients
    one fold, several seeds     both that between runs (t over seeds) and that over patients must agree
    one fold, one seed          that over patients, which does not contain the variation between trainings

Intervals that decide contain all true differences of both families at once with 95 % probability (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cxrdist.study.report.answer.outcomes import BALANCED, mean_over_folds, outcomes, values
from cxrdist.study.report.answer.patients import Interval, Patients
from cxrdist.study.report.reading.runs import Study
from cxrdist.study.stats.correction import Corrected, correct
from cxrdist.study.stats.differences import CONFIDENCE, Comparison, Outcome, compare
from cxrdist.study.stats.verdict import MARGIN, Verdict, verdicts

PART = 0.5
"""Of alpha, for each of the two families."""

Decider = Literal["runs", "runs and patients", "patients"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm with synthetic images minus its reference, from -1 to 1, as one of its family."""

    corrected: Corrected
    """The comparison between runs."""
    over_patients: Interval | None
    """95 % interval of this difference alone. None without the predictions of all its runs."""
    over_patients_simultaneous: Interval | None
    deciding: Interval | None
    """Simultaneous over both families: the interval that decides, or the hull of both. None: nothing can be shown."""

    @property
    def comparison(self) -> Comparison:
        return self.corrected.comparison

    @property
    def between_runs(self) -> Interval | None:
        """95 % interval of this difference alone."""
        return self.comparison.interval(CONFIDENCE)


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """A metric of an arm on test, from 0 to 1."""

    arm: str
    outcome: Outcome
    runs: int
    """Runs that have a value."""
    mean: float | None
    """Over folds of the mean over seeds."""
    sd: float | None
    """Sample standard deviation over runs; None with one run."""
    over_patients: Interval | None
    between_runs: Interval | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a study says."""

    best_real: str | None
    """The arm of real images alone with the best balanced accuracy on validation images; None if there is none."""
    validation: dict[str, float]
    """Balanced accuracy on validation of each arm of real images alone."""
    baseline: str | None
    """The reference of the study if it is an arm of real images alone, else the best one. Without study.json
    DS1, else the first arm of real images alone."""
    margin: float
    """Smallest gain that matters, from 0 to 1."""
    decider: Decider
    folds: int
    """That have runs."""
    seeds: int
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    """The first of balanced accuracy, then one for each class. Empty if there is nothing to compare."""
    scores: tuple[ArmScore, ...]
    """Of each arm that has runs, by each outcome."""
    patients: int
    """Test patients in all folds together; 0 if no run has kept its predictions."""
    replicates: int
    """Of the bootstrap over patients."""
    missing: str | None
    """Why the interval over patients is missing for some runs."""

    def verdict(self, class_name: str | None = None) -> Verdict | None:
        """Of a class, or of balanced accuracy."""
        return next((each for each in self.verdicts if each.outcome.class_name == class_name), None)

    def helps(self, verdict: Verdict) -> bool:
        """True for a yes of balanced accuracy, and for that of a class by an arm whose balanced accuracy is also
        higher than that of the best real arm.

        Else other classes pay for the recall of this one: a classifier that names a class more often has a higher
        recall of it, whatever it was trained on.
        """
        if verdict.answer != "yes" or verdict.outcome.class_name is None:
            return verdict.answer == "yes"
        of_arm = next(each for each in self.verdicts[0].arms if each.arm == verdict.decisive.arm)
        gain = of_arm.against_best.comparison.mean
        return gain is not None and gain > 0

    def difference(self, outcome: Outcome, arm: str, reference: str | None) -> Difference | None:
        wanted = (outcome, arm, reference)
        return next(
            (
                each
                for each in self.differences
                if (each.comparison.outcome, each.comparison.arm, each.comparison.reference) == wanted
            ),
            None,
        )

    def score(self, arm: str, outcome: Outcome) -> ArmScore | None:
        return next((each for each in self.scores if (each.arm, each.outcome) == (arm, outcome)), None)


def answer_of(study: Study) -> Answer:
    """Compare the arms of a study. Raises UserError for predictions that cannot be read or compared."""
    validation = _validation(study)
    # Of equal ones the first: chosen on test, the lead would be partly chance.
    best = max(validation, key=lambda arm: validation[arm]) if validation else None
    baseline = _baseline(study, best)
    arms = study.planned
    against = [
        (arm, reference)
        for arm in study.synthetic
        for reference in dict.fromkeys((best, baseline))
        if reference is not None
    ]
    compared = [
        comparison
        for outcome in outcomes(study)
        for comparison in compare(outcome, values(study, arms, outcome), arms, against)
    ]
    corrected = _corrected(compared, best)
    patients = Patients(study, most_comparisons(corrected))
    folds, seeds = len(study.folds), len(study.seeds)
    decider: Decider = "runs" if folds > 1 else "runs and patients" if seeds > 1 else "patients"
    differences = [_difference(each, patients, decider) for each in corrected]
    margin = study.described.margin_points / 100 if study.described else MARGIN
    judged = []
    if differences and best is not None and baseline is not None:
        judged = verdicts(
            [replace(each.corrected, interval=each.deciding) for each in differences],
            synthetic=study.synthetic,
            best_real=best,
            baseline=baseline,
            margin=margin,
        )
    return Answer(
        best_real=best,
        validation=validation,
        baseline=baseline,
        margin=margin,
        decider=decider,
        folds=folds,
        seeds=seeds,
        differences=tuple(differences),
        verdicts=tuple(judged),
        scores=tuple(score for outcome in outcomes(study) for score in scores_of(study, outcome, patients)),
        patients=patients.count,
        replicates=patients.replicates,
        missing=patients.missing,
    )


def _corrected(compared: Sequence[Comparison], best: str | None) -> list[Corrected]:
    """In the order of ``compared``: the first question's comparisons as a family, and all others as one."""
    first = [(each.outcome, each.reference) == (BALANCED, best) for each in compared]
    families = {
        is_first: iter(correct([c for c, f in zip(compared, first) if f is is_first], part=PART))
        for is_first in (True, False)
    }
    return [next(families[is_first]) for is_first in first]


def most_comparisons(corrected: Sequence[Corrected]) -> int:
    """In one family, as if it had all of alpha."""
    return max((math.ceil(each.family / PART) for each in corrected), default=1)


def _validation(study: Study) -> dict[str, float]:
    arms = study.real_only
    means = [mean_over_folds(of_arm) for of_arm in values(study, arms, BALANCED, "val")]
    return {arm: mean for arm, mean in zip(arms, means, strict=True) if mean is not None}


def _baseline(study: Study, best: str | None) -> str | None:
    wanted = study.described.reference if study.described else "DS1"
    if wanted in study.real_only:
        return wanted
    if study.described is None and study.real_only:
        return study.real_only[0]
    return best


def _difference(corrected: Corrected, patients: Patients, decider: Decider) -> Difference:
    comparison = corrected.comparison
    names = (comparison.outcome, comparison.arm, comparison.reference)
    alone = patients.difference(*names, CONFIDENCE)
    together = patients.difference(*names, corrected.confidence)
    return Difference(
        corrected=corrected,
        over_patients=alone,
        over_patients_simultaneous=together,
        deciding=_deciding(corrected, together, decider),
    )


def _deciding(corrected: Corrected, patients: Interval | None, decider: Decider) -> Interval | None:
    if decider == "patients":
        return patients
    between = corrected.interval
    has_folds = len({pair.fold for pair in corrected.comparison.pairs}) > 1
    if between is None or has_folds:
        return between
    # One test set: more seeds do not say how results vary with patients.
    return None if patients is None else (min(between[0], patients[0]), max(between[1], patients[1]))


def scores_of(study: Study, outcome: Outcome, patients: Patients | None = None) -> list[ArmScore]:
    """A metric of each arm. Without ``patients`` there are no intervals over patients."""
    if not study.arms:
        return []
    found = values(study, study.arms, outcome)
    # The mean of an arm and its interval are those of its difference to a classifier that is always wrong.
    with_zero = np.concatenate([found, np.zeros_like(found[:1])])
    names = (*study.arms, "")
    of_arms = compare(outcome, with_zero, names, [(arm, "") for arm in study.arms])
    return [
        ArmScore(
            arm=each.arm,
            outcome=outcome,
            runs=len(each.pairs),
            mean=each.mean,
            sd=_sd([pair.difference for pair in each.pairs]),
            over_patients=patients.of_arm(outcome, each.arm, CONFIDENCE) if patients else None,
            between_runs=each.interval(CONFIDENCE),
        )
        for each in of_arms
    ]


def _sd(observed: Sequence[float]) -> float | None:
    return float(np.std(observed, ddof=1)) if len(observed) > 1 else None
