"""Intervals over test patients: the bootstrap of cxrdist.metrics on the predictions that the runs have kept.

They hold the trained networks fixed: they say how results would vary with other test patients, and nothing of other
trainings.
"""

from __future__ import annotations

import math

import numpy as np

from cxrdist.metrics.bootstrap import (
    REPLICATES,
    Measured,
    Resamples,
    mean_difference,
    mean_of_runs,
    measured,
)
from cxrdist.metrics.predictions import read_predictions
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
    intervals, and the more replicates are drawn.
    """

    def __init__(self, study: Study, family: int) -> None:
        self.missing: str | None = None
        """Why there are no intervals for some runs; None if all have kept their predictions."""
        self._classes = study.classes
        found = {}
        for run in study.cls:
            path = run.folder / PREDICTIONS
            if path.is_file():
                found[run.arm, run.fold, run.seed] = read_predictions(path)
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

    @property
    def count(self) -> int:
        """Test patients, in all folds together; 0 without predictions."""
        return len(self._resamples.patients) if self._runs else 0

    def difference(
        self, outcome: Outcome, arm: str, reference: str, confidence: float
    ) -> tuple[float | None, Interval | None]:
        """The mean difference of the pairs of runs of two arms, and its interval; None without all predictions."""
        key = (arm, reference)
        if key not in self._of_pair:
            self._of_pair[key] = self._difference(arm, reference)
        return self._picked(self._of_pair[key], outcome, confidence)

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
        return self._picked(self._of_pair[key], outcome, confidence)[1]

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

    def _picked(
        self, drawn: Drawn | None, outcome: Outcome, confidence: float
    ) -> tuple[float | None, Interval | None]:
        if drawn is None:
            return None, None
        value, replicates = (found[KEYS[outcome.metric]] for found in drawn)
        if outcome.class_name is not None:
            label = self._classes.index(outcome.class_name)
            value, replicates = value[label], replicates[:, label]
        ends = self._resamples.interval(replicates, confidence)
        known = None if np.isnan(value) else float(value)
        # Without an image on which the arms differ, the replicates do not show how far they may be apart.
        if ends is None or known is None or ends[0] == ends[1]:
            return known, None
        return known, (ends[0], ends[1])
