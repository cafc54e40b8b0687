"""The answer on run folders written by hand: sentence, intervals, choice of the best real arm, CSV files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from cxrdist.errors import UserError
from cxrdist.metrics.bootstrap import Resamples
from cxrdist.metrics.predictions import read_predictions
from cxrdist.study.report.answer.files import arms_csv, differences_csv
from cxrdist.study.report.answer.outcomes import BALANCED
from cxrdist.study.report.answer.sentence import sentences
from cxrdist.study.report.answer.words import signed
from cxrdist.study.report.reading.search import collect
from cxrdist.study.report.terminal import print_results
from cxrdist.study.report.write import Results, read_results
from cxrdist.study.stats.differences import Outcome
from tests.helpers.study_runs import CLASSES, IMAGES, write_run, write_study


def two_arms(root: Path, ds1: tuple[int, int], ds3: tuple[int, int]) -> Results:
    """One fold, one seed."""
    write_run(root / "a", "DS1", ds1)
    write_run(root / "b", "DS3", ds3, synthetic=True)
    return read_results([root])


BALANCED_FAMILY, RECALL_FAMILY = 2, 4
"""Of one arm and two classes: one and two comparisons, each family with half of the level."""


def by_hand(root: Path, ds1: tuple[int, int], ds3: tuple[int, int], label: int | None = None):
    """The interval over patients at Bonferroni's level, from which images the arms are right for."""
    family = BALANCED_FAMILY if label is None else RECALL_FAMILY
    predictions = read_predictions(root / "a" / "predictions-test.csv")
    resamples = Resamples.of(predictions, seed=0, replicates=math.ceil(20 * RECALL_FAMILY / 0.05))
    counts = resamples.counts(0, resamples.replicates)  # patients are sorted, as the images are
    differences = []
    for k in range(2):
        drawn = counts[:, k * IMAGES : (k + 1) * IMAGES]
        gained = (np.arange(IMAGES) < ds3[k]).astype(float) - (np.arange(IMAGES) < ds1[k])
        differences.append(drawn @ gained / drawn.sum(1))
    values = np.mean(differences, 0) if label is None else differences[label]
    return np.quantile(values, (0.025 / family, 1 - 0.025 / family))


def shown(interval: np.ndarray) -> str:
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in interval)
    return f"{low} to {high}"


def first(results: Results) -> str:
    return sentences(results.study, results.answer)[0]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_planted_yes(tmp_path: Path) -> None:
    """DS1 is right for 20 and 30 of 40, DS3 for all: recalls +50 and +25 points, balanced accuracy +37.5."""
    results = two_arms(tmp_path, (20, 30), (40, 40))
    interval = by_hand(tmp_path, (20, 30), (40, 40))
    assert first(results) == (
        "Yes: DS3 exceeds DS1, the best arm of real images alone, in balanced accuracy by 37.5 points "
        f"({shown(interval)}, simultaneous 95 % interval over test patients, which does not contain the variation "
        "between trainings)."
    )
    assert sentences(results.study, results.answer)[1] == (
        "By recall of each class: yes for Edema (DS3 +50.0 points) and Normal (DS3 +25.0 points)."
    )


def test_a_planted_no(tmp_path: Path) -> None:
    results = two_arms(tmp_path, (40, 30), (20, 20))
    interval = by_hand(tmp_path, (40, 30), (20, 20))
    assert interval[1] < 0
    assert first(results) == (
        "No: DS3 does not exceed DS1, the best arm of real images alone, in balanced accuracy by 1 point or more; "
        f"the difference is −37.5 points ({shown(interval)}, simultaneous 95 % interval over test patients, which "
        "does not contain the variation between trainings)."
    )
    assert (
        "Shown to be lower than DS1: DS3 (balanced accuracy −37.5), DS3 (Edema −50.0) and DS3 (Normal −25.0)."
        in sentences(results.study, results.answer)
    )


