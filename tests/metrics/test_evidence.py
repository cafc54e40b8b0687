from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from cxrdist.metrics.bootstrap import Resamples, intervals
from cxrdist.metrics.classification import metrics_of
from cxrdist.metrics.evidence import evidence_of
from cxrdist.metrics.subgroups import by_subgroup
from tests.helpers.predictions import drawn, predicted

FIVE = replace(
    predicted([0, 0, 1, 1, 0], np.eye(2)[[0, 1, 1, 1, 0]], "ab", ["p", "q", "p", "", ""]),
    view=np.array(["PA", "AP", "PA", "", "AP"]),
    age=np.array([17.9, 18, 90, np.nan, 65]),
)


def test_subgroups_of_known_attributes() -> None:
    found = by_subgroup(FIVE)
    assert list(found) == ["view", "age"]
    assert found["view"] == {
        "AP": {
            "images": 2,
            "n": {"a": 2, "b": 0},
            "accuracy": 0.5,
            "balanced_accuracy": 0.5,
            "per_class": {"a": 0.5, "b": None},
            "macro_auroc": None,
        },
        "PA": {
            "images": 2,
            "n": {"a": 1, "b": 1},
            "accuracy": 1.0,
            "balanced_accuracy": 1.0,
            "per_class": {"a": 1.0, "b": 1.0},
            "macro_auroc": 1.0,
        },
        "unknown": {"images": 1},
    }
    assert {band: group["images"] for band, group in found["age"].items()} == {
        "0-17": 1,
        "18-39": 1,
        "65+": 2,
        "unknown": 1,
    }
    assert list(found["age"]) == ["0-17", "18-39", "65+", "unknown"]


def test_no_subgroups_if_nothing_is_known() -> None:
    assert by_subgroup(predicted([0, 1], np.eye(2), "ab")) == {}
    said = replace(predicted([0, 1], np.eye(2), "ab"), sex=np.array(["unknown", "F"]))
    assert list(by_subgroup(said)["sex"]) == ["F", "unknown"]
    assert by_subgroup(said)["sex"]["unknown"] == {"images": 1}


def test_age_bands_include_their_youngest() -> None:
    ages = [0, 17, 18, 39, 40, 64, 65, 90]
    given = replace(predicted([0] * 8, [[1, 0]] * 8, "ab"), age=np.array(ages, float))
    assert {band: group["images"] for band, group in by_subgroup(given)["age"].items()} == {
        "0-17": 2,
        "18-39": 2,
        "40-64": 2,
        "65+": 2,
    }


def test_the_evidence_of_a_run() -> None:
    given = drawn(80, "abc", 20, seed=1)
    found = evidence_of(given, seed=4, replicates=30)
    assert found == {
        **metrics_of(given),
        "intervals": intervals(given, Resamples.of(given, seed=4, replicates=30)),
        "subgroups": {},
        "patients": len(set(given.patients.tolist())),
        "replicates": 30,
    }
    low, high = found["intervals"]["auprc"]["c"]
    assert low < found["auprc"]["c"] < high
    assert evidence_of(FIVE, seed=0, replicates=10)["patients"] == 4
    json.dumps(found, allow_nan=False)


def test_a_thousand_replicates_by_default() -> None:
    assert evidence_of(FIVE, seed=0)["replicates"] == 1000


def test_the_evidence_of_an_empty_split() -> None:
    found = evidence_of(predicted([], [], "ab"), seed=0)
    assert (found["accuracy"], found["intervals"]["accuracy"], found["patients"]) == (None, None, 0)
    json.dumps(found, allow_nan=False)
