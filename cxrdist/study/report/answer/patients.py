"""Intervals over test patients: the bootstrap of cxrdist.metrics on the predictions that the runs have kept.

They hold the trained networks fixed: they say how results would vary with other test patients, and nothing of other
trainings.

An interval that ends at 0 comes from resamples in which no patient speaks for the other side, since none does in the
test set. That is no proof that there are none: of n patients, none is seen with a probability of a / 2 if their share
is 1 - (a / 2)^(1 / n), about 3.7 / n for a = 5 % (the rule of three: Hanley and Lippman-Hand 1983, If Nothing Goes
Wrong, Is Everything All Right?, JAMA 249). Such an end is moved out to this share.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from cxrdist.errors import UserError
from cxrdist.metrics.bootstrap import (
    REPLICATES,
    Measured,
    Resamples,
    check_same_images,
    mean_difference,
    mean_of_runs,
    measured,
)
from cxrdist.metrics.predictions import Predictions, read_predictions
from cxrdist.study.report.answer.outcomes import KEYS
from cxrdist.study.report.reading.runs import Study, relative
from cxrdist.study.stats.correction import ALPHA
from cxrdist.study.stats.differences import Outcome

PREDICTIONS = "predictions-test.csv"
SEED = 0
MOST_REPLICATES = 20_000
IN_A_TAIL = 10
"""Replicates that should lie beyond either end of the widest interval."""

Interval = tuple[float, float]
Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


class Patients:
    """The runs of a study on resamples of its test patients.

    ``family``: comparisons that are corrected together; the more there are, the further out lie the ends of their
    intervals, and the more replicates are drawn. Raises UserError for predictions that cannot be read, or are of
    other classes, images or patients than those of the other runs on their fold.
    """

    def __init__(self, study: Study, family: int) -> None:
        self.missing: str | None = None
        """Why there are no intervals for some runs; None if all have kept their predictions."""
        self._classes = study.classes
        found = {}
        first_of_fold: dict[int | None, tuple[Path, Predictions]] = {}
        for run in study.cls:
            path = run.folder / PREDICTIONS
            if path.is_file():
                predictions = read_predictions(path)
                if predictions.classes != study.classes:
                    raise UserError(
                        f"{path}: has the classes {', '.join(predictions.classes)}, and its run has "
                        f"{', '.join(study.classes)}; run the job again, or exclude this folder"
                    )
                first, of_first = first_of_fold.setdefault(run.fold, (path, predictions))
                try:
                    check_same_images(of_first, predictions)
                except UserError as error:
                    raise UserError(f"{first} and {path}: {error}; run one of the jobs again") from error
                found[run.arm, run.fold, run.seed] = predictions
            else:
                self.missing = f"{relative(path)} is missing"
        self.replicates = min(
            MOST_REPLICATES, max(REPLICATES, math.ceil(2 * IN_A_TAIL * max(1, family) / ALPHA))
        )
        self._runs: dict[tuple[str, int | None, int], Measured] = {}
        self._expected = {(run.arm, run.fold, run.seed) for run in study.cls}
        if found:
            self._resamples = Resamples.of(*found.values(), seed=SEED, replicates=self.replicates)
            drawn = measured(list(found.values()), self._resamples, only_recalls=True)
            self._runs = dict(zip(found, drawn, strict=True))
        self._of_pair: dict[tuple[str, str], Drawn | None] = {}
        self._with_class = [
            sum(
                len({*one.patient_of_image()[one.labels == label].tolist()})
                for _, one in first_of_fold.values()
            )
            for label in range(len(study.classes))
        ]

    @property
    def count(self) -> int:
        """Test patients, in all folds together; 0 without predictions."""
        return len(self._resamples.patients) if self._runs else 0

    def difference(self, outcome: Outcome, arm: str, reference: str, confidence: float) -> Interval | None:
        """The interval of the mean difference of the pairs of runs of two arms; None without all predictions."""
        key = (arm, reference)
        if key not in self._of_pair:
            self._of_pair[key] = self._difference(arm, reference)
        drawn = self._of_pair[key]
        if drawn is None:
            return None
        ends = self._picked(drawn, outcome, confidence)
        if ends is None:
            return None
        unseen = self._unseen(outcome, confidence)
        low, high = ends
        return -unseen if low == 0 else low, unseen if high == 0 else high

    def _unseen(self, outcome: Outcome, confidence: float) -> float:
        """The largest difference that patients may make of whom none is in the test set."""
        counts, tail = [n for n in self._with_class if n], (1 - confidence) / 2
        if outcome.class_name is not None:
            return 1 - tail ** (1 / self._with_class[self._classes.index(outcome.class_name)])
        # All of them may be of the rarest class, which has its share of the mean.
        return (1 - tail ** (1 / min(counts))) / len(counts)

    def of_arm(self, outcome: Outcome, arm: str, confidence: float) -> Interval | None:
        """The interval of an arm's mean over its runs; None if a run has no predictions."""
        if outcome.metric not in KEYS:
            return None
        key = (arm, "")
        if key not in self._of_pair:
            runs = [run for run in self._expected if run[0] == arm]
            folds = sorted({fold for _, fold, _ in runs}, key=str)
            self._of_pair[key] = (
                mean_of_runs([[self._runs[run] for run in runs if run[1] == fold] for fold in folds])
                if runs and all(run in self._runs for run in runs)
                else None
            )
        drawn = self._of_pair[key]
        return None if drawn is None else self._picked(drawn, outcome, confidence)

    def _difference(self, arm: str, reference: str) -> Drawn | None:
        pairs: dict[int | None, list[tuple[Measured, Measured]]] = {}
        for _, fold, seed in sorted((run for run in self._expected if run[0] == arm), key=str):
            first, second = (arm, fold, seed), (reference, fold, seed)
            if second not in self._expected:
                continue
            if first not in self._runs or second not in self._runs:
                return None
            pairs.setdefault(fold, []).append((self._runs[first], self._runs[second]))
        return mean_difference(list(pairs.values())) if pairs else None

    def _picked(self, drawn: Drawn, outcome: Outcome, confidence: float) -> Interval | None:
        value, replicates = (found[KEYS[outcome.metric]] for found in drawn)
        if outcome.class_name is not None:
            label = self._classes.index(outcome.class_name)
            value, replicates = value[label], replicates[:, label]
        ends = self._resamples.interval(replicates, confidence)
        return None if ends is None or np.isnan(value) else (ends[0], ends[1])