def test_a_planted_not_shown(tmp_path: Path) -> None:
    """Two of 40 images more in each class."""
    results = two_arms(tmp_path, (20, 20), (22, 22))
    interval = by_hand(tmp_path, (20, 20), (22, 22))
    # No image speaks against DS3, which does not show that none would: see the test of this.
    assert interval[0] == 0.0 and interval[1] > 0.01
    interval[0] = -(1 - (0.025 / BALANCED_FAMILY) ** (1 / IMAGES)) / 2
    assert first(results) == (
        "Not shown: DS3 is not shown to exceed DS1, the best arm of real images alone, in balanced accuracy, nor is "
        f"a gain of 1 point excluded; the difference is +5.0 points ({shown(interval)}, simultaneous 95 % interval "
        "over test patients, which does not contain the variation between trainings)."
    )


def test_a_gain_of_one_class_alone_is_named(tmp_path: Path) -> None:
    """Edema gains 35 points, Normal loses 30: balanced accuracy is a little higher."""
    results = two_arms(tmp_path, (20, 40), (34, 28))
    interval = by_hand(tmp_path, (20, 40), (34, 28), label=0)
    answer, balanced, *_ = sentences(results.study, results.answer)
    assert answer.startswith(
        "Yes, for Edema: DS3 exceeds DS1, the best arm of real images alone, in the recall of Edema by 35.0 points "
        f"({shown(interval)}, "
    )
    assert balanced == "By balanced accuracy: not shown (DS3 +2.5)."


def test_a_class_that_others_pay_for_is_no_yes(tmp_path: Path) -> None:
    """Edema gains 50 points, Normal loses 50: the classifier names Edema more often, no more."""
    results = two_arms(tmp_path, (20, 40), (40, 20))
    answer, classes, *_ = sentences(results.study, results.answer)
    assert answer.startswith("Not shown: DS3 is not shown to exceed DS1, ")
    assert classes == (
        "By recall of each class: higher at the expense of other classes for Edema (DS3 +50.0 points); no for Normal."
    )


def test_patients_that_the_test_set_lacks_are_allowed_for(tmp_path: Path) -> None:
    """The arms are right for the same 40 images of Edema, and DS3 loses one of Normal: nothing speaks for DS3, which
    does not show that nothing would. A share p of such patients is missed with the probability (1 - p)^40."""
    results = two_arms(tmp_path, (20, 20), (20, 19))
    balanced, edema, normal = (each.over_patients_simultaneous for each in results.answer.differences)
    unseen = 1 - (0.025 / RECALL_FAMILY) ** (1 / 40)
    assert edema == pytest.approx((-unseen, unseen))
    assert normal is not None and normal[0] < -0.025 and normal[1] == pytest.approx(unseen)
    assert balanced is not None
    assert balanced[1] == pytest.approx((1 - (0.025 / BALANCED_FAMILY) ** (1 / 40)) / 2)
    assert [verdict.answer for verdict in results.answer.verdicts] == ["not shown"] * 3


def test_the_best_real_arm_is_chosen_on_validation_images(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (40, 40), val=0.6)
    write_run(tmp_path / "b", "balanced", (10, 10), val=0.7)
    write_run(tmp_path / "c", "DS3", (20, 20), val=0.9, synthetic=True)
    results = read_results([tmp_path])
    assert (results.answer.best_real, results.answer.baseline) == ("balanced", "DS1")
    assert first(results).startswith("Yes: DS3 exceeds balanced, the best arm of real images alone, ")
    against = {
        (each.comparison.outcome, each.comparison.reference): each.comparison.mean
        for each in results.answer.differences
    }
    assert against[BALANCED, "balanced"] == pytest.approx(0.25)
    assert against[BALANCED, "DS1"] == pytest.approx(-0.5)
    assert [each.corrected.family for each in results.answer.differences] == [1, 5, 5, 5, 5, 5]
    assert (
        "balanced was chosen among 2 arms of real images alone by balanced accuracy on validation images (70.0 %), "
        "not on test." in sentences(results.study, results.answer)
    )


DS1 = ((20, 20), (21, 20), (20, 22), (19, 20))
DS3 = ((30, 34), (33, 33), (31, 35), (30, 33))
GAINS = np.array([[(b - a) / IMAGES for a, b in zip(*pair)] for pair in zip(DS1, DS3)])  # [runs, classes]


