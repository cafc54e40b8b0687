from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cxrdist.errors import UserError
from cxrdist.metrics import bootstrap
from cxrdist.metrics.bootstrap import (
    Resamples,
    intervals,
    mean_difference,
    measured,
    paired,
    replicates,
    resampled,
)
from cxrdist.metrics.predictions import Predictions
from tests.helpers.predictions import drawn, predicted

BY_CLASS = ("per_class", "precision", "f1", "auroc", "auprc")


def clustered(is_right: np.ndarray, images: int) -> Predictions:
    """Patients of whom all images are right, or all are wrong; every second patient is of the first class."""
    label = np.arange(len(is_right)) % 2
    chosen = np.where(is_right, label, 1 - label)
    names = np.array([f"p{patient}" for patient in range(len(is_right))])
    return predicted(
        label.repeat(images), np.eye(2)[chosen.repeat(images)], "ab", names.repeat(images).tolist()
    )


def by_images(predictions: Predictions) -> Predictions:
    return replace(predictions, patients=np.full(len(predictions), ""))


def slow(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of images that are literally repeated, with scikit-learn, one class at a time."""
    classes = scores.shape[1]
    chosen = scores.argmax(1)
    confidence = scores.max(1)
    bins = np.ceil(np.round(confidence * 15, 5))  # 0.4 as a float32 is above 0.4
    found = {name: np.full(classes, np.nan) for name in BY_CLASS}
    for k in range(classes):
        is_class, is_chosen = labels == k, chosen == k
        if not is_class.any():
            continue
        hits = (is_class & is_chosen).sum()
        found["per_class"][k] = hits / is_class.sum()
        found["precision"][k] = hits / is_chosen.sum() if is_chosen.any() else np.nan
        found["f1"][k] = 2 * hits / (is_class.sum() + is_chosen.sum())
        found["auroc"][k] = (
            np.nan if is_class.all() else sklearn_metrics.roc_auc_score(is_class, scores[:, k])
        )
        found["auprc"][k] = sklearn_metrics.average_precision_score(is_class, scores[:, k])
    ece = sum(
        abs((confidence - (chosen == labels))[bins == number].sum()) for number in np.unique(bins)
    ) / len(labels)
    return {
        **found,
        "accuracy": np.array((chosen == labels).mean()),
        "balanced_accuracy": np.nanmean(found["per_class"]),
        "macro_f1": np.nanmean(found["f1"]),
        "macro_auroc": np.nanmean(found["auroc"]),
        "macro_auprc": np.nanmean(found["auprc"]),
        "ece": np.array(ece),
        "brier": ((scores - np.eye(classes)[labels]) ** 2).sum(1).mean(),
    }


@pytest.mark.parametrize("step", [0.0, 0.25])
def test_replicates_are_those_of_a_loop_that_repeats_images(step: float) -> None:
    """With ties, and with so few patients that replicates lack a class."""
    given = drawn(60, "abcd", 12, seed=3, step=step)
    rare = given.patients == given.patients[given.labels == 3][0]
    given = given.take((given.labels != 3) | rare)
    resamples = Resamples.of(given, seed=5, replicates=100)
    found = replicates(given, resamples)
    assert np.isnan(found["auroc"][:, 3]).sum() > 20
    for number, counts in enumerate(resamples.counts(0, 100)):
        times = dict(zip(resamples.patients, counts.astype(int)))
        rows = np.repeat(np.arange(len(given)), [times[patient] for patient in given.patients])
        expected = slow(given.labels[rows], given.probabilities[rows].astype(np.float64))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][number], values, rtol=1e-12, atol=1e-14, err_msg=name)
        for name in ("accuracy", "per_class", "precision", "f1"):
            np.testing.assert_array_equal(found[name][number], expected[name])


def test_each_replicate_draws_as_many_patients_as_there_are() -> None:
    resamples = Resamples.of(drawn(300, "ab", 40, seed=1), seed=7, replicates=2000)
    assert resamples.patients.tolist() == sorted(f"p{patient}" for patient in range(40))
    counts = resamples.counts(0, 2000)
    assert (counts.sum(1) == 40).all()
    assert np.abs(counts.mean(0) - 1).max() < 0.1  # standard error 0.022
    assert counts.var() == pytest.approx(1 - 1 / 40, rel=0.02)
    np.testing.assert_array_equal(resamples.counts(500, 503), counts[500:503])


def test_replicates_depend_on_the_seed_and_not_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(100, "abc", 30, seed=1)
    found = replicates(given, Resamples.of(given, seed=7, replicates=50))
    other = replicates(given, Resamples.of(given, seed=8, replicates=50))
    assert (found["brier"] != other["brier"]).sum() > 40
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 700)  # 7 replicates
    again = replicates(given, Resamples.of(given, seed=7, replicates=50))
    for name, values in found.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-12)
        assert values.shape == ((50, 3) if name in BY_CLASS else (50,))


def test_few_replicates_at_once_of_many_images() -> None:
    few = Resamples(np.array(["p0", "p1"]), seed=0, replicates=12)
    assert [chunk.shape for chunk in few.chunks(100_000)] == [(5, 2), (5, 2), (2, 2)]
    assert [chunk.shape for chunk in few.chunks(2**20)] == [(1, 2)] * 12


def test_images_of_a_patient_are_no_independent_evidence() -> None:
    """20 patients with 50 images each, all right or all wrong: what is known is one binomial number of 20."""
    given = clustered(np.arange(20) < 10, 50)
    found = intervals(given, Resamples.of(given, seed=1, replicates=4000))
    assert found["accuracy"] == [0.3, 0.7]  # of Binomial(20, 1/2), the 2.5 % and 97.5 % quantiles
    low, high = intervals(by_images(given), Resamples.of(by_images(given), seed=1))["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1000), rel=0.1)  # 0.062: far too narrow


def test_intervals_cover_the_true_accuracy() -> None:
    random = np.random.default_rng(1)
    covered = {"patients": 0, "images": 0}
    for number in range(200):
        given = clustered(random.uniform(size=40) < 0.7, 5)
        for name, one in (("patients", given), ("images", by_images(given))):
            low, high = intervals(one, Resamples.of(one, seed=number, replicates=200))["accuracy"]
            covered[name] += low <= 0.7 <= high
    assert 180 <= covered["patients"] <= 199  # expected about 187 of 200
    assert covered["images"] < 150


def test_a_class_of_one_patient_is_left_out_where_it_is_not_drawn() -> None:
    given = predicted([0, 0, 1], [[1, 0], [0.4, 0.6], [0.1, 0.9]], "ab", ["p", "q", "r"])
    resamples = Resamples.of(given, seed=2, replicates=200)
    found = replicates(given, resamples)
    drawn_p, drawn_q, drawn_r = resamples.counts(0, 200).T
    np.testing.assert_array_equal(np.isnan(found["per_class"][:, 1]), drawn_r == 0)
    lacks = drawn_r == 0
    np.testing.assert_array_equal(found["balanced_accuracy"][lacks], found["per_class"][lacks, 0])
    has_both = (drawn_r > 0) & (drawn_p + drawn_q > 0)
    np.testing.assert_array_equal(np.isnan(found["macro_auroc"]), ~has_both)
    assert intervals(given, resamples)["per_class"] == {"a": [0.0, 1.0], "b": [1.0, 1.0]}


def test_no_interval_from_few_replicates_or_one_patient() -> None:
    two = Resamples(np.array(["p", "q"]), seed=0)
    assert two.interval(np.arange(101.0)) == [2.5, 97.5]
    assert two.interval(np.array([0.0, 1.0, np.nan, np.nan])) == [0.025, 0.975]
    assert two.interval(np.array([0.0, np.nan, np.nan])) is None
    alone = predicted([0, 1], [[1, 0], [1, 0]], "ab", ["p", "p"])
    found = intervals(alone, Resamples.of(alone, seed=0, replicates=10))
    assert found["accuracy"] is None
    assert found["per_class"] == {"a": None, "b": None}


def test_no_interval_of_what_is_undefined() -> None:
    given = predicted([0, 0], [[1, 0], [0, 1]], "ab")
    found = intervals(given, Resamples.of(given, seed=0, replicates=100))
    assert (found["accuracy"], found["macro_auroc"]) == ([0.0, 1.0], None)
    assert found["auroc"] == {"a": None, "b": None}
    nothing = predicted([], [], "ab")
    assert intervals(nothing, Resamples.of(nothing, seed=0, replicates=10))["accuracy"] is None


def test_folds_share_the_draws_of_all_their_patients() -> None:
    a, b = predicted([0, 1], np.eye(2), "ab", ["p", "q"]), predicted([1], [[1, 0]], "ab", ["r"])
    resamples = Resamples.of(a, b, seed=3, replicates=100)
    assert resamples.patients.tolist() == ["p", "q", "r"]
    counts = resamples.counts(0, 100)
    np.testing.assert_array_equal(np.isnan(replicates(b, resamples)["accuracy"]), counts[:, 2] == 0)
    np.testing.assert_array_equal(np.isnan(replicates(a, resamples)["accuracy"]), counts[:, :2].sum(1) == 0)
    with pytest.raises(ValueError, match="patient r is not among those that are drawn"):
        replicates(b, Resamples.of(a, seed=3))


def test_the_difference_of_two_classifiers_is_taken_within_a_replicate() -> None:
    """``better`` is right where ``worse`` is, and of one more patient in ten: the patients that both get wrong say
    nothing about the difference."""
    worse = clustered(np.random.default_rng(6).uniform(size=100) < 0.5, 3)
    fixed = np.isin(worse.patients, [f"p{patient}" for patient in range(0, 100, 10)])
    better = replace(
        worse,
        probabilities=np.where(fixed[:, None], np.eye(2)[worse.labels], worse.probabilities).astype("f4"),
    )
    resamples = Resamples.of(worse, seed=1)
    found = paired(better.take(np.arange(len(worse))[::-1]), worse, resamples)
    of_better, of_worse = (one.probabilities.argmax(1) == one.labels for one in (better, worse))
    assert found["accuracy"]["difference"] == round(of_better.mean() - of_worse.mean(), 6)
    spread = replicates(better, resamples)["accuracy"] - replicates(worse, resamples)["accuracy"]
    assert found["accuracy"]["interval"] == np.quantile(spread, [0.025, 0.975]).round(6).tolist()
    low, high = found["accuracy"]["interval"]
    alone = intervals(worse, resamples)["accuracy"]
    assert 0 <= low < high
    assert high - low < 0.7 * (alone[1] - alone[0])
    assert set(found["auroc"]) == {"a", "b"}
    same = paired(worse, worse, resamples)
    assert same["brier"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert same["per_class"]["b"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_recalls_alone_are_the_same_and_need_no_rankings() -> None:
    several = [drawn(80, "abc", 25, seed=seed) for seed in (1, 2)]
    resamples = Resamples.of(*several, seed=3, replicates=50)
    for one, found in zip(several, resampled(several, resamples, only_recalls=True)):
        whole = replicates(one, resamples)
        assert found.keys() == {"accuracy", "balanced_accuracy", "per_class"}
        for name, values in found.items():
            np.testing.assert_array_equal(values, whole[name])


def test_differences_are_means_over_seeds_and_then_over_folds() -> None:
    """Two seeds in one fold and one in the other: each fold counts the same, in every replicate."""
    folds = [drawn(60, "ab", 20, seed=1), drawn(90, "ab", 30, seed=2)]
    folds[1] = replace(folds[1], patients=np.char.add("q", folds[1].patients))
    others = [[flipped(folds[0], 3), flipped(folds[0], 5)], [flipped(folds[1], 4)]]
    resamples = Resamples.of(*folds, seed=7, replicates=40)
    pairs = [
        [(first, second) for second in measured(of_fold, resamples)]
        for first, of_fold in zip(measured(folds, resamples), others)
    ]
    values, spread = mean_difference(pairs)
    gain = [
        [a.replicates["balanced_accuracy"] - b.replicates["balanced_accuracy"] for a, b in fold]
        for fold in pairs
    ]
    expected = ((gain[0][0] + gain[0][1]) / 2 + gain[1][0]) / 2
    np.testing.assert_allclose(spread["balanced_accuracy"], expected, atol=1e-15)
    single = [[float(a.values["accuracy"] - b.values["accuracy"]) for a, b in fold] for fold in pairs]
    assert values["accuracy"] == pytest.approx(((single[0][0] + single[0][1]) / 2 + single[1][0]) / 2)


def flipped(predictions: Predictions, step: int) -> Predictions:
    """Every so many images get the other class."""
    swapped = np.arange(len(predictions)) % step == 0
    probabilities = np.where(swapped[:, None], predictions.probabilities[:, ::-1], predictions.probabilities)
    return replace(predictions, probabilities=probabilities)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "c")}, "predictions of a, b and of a, c cannot be compared"),
        ({"keys": np.array(["i0", "i9"])}, "2 images, such as i1, are in one of the two only"),
        ({"labels": np.array([0, 0])}, "image i1 has another class in one of the two"),
        ({"patients": np.array(["q", "q"])}, "image i0 has another patient in one of the two"),
    ],
)
def test_predictions_on_other_images_cannot_be_compared(change: dict[str, Any], message: str) -> None:
    a = predicted([0, 1], np.eye(2), "ab", ["p", "q"])
    with pytest.raises(UserError, match=message):
        paired(a, replace(a, **change), Resamples.of(a, seed=0))
