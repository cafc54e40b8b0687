"""Paired differences between runs that were tested on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from cxrdist.metrics.bootstrap import Resamples, paired
from cxrdist.metrics.predictions import Predictions, read_predictions
from cxrdist.study.compare.runs import ComparedRun

PREDICTIONS = "predictions-test.csv"
SEED = 0


def pairs_on_one_test_set(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, ComparedRun]]:
    """All pairs of runs whose folders hold predictions of the same real set's test split."""
    predicted = [run for run in runs if run.folder is not None and (run.folder / PREDICTIONS).is_file()]
    return [
        (first, second)
        for first, second in combinations(predicted, 2)
        if first.options["data.real_digest"] == second.options["data.real_digest"]
    ]


def paired_differences(runs: Sequence[ComparedRun]) -> list[str]:
    """A line for each pair on one test set: the second minus the first, with the 95 % interval of a bootstrap over
    patients in which both have the same patients."""
    return [_line(first, second) for first, second in pairs_on_one_test_set(runs)]


def _line(first: ComparedRun, second: ComparedRun) -> str:
    before, after = (_predictions(run) for run in (first, second))
    found = paired(after, before, Resamples.of(after, before, seed=SEED))
    parts = [
        f"balanced accuracy {_signed(found['balanced_accuracy'], 100, '.1f')} points",
        f"macro AUROC {_signed(found['macro_auroc'], 1, '.3f')}",
    ]
    return f"{second.name} - {first.name}: {', '.join(parts)}"


def _predictions(run: ComparedRun) -> Predictions:
    assert run.folder is not None
    return read_predictions(run.folder / PREDICTIONS)


def _signed(found: Mapping[str, Any], scale: float, form: str) -> str:
    """``+3.2 (1.0 to 5.4)``."""
    if found["difference"] is None:
        return "unknown"
    text = f"{scale * found['difference']:+{form}}"
    if found["interval"] is None:
        return text
    low, high = (scale * limit for limit in found["interval"])
    return f"{text} ({low:+{form}} to {high:+{form}})"