def seeds_of_one_fold(root: Path, ds1=DS1, ds3=DS3) -> Results:
    for seed, (plain, filled) in enumerate(zip(ds1, ds3)):
        write_run(root / f"a{seed}", "DS1", plain, seed=seed)
        write_run(root / f"b{seed}", "DS3", filled, seed=seed, synthetic=True)
    return read_results([root])


def test_differences_of_seeds_are_those_of_scipy(tmp_path: Path) -> None:
    results = seeds_of_one_fold(tmp_path)
    lines = rows(differences_csv(results.answer))
    assert [
        (line["outcome"], line["class"], line["arm"], line["reference"], line["pairs"]) for line in lines
    ] == [
        ("balanced accuracy", "", "DS3", "DS1", "4"),
        ("recall", "Edema", "DS3", "DS1", "4"),
        ("recall", "Normal", "DS3", "DS1", "4"),
    ]
    observed = [GAINS.mean(1), GAINS[:, 0], GAINS[:, 1]]
    tests = [stats.ttest_1samp(of_outcome, 0) for of_outcome in observed]
    # Two families, each with half of the level: balanced accuracy alone, and both recalls.
    low, high = sorted((1, 2), key=lambda i: tests[i].pvalue)
    holm = {0: 2 * tests[0].pvalue, low: 4 * tests[low].pvalue}
    holm[high] = max(holm[low], 2 * tests[high].pvalue)
    for i, line in enumerate(lines):
        alone, together = (
            tests[i].confidence_interval(level) for level in (0.95, 1 - 0.025 / (2 if i else 1))
        )
        assert float(line["mean"]) == pytest.approx(observed[i].mean(), rel=1e-5)
        assert float(line["between_runs_low"]) == pytest.approx(alone.low, rel=1e-4)
        assert float(line["between_runs_high"]) == pytest.approx(alone.high, rel=1e-4)
        assert float(line["between_runs_simultaneous_low"]) == pytest.approx(together.low, rel=1e-4)
        assert float(line["p"]) == pytest.approx(tests[i].pvalue, rel=1e-4)
        assert float(line["p_holm"]) == pytest.approx(holm[i], rel=1e-4)
        assert line["decided_by"] == "runs and patients" and line["answer"] == "yes"
        ends = [float(line[f"{which}_simultaneous_low"]) for which in ("between_runs", "over_patients")]
        assert float(line["deciding_low"]) == min(ends)
    assert "over 4 seeds, " in first(results) and "it holds for these test patients" in first(results)


def test_seeds_that_agree_need_the_test_patients_too(tmp_path: Path) -> None:
    """All seeds gain the same two images, and one seed one more: t over seeds finds it, 80 patients cannot."""
    results = seeds_of_one_fold(tmp_path, ((20, 20),) * 4, ((22, 20), (22, 21), (22, 20), (22, 20)))
    (balanced, *_) = results.answer.differences
    assert balanced.corrected.interval is not None and balanced.corrected.interval[0] > 0
    assert balanced.over_patients_simultaneous is not None and balanced.over_patients_simultaneous[0] <= 0
    assert first(results).startswith("Not shown: ")


def test_seeds_without_predictions_show_nothing(tmp_path: Path) -> None:
    for seed, (plain, filled) in enumerate(zip(DS1, DS3)):
        write_run(tmp_path / f"a{seed}", "DS1", plain, seed=seed, keeps_predictions=False)
        write_run(tmp_path / f"b{seed}", "DS3", filled, seed=seed, synthetic=True)
    assert first(read_results([tmp_path])).startswith("Not shown: ")


def folds(root: Path) -> Results:
    write_study(root, {"DS1": False, "DS3": True, "pretrained": True}, folds=4)
    for fold, (plain, filled) in enumerate(zip(DS1, DS3)):
        write_run(root / f"fold{fold}" / "a", "DS1", plain, fold=fold, folds=4, keeps_predictions=False)
        write_run(root / f"fold{fold}" / "b", "DS3", filled, fold=fold, folds=4, synthetic=True)
    # Runs of a search for learning rates are no results.
    write_run(root / "search" / "ds1-lr0.01", "DS1", (0, 0), fold=0, folds=4)
    return read_results([root])


