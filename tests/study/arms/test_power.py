"""What a planned study can show: its test patients, its pilot, and what it prints."""

from __future__ import annotations

import json
import logging
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.errors import UserError
from cxrdist.study.arms import jobs as jobs_module
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.jobs import Plan, plan_study
from cxrdist.study.arms.patients import test_patients as patients_of_test
from cxrdist.study.arms.pilot import pilot_of
from cxrdist.study.arms.power import power_of, shortfall, show_power, table, warn_of_power
from cxrdist.study.stats.power import Design, Spread, smallest_difference
from tests.helpers.launching import CLONE

SOURCE = "phantom --size 16 --images 200"


@pytest.fixture(autouse=True)
def in_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLONE)
    monkeypatch.setattr(jobs_module, "launcher", lambda processes, parallel: ["launch"])


def plan(**changes: Any) -> Plan:
    return plan_study(StudyConfig(**{"name": "none of these", "source": SOURCE, **changes}))


def test_patients_are_those_of_the_set_that_the_source_makes(tmp_path: Path) -> None:
    from cxrdist.data.importers.phantom import Phantom
    from cxrdist.data.ingest.ingest import IngestOptions, ingest

    source = "phantom --size 16 --images 200 --val-images 2 --test-images 7"
    planned = patients_of_test(StudyConfig(source=source, shards=str(tmp_path / "set")))
    # Additional patients have one image each.
    assert planned == dict.fromkeys(planned, 7) and len(planned) == 5
    place = str(tmp_path / "drawn")
    ingest(Phantom(images=200), IngestOptions(out=place, size=16))
    assert patients_of_test(StudyConfig(source=None, shards=place)) == patients_of_test(
        StudyConfig(source=SOURCE, shards=place)
    )


def test_each_patient_is_in_the_test_set_of_one_fold() -> None:
    from cxrdist.data.importers.phantom import Phantom

    records = list(Phantom(images=200).records())
    expected: dict[str, set[str]] = {}
    for record in records:
        expected.setdefault(str(record.label), set()).add(record.patient)
    assert patients_of_test(StudyConfig(source=SOURCE, folds=4)) == {
        name: len(patients) for name, patients in expected.items()
    }


def test_a_source_that_cannot_be_read_is_named(caplog: pytest.LogCaptureFixture) -> None:
    missing = plan(source="nih14 --root nowhere --size 64")
    with pytest.raises(UserError, match=r"source: cxrdist import nih14 --root nowhere --size 64: .*nowhere"):
        power_of(missing)
    with pytest.raises(UserError, match=r"source: phantom ': No closing quotation"):
        StudyConfig(source="phantom '")
    with caplog.at_level(logging.WARNING):
        warn_of_power(missing)
    assert "what this study can show is not known: " in caplog.text and "nowhere" in caplog.text


def test_power_without_a_pilot_is_that_of_the_assumptions() -> None:
    source = "phantom --size 16 --test-images 50"
    power = power_of(plan(source=source, seeds=(0, 1, 2, 3)))
    assert power is not None and power.patients == dict.fromkeys(power.patients, 50)
    half = Design(seeds=4, alpha=0.025)
    assert power.balanced == smallest_difference(half, [0.7] * 5, [50] * 5, Spread(seed_sd=0.02))
    # Five classes: the recall of one varies sqrt(5) times as much between seeds. It is one of eleven comparisons:
    # five with each of two references, and the balanced accuracy with the second one.
    of_class = smallest_difference(
        replace(half, comparisons=11), [0.7], [50], Spread(seed_sd=0.02 * math.sqrt(5))
    )
    assert power.by_class["Normal"] == pytest.approx(of_class)
    two = power_of(plan(source=source, seeds=(0, 1, 2, 3), arms=("DS1", "DS3", "pretrained")))
    assert two is not None and two.design.comparisons == 2 and two.balanced > power.balanced


def test_one_training_per_arm_shows_the_test_patients_alone() -> None:
    power = power_of(plan(source="phantom --size 16 --test-images 100"))
    assert power is not None and power.is_of_patients_alone
    # The normal quantile at 1 - 0.025 / 2 is 2.241403: (2.241403 + 0.841621) * sqrt(2 * 0.5 * 0.7 * 0.3 / 500).
    assert power.balanced == pytest.approx(3.083024 * math.sqrt(0.21 / 500), abs=1e-6)
    assert "one training of each arm" in table(power)[-1]


