"""Paired differences between runs that were tested on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from cxrdist.study.compare.runs import ComparedRun

PREDICTIONS = "predictions-test.csv"


def pairs_on_one_test_set(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, ComparedRun]]:
    """All pairs of runs whose folders hold predictions of the same real set's test split."""
    predicted = [run for run in runs if run.folder is not None and (run.folder / PREDICTIONS).is_file()]
    return [
        (first, second)
        for first, second in combinations(predicted, 2)
        if first.options["data.real_digest"] == second.options["data.real_digest"]
    ]


def paired_differences(runs: Sequence[ComparedRun]) -> list[str]:
    """A line for each pair on one test set."""
    return [
        f"{first.name} and {second.name} were tested on the same images"
        for first, second in pairs_on_one_test_set(runs)
    ]