def test_folds_decide_without_the_patients(tmp_path: Path) -> None:
    """The corrected resampled t-test: with 4 folds, test / train = 1 / 2. An arm without runs counts, too."""
    results = folds(tmp_path / "study")
    gains = GAINS.mean(1)
    reach = stats.t.isf(0.025 / 4, 3) * math.sqrt((1 / 4 + 1 / 2) * gains.var(ddof=1))
    interval = np.array([gains.mean() - reach, gains.mean() + reach])
    assert first(results) == (
        f"Yes: DS3 exceeds DS1, the best arm of real images alone, in balanced accuracy by {100 * gains.mean():.1f} "
        f"points ({shown(interval)}, simultaneous 95 % interval over 4 folds)."
    )
    assert "The study also names pretrained, of which no run is finished." in sentences(
        results.study, results.answer
    )


def test_a_run_folder_finds_the_study_that_it_lies_in(tmp_path: Path) -> None:
    write_study(tmp_path, {"DS2": False, "DS1": False, "DS3": True}, margin_points=2.5)
    write_run(tmp_path / "a", "DS1", (20, 20))
    write_run(tmp_path / "b", "DS2", (10, 10), val=0.4)
    write_run(tmp_path / "c", "DS3", (22, 21))  # nothing but study.json says that it uses synthetic images
    results = read_results([tmp_path / name for name in "abc"])
    assert results.study.arms == ("DS2", "DS1", "DS3")
    assert (results.answer.best_real, results.answer.baseline, results.answer.margin) == ("DS1", "DS2", 0.025)
    assert results.study.synthetic == ("DS3",)
    assert "nor is a gain of 2.5 points excluded" in first(results)


def test_a_reference_that_is_no_real_arm_is_said(tmp_path: Path) -> None:
    write_study(tmp_path, {"DS3": True, "DS1": False, "DS2": False}, reference="DS2")
    write_run(tmp_path / "a", "DS1", (20, 20))
    write_run(tmp_path / "b", "DS3", (22, 21), synthetic=True)
    results = read_results([tmp_path])
    assert results.answer.baseline == "DS1"
    assert (
        "There is no comparison with the reference of the study, DS2: it is no arm of real images alone with a "
        "finished run." in sentences(results.study, results.answer)
    )


def test_predictions_of_other_classes_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20))
    other = write_run(tmp_path / "other" / "b", "DS1", (20, 20), classes=("Edema", "Nodule"))
    (other / "predictions-test.csv").replace(tmp_path / "a" / "predictions-test.csv")
    with pytest.raises(
        UserError, match=r"a/predictions-test.csv: has the classes Edema, Nodule, and its run has"
    ):
        read_results([tmp_path / "a"])


def test_predictions_of_other_images_name_both_files(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20))
    write_run(tmp_path / "b", "DS2", (20, 20), images=IMAGES - 1)  # never compared with DS1 by a difference
    with pytest.raises(
        UserError, match=r"a/predictions-test.csv and .*b/predictions-test.csv: .* in one of the two only"
    ):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "first"}, "seed: cannot be first"),
        ({"data": {"folds": 2, "fold": 0}}, "folds: cannot be 2"),
        ({"data": {"folds": 5, "fold": 5}}, "fold: cannot be 5"),
        ({"metrics": {"val": {"balanced_accuracy": 0.5}}}, "metrics: test missing"),
        (
            {"metrics": {"val": {"balanced_accuracy": 0.5}, "test": {}}},
            "metrics: test: balanced_accuracy, metrics: test: accuracy",
        ),
        ({"metrics": None}, "metrics: not a JSON object"),
    ],
)
def test_an_incomplete_summary_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    run = write_run(tmp_path / "a", "DS1", (20, 20))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | changes))
    with pytest.raises(UserError, match=f"a/summary.json: {said}"):
        collect([tmp_path])


def test_runs_of_two_studies_use_neither_description(tmp_path: Path) -> None:
    for name, arm in (("one", "DS1"), ("two", "DS2")):
        write_study(tmp_path / name, {arm: False})
        write_run(tmp_path / name / "a", arm, (20, 20))
    study = collect([tmp_path])
    assert study.described is None
    assert study.skipped[0].startswith("The runs are of several studies (")


def test_a_broken_description_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20))
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"study.json: no description of a study \(KeyError: 'arms'\)"):
        collect([tmp_path])


