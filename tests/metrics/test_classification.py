"""Metrics against scikit-learn, torchmetrics, and values computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional import classification as torch_metrics

from cxrdist.metrics.classification import metrics_of, values_of
from tests.helpers.predictions import drawn, predicted

SCALARS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "macro_auprc", "ece", "brier")
BY_CLASS = ("per_class", "precision", "f1", "auroc", "auprc")


def one_hot(chosen: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[chosen]


def test_metrics_of_a_known_confusion() -> None:
    """Of three a's two are right, of two b's one, of one c none; chosen so that accuracy is not the mean recall."""
    found = metrics_of(predicted([0, 0, 0, 1, 1, 2], one_hot([0, 0, 1, 1, 2, 0], 3), "abc"))
    assert found["confusion"] == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert found["n"] == {"a": 3, "b": 2, "c": 1}
    assert found["without_images"] == []
    assert found["accuracy"] == 0.5
    assert found["per_class"] == {"a": 0.666667, "b": 0.5, "c": 0.0}
    assert found["balanced_accuracy"] == 0.388889  # (2/3 + 1/2) / 3
    assert found["precision"] == {"a": 0.666667, "b": 0.5, "c": 0.0}
    assert found["f1"] == {"a": 0.666667, "b": 0.5, "c": 0.0}
    assert found["macro_f1"] == 0.388889
    # a: 2 of 3 positives and 1 of 3 negatives have probability 1: (2 * 2 + 2 * 1/2 + 1 * 2/2) / 9.
    assert found["auroc"] == {"a": 0.666667, "b": 0.625, "c": 0.4}
    # a: precision 2/3 at 2 of 3 positives, then 1/2.
    assert found["auprc"] == {"a": 0.611111, "b": 0.416667, "c": 0.166667}
    assert found["ece"] == 0.5
    assert found["brier"] == 1.0


@pytest.mark.parametrize("step", [0.0, 0.25])
@pytest.mark.parametrize("classes", ["ab", "abcde"])
def test_metrics_are_those_of_scikit_learn(classes: str, step: float) -> None:
    given = drawn(400, classes, 100, seed=1, step=step)
    labels, scores = given.labels, given.probabilities.astype(np.float64)
    chosen = scores.argmax(1)
    is_class = np.eye(len(classes))[labels]
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(labels, chosen)
    auroc = [sklearn_metrics.roc_auc_score(is_class[:, k], scores[:, k]) for k in range(len(classes))]
    auprc = [
        sklearn_metrics.average_precision_score(is_class[:, k], scores[:, k]) for k in range(len(classes))
    ]
    found = values_of(given)
    for name, values in zip(BY_CLASS, (recall, precision, f1, auroc, auprc), strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, chosen),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, chosen),
        "macro_f1": sklearn_metrics.f1_score(labels, chosen, average="macro"),
        "macro_auroc": np.mean(auroc),
        "macro_auprc": np.mean(auprc),
        "brier": ((scores - is_class) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_metrics_are_those_of_torchmetrics() -> None:
    given = drawn(400, "abcd", 100, seed=2, step=0.25)
    found = metrics_of(given)
    both = torch.from_numpy(given.probabilities), torch.from_numpy(given.labels)
    for name, function in (
        ("auroc", torch_metrics.multiclass_auroc),
        ("auprc", torch_metrics.multiclass_average_precision),
        ("f1", torch_metrics.multiclass_f1_score),
    ):
        expected = function(*both, num_classes=4, average="none")
        assert list(found[name].values()) == pytest.approx(expected.tolist(), abs=2e-6)
    assert found["confusion"] == torch_metrics.multiclass_confusion_matrix(*both, num_classes=4).tolist()


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    """Which has the edges of a bin the other way round, so no confidence may lie on one."""
    given = drawn(400, "abcd", 100, seed=2)
    both = torch.from_numpy(given.probabilities), torch.from_numpy(given.labels)
    expected = torch_metrics.multiclass_calibration_error(*both, num_classes=4, n_bins=15)
    assert metrics_of(given)["ece"] == pytest.approx(float(expected), abs=2e-6)


def test_a_perfect_and_a_blind_classifier() -> None:
    perfect = metrics_of(predicted([0, 0, 1, 1], one_hot([0, 0, 1, 1], 2), "ab"))
    assert {name: perfect[name] for name in SCALARS} == {
        **dict.fromkeys(SCALARS, 1.0),
        "ece": 0.0,
        "brier": 0.0,
    }
    blind = metrics_of(predicted([0, 0, 0, 1], np.full((4, 2), 0.5), "ab"))
    assert blind["macro_auroc"] == 0.5
    assert blind["auprc"] == {"a": 0.75, "b": 0.25}
    assert blind["confusion"] == [[3, 0], [1, 0]]  # of equal probabilities the first
    assert blind["precision"] == {"a": 0.75, "b": None}
    assert blind["f1"] == {"a": 0.857143, "b": 0.0}
    assert (blind["ece"], blind["brier"]) == (0.25, 0.5)


def test_a_class_without_images_is_null_and_in_no_mean() -> None:
    """A perfect classifier, but for the third image, which it takes for a ``c``; no image is a ``c``."""
    found = metrics_of(predicted([0, 0, 0, 1], [[1, 0, 0], [1, 0, 0], [0.4, 0, 0.6], [0, 1, 0]], "abc"))
    assert found["without_images"] == ["c"]
    assert found["n"] == {"a": 3, "b": 1, "c": 0}
    for name in BY_CLASS:
        assert found[name]["c"] is None, name
    assert found["per_class"] == {"a": 0.666667, "b": 1.0, "c": None}
    assert found["balanced_accuracy"] == 0.833333
    assert (found["macro_auroc"], found["macro_auprc"]) == (1.0, 1.0)
    assert found["macro_f1"] == 0.9  # (4/5 + 1) / 2


def test_a_split_of_one_class_has_no_auroc() -> None:
    found = metrics_of(predicted([1, 1], [[0.4, 0.6], [0.6, 0.4]], "ab"))
    assert found["auroc"] == {"a": None, "b": None}
    assert found["macro_auroc"] is None
    assert found["auprc"] == {"a": None, "b": 1.0}
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.5, 0.5)


def test_without_images_everything_is_null() -> None:
    found = metrics_of(predicted([], [], "ab"))
    assert found == {
        **dict.fromkeys(SCALARS),
        **{name: {"a": None, "b": None} for name in BY_CLASS},
        "confusion": [[0, 0], [0, 0]],
        "n": {"a": 0, "b": 0},
        "without_images": ["a", "b"],
    }
    json.dumps(found, allow_nan=False)


def test_a_calibration_bin_holds_its_upper_edge() -> None:
    """Bins (a, b] as Guo et al. have them: 0.6 is 9/15, so 0.6 and 0.58 share a bin, and 1 is in the last one."""
    first = [0.6, 0.58, 1.0, 0.95]
    found = metrics_of(predicted([0, 1, 0, 1], [[p, 1 - p] for p in first], "ab"))
    # (|1.18 - 1| + |1.95 - 1|) / 4
    assert found["ece"] == 0.2825
    apart = metrics_of(predicted([0, 1], [[0.6, 0.4], [0.61, 0.39]], "ab"))
    assert apart["ece"] == 0.505  # (|0.6 - 1| + |0.61 - 0|) / 2


def test_brier_is_summed_over_classes() -> None:
    found = metrics_of(predicted([0, 2], [[0.5, 0.25, 0.25], [0.5, 0.5, 0]], "abc"))
    assert found["brier"] == 0.9375  # ((1/4 + 1/16 + 1/16) + (1/4 + 1/4 + 1)) / 2