def write_run(
    folder: Path,
    mix: str,
    fold: int,
    seed: int,
    recalls: tuple[float, float],
    n: dict[str, int] | None = None,
) -> None:
    folder.mkdir(parents=True)
    summary = {
        "job": "cls",
        "status": "finished",
        "mix": mix,
        "seed": seed,
        "data": {"fold": fold, "folds": 3},
        "metrics": {
            "test": {
                "per_class": {"a": recalls[0], "b": recalls[1]},
                "balanced_accuracy": statistics.mean(recalls),
                "n": n,
            }
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_pilot_is_the_mean_recalls_and_the_spread_between_seeds_and_folds(tmp_path: Path) -> None:
    balanced = {0: (0.5, 0.6), 1: (0.7, 0.8), 2: (0.9, 1.0)}
    for fold, values in balanced.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / f"fold{fold}/cls-{seed}", "DS1", fold, seed, (value, value))
    write_run(tmp_path / "search/cls", "DS1", 0, 0, (0.0, 0.0))  # not one of the runs that are compared
    config = StudyConfig(pilot=str(tmp_path))
    found = pilot_of(config, {"a": 8, "b": 98})
    assert found.basis == f"6 finished classifiers in {tmp_path}"
    # (0.75 * n + 1) / (n + 2)
    assert found.recalls == {"a": pytest.approx(0.7), "b": pytest.approx(0.745)}
    assert found.spread.seed_sd == pytest.approx(
        math.sqrt(0.005)
    )  # two seeds that differ by 0.1, in each fold
    assert found.spread.fold_sd == pytest.approx(math.sqrt(0.04 - 0.005 / 2))  # of means 0.55, 0.75, 0.95
    with pytest.raises(UserError, match=r"pilot: .* has no finished classifier of the classes a, c"):
        pilot_of(config, {"a": 8, "c": 8})


def test_few_test_patients_count_once(tmp_path: Path) -> None:
    """Folds that differ as their few test images alone make them have no spread of their own: ``power`` adds it."""
    rng = np.random.default_rng(0)
    for fold in range(200):
        a, b = (float(hits) / 50 for hits in rng.binomial(50, 0.7, 2))
        write_run(tmp_path / f"fold{fold}/cls", "DS1", fold, 0, (a, b), n={"a": 50, "b": 50})
    found = pilot_of(StudyConfig(pilot=str(tmp_path)), {"a": 10_000, "b": 10_000}).spread.fold_sd
    of_patients = math.sqrt(0.7 * 0.3 / 50 / 2)
    assert found < of_patients / 3


def test_a_pilot_has_neither_the_classifier_of_an_evaluation_nor_incomplete_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "cls", "DS1", 0, 0, (1.0, 0.5))
    write_run(tmp_path / "gan/classifier", "DS1", 0, 0, (0.0, 0.0))
    (tmp_path / "gan/summary.json").write_text('{"job": "gan", "status": "finished"}')
    write_run(tmp_path / "broken", "DS1", 0, 0, (0.0, 0.0))
    (tmp_path / "broken/summary.json").write_text('{"job": "cls", "status": "finished", "metrics": null}')
    found = pilot_of(StudyConfig(pilot=str(tmp_path)), {"a": 10, "b": 10})
    assert found.basis.startswith(f"1 finished classifier in {tmp_path};")
    assert found.recalls["a"] == pytest.approx(11 / 12)


def test_a_study_of_few_folds_is_not_told_that_nothing_helps() -> None:
    few = power_of(plan(folds=5, margin_points=0.3))
    assert few is not None
    text = shortfall(few)
    assert text is not None and text.endswith(
        "; no number of test patients would with up to 100 seeds in these folds"
    )
    one_seed = power_of(plan(folds=9, seeds=(0,), margin_points=12.0))
    assert one_seed is not None
    text = shortfall(one_seed)
    assert text is not None and re.search(r" test patients of each class with 1 seed would$", text)


def test_a_pilot_of_one_seed_says_nothing_of_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "cls", "DS1", 0, 0, (1.0, 0.5))
    found = pilot_of(StudyConfig(pilot=str(tmp_path)), {"a": 10, "b": 10})
    assert found.recalls == {"a": pytest.approx(11 / 12), "b": pytest.approx(0.5)}
    assert found.spread == Spread(seed_sd=0.02)
    assert "a standard deviation of 2 points between seeds is assumed" in found.basis


def test_a_study_that_is_too_small_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    small = plan(source="phantom --size 16 --test-images 20", seeds=(0, 1, 2))
    show_power(small)
    shown = capsys.readouterr().out
    assert "balanced accuracy            100    70.0 %" in shown
    assert (
        "too small to show a gain of 1.0 points in balanced accuracy (margin_points): this study shows "
        in shown
    )
    power = power_of(small)
    assert power is not None
    text = shortfall(power)
    assert text is not None and text.endswith(" test patients of each class with 50 seeds would")
    fewest = int(re.search(r"([\d,]+) test patients", text)[1].replace(",", ""))
    design = Design(seeds=50, alpha=0.025)
    for patients, is_enough in ((fewest, True), (fewest - 1, False)):
        found = smallest_difference(design, [0.7] * 5, [patients] * 5, Spread(seed_sd=0.02))
        assert found is not None and (found <= 0.01) is is_enough
    # A wide margin is within reach.
    wide = power_of(plan(source="phantom --size 16 --test-images 20", seeds=(0, 1, 2), margin_points=25.0))
    assert wide is not None and wide.is_enough and shortfall(wide) is None


def test_more_seeds_are_advised_where_they_are_enough() -> None:
    power = power_of(plan(source="phantom --size 16 --test-images 200", seeds=(0, 1), margin_points=5.0))
    assert power is not None
    text = shortfall(power)
    assert text is not None and text.endswith("; 11 seeds would")
    for seeds, is_enough in ((11, True), (10, False)):
        found = smallest_difference(
            Design(seeds=seeds, alpha=0.025), [0.7] * 5, [200] * 5, Spread(seed_sd=0.02)
        )
        assert found is not None and (found <= 0.05) is is_enough


def test_a_study_of_real_images_alone_has_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    show_power(plan(arms=("DS1", "balanced")))
    assert capsys.readouterr().out == "no arm uses synthetic images, so there is nothing to show of them\n"