@pytest.mark.parametrize("margin", [math.nan, 0.0, -1.0])
def test_a_margin_that_is_none_is_named(tmp_path: Path, margin: float) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20))
    write_study(tmp_path, {"DS1": False}, margin_points=margin)
    with pytest.raises(UserError, match=r"study.json: .*margin_points must be more than 0"):
        collect([tmp_path])


def test_arms_without_validation_metrics_are_not_said_to_be_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20), val=math.nan)
    write_run(tmp_path / "b", "DS3", (30, 20), val=math.nan, synthetic=True)
    assert first(read_results([tmp_path])).startswith(
        "No answer: no arm of real images alone has a balanced accuracy on validation images, "
    )


def test_no_difference_has_no_sign(tmp_path: Path) -> None:
    results = two_arms(tmp_path, (20, 20), (20, 20))
    assert "; the difference is 0.0 points (" in first(results)
    assert "The smallest gain that matters is 1 point." in sentences(results.study, results.answer)[-1]
    assert [signed(points) for points in (0.04, -0.04, 0.06, -0.06)] == ["0.0", "0.0", "+0.1", "−0.1"]


@pytest.mark.parametrize(
    ("synthetic", "said"),
    [
        (
            False,
            "No answer: no arm with synthetic images was run; DS1 has a balanced accuracy on test, 50.0 %.",
        ),
        (
            True,
            "No answer: no arm of real images alone was run, which the others could be compared with; DS1 has a "
            "balanced accuracy on test, 50.0 %.",
        ),
    ],
)
def test_without_something_to_compare_there_is_no_answer(tmp_path: Path, synthetic: bool, said: str) -> None:
    write_run(tmp_path / "a", "DS1", (20, 20), synthetic=synthetic)
    assert first(read_results([tmp_path])) == said


def test_arms_have_their_scores_and_both_intervals(tmp_path: Path) -> None:
    results = seeds_of_one_fold(tmp_path)
    found = {
        (line["arm"], line["metric"], line["class"]): line
        for line in rows(arms_csv(results.study, results.answer))
    }
    assert list(dict.fromkeys(arm for arm, _, _ in found)) == ["DS1", "DS3"]
    assert {metric for _, metric, _ in found} == {"balanced accuracy", "recall", "accuracy", "macro AUROC"}
    line = found["DS1", "recall", "Edema"]
    recalls = np.array([right[0] / IMAGES for right in DS1])
    low, high = stats.t.interval(0.95, 3, recalls.mean(), stats.sem(recalls))
    assert (line["runs"], line["real_only"]) == ("4", "yes")
    assert float(line["mean"]) == pytest.approx(recalls.mean())
    assert float(line["sd"]) == pytest.approx(recalls.std(ddof=1), rel=1e-4)
    assert float(line["between_runs_low"]) == pytest.approx(low, rel=1e-4)
    assert float(line["between_runs_high"]) == pytest.approx(high, rel=1e-4)
    score = results.answer.score("DS1", Outcome("recall", CLASSES[0]))
    assert score is not None and score.over_patients is not None
    assert score.over_patients[0] < recalls.mean() < score.over_patients[1]


def test_the_terminal_has_the_answer_and_a_line_per_arm(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "DS1", (20, 30))
    write_run(tmp_path / "b", "balanced", (10, 10), val=0.4)
    write_run(tmp_path / "c", "DS3", (40, 40), synthetic=True)
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_results(read_results([tmp_path]), console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    start = lines.index("")
    assert " ".join(lines[:start]).startswith(
        "Yes: DS3 exceeds DS1, the best arm of real images alone, in balanced"
    )
    head, ds1, ds3, balanced, legend = lines[start + 1 :]
    assert head.split() == ["test,", "%", "bal.", "Edema", "Normal", "-", "best", "real"]
    assert ds1.split() == ["DS1", "62.5", "50.0", "75.0", "best", "real"]
    assert ds3.split()[:5] == ["DS3", "100.0", "100.0", "100.0", "+37.5"]
    assert balanced.split() == ["balanced", "25.0", "25.0", "25.0", "−37.5"]
    assert legend == "bal.: balanced accuracy; then the recall of each class; 1 run per arm"
