"""The jobs of a study: arms x folds x seeds, what each waits for, and what is skipped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cxrdist.errors import OptionError, UserError
from cxrdist.study.arms import jobs as jobs_module
from cxrdist.study.arms.arm import read_arm, read_arms, synthesis_mix
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.jobs import Job, Plan, plan_study
from cxrdist.study.arms.rates import chosen_rate
from cxrdist.study.arms.state import Ledger
from tests.helpers.launching import CLONE


@pytest.fixture(autouse=True)
def in_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLONE)
    monkeypatch.setattr(jobs_module, "launcher", lambda processes, parallel: ["launch"])


def plan(**changes: Any) -> Plan:
    return plan_study(StudyConfig(cls_config="configs/cls/px64.yaml", **changes))


def job(name: str, **changes: Any) -> Job:
    (found,) = (job for job in plan(**changes).jobs if job.name == name)
    return found


def test_one_fold_one_seed() -> None:
    found = plan(evaluation_arm="DS1")
    assert [(job.name, job.needs) for job in found.jobs] == [
        ("import", ()),
        ("gan", ("import",)),
        ("cls-ds1-seed0", ("import",)),
        ("cls-ds2-seed0", ("import",)),
        ("evaluation", ("gan", "cls-ds1-seed0")),
        ("synthesis", ("evaluation", "cls-ds1-seed0")),
        ("cls-ds3-seed0", ("synthesis",)),
    ]


def test_the_classifiers_of_one_arm_judge_synthetic_images() -> None:
    """Those of all seeds; their jobs come first, since the synthesis waits for them."""
    changes = {
        "arms": ("DS1", "balanced", "DS3"),
        "seeds": (3, 4),
        "evaluation_arm": "DS1",
        "gates_arm": "balanced",
    }
    found = plan(**changes, gates="strict", synthesis_options=("--keep-rejected=9",))
    (synthesis,) = (one for one in found.jobs if one.kind == "synthesis")
    assert synthesis.needs == ("evaluation", "cls-balanced-seed3", "cls-balanced-seed4")
    runs = [f"runs/demo/cls-balanced-seed{seed}" for seed in (3, 4)]
    assert synthesis.inputs == tuple(Path(run) / "summary.json" for run in runs)
    words = synthesis.command()
    assert words[words.index("--gates") + 1] == "strict"
    assert words[words.index("--classifiers") + 1] == ",".join(runs)
    assert words[-1] == "--keep-rejected=9"
    names = [one.name for one in plan(**{**changes, "arms": ("DS2", "DS1", "balanced", "DS3")}).jobs]
    assert names.index("cls-balanced-seed3") < names.index("cls-ds2-seed3")
    # Without gates nothing is judged; without an arm the synthesis trains its own classifiers.
    assert "--classifiers" not in job("synthesis", evaluation_arm="DS1", gates="none").command()
    assert "--classifiers" not in job("synthesis").command()
    with pytest.raises(UserError, match="DS3 uses synthetic images; name an arm of real ones"):
        plan(gates_arm="DS3")


def test_every_fold_has_its_own_set_gans_and_classifiers() -> None:
    found = plan(folds=5, seeds=(0, 1), gan_seeds=(7, 8), arms=("DS1", "DS3"))
    assert Counter(job.kind for job in found.jobs) == {
        "import": 5,
        "classifier": 20,
        "gan": 10,
        "evaluation": 10,
        "synthesis": 10,
    }
    for fold in range(5):
        own = [job for job in found.jobs if job.name.startswith(f"fold{fold}/")]
        assert len(own) == 11
        assert all(name.startswith(f"fold{fold}/") for job in own for name in job.needs)
        for one in own:
            words = one.command()
            places = [word for word in words if word.startswith("shards/")]
            assert all(place.startswith(f"shards/demo-fold{fold}") for place in places) and places
    imported = job("fold3/import", folds=5).command()
    assert imported[-4:] == ["--folds", "5", "--fold", "3"]
    # Classifier number n uses GAN number n modulo their count.
    needs = {job.name: job.needs for job in found.jobs}
    assert needs["fold0/cls-ds3-seed0"] == ("fold0/synthesis-seed7",)
    assert needs["fold0/cls-ds3-seed1"] == ("fold0/synthesis-seed8",)


def test_jobs_are_in_an_order_in_which_they_can_run() -> None:
    found = plan(folds=3, learning_rates=(1e-3, 3e-3), evaluation_arm="DS1")
    seen: set[str] = set()
    for one in found.jobs:
        assert seen.issuperset(one.needs), one
        seen.add(one.name)
    assert len(seen) == len(found.jobs)


def test_a_classifier_gets_preset_arm_seed_budget_and_its_synthetic_set() -> None:
    words = job("cls-ds3-seed4", seeds=(4,), budget="100 images", cls_options=("--evaluations=2",)).command()
    assert words[1:] == [
        str(CLONE / "launch/train_cls.py"),
        *("--config", str(CLONE / "configs/cls/px64.yaml")),
        *("--config", str(CLONE / "configs/arm/DS3.yaml")),
        *("--arm", "DS3", "--seed", "4", "--run", "runs/demo/cls-ds3-seed4"),
        *("--shards", "shards/demo"),
        *("--tracking.mode", "auto", "--tracking.group", "demo"),
        *("--synthetic", "shards/demo-synthetic"),
        *("--budget", "100 images"),
        "--evaluations=2",
    ]
    assert "--synthetic" not in job("cls-ds1-seed0").command()


def test_a_set_that_exists_takes_the_place_of_a_gan() -> None:
    found = plan(synthetic="mine", source=None, dry_run=True)
    assert [(job.name, job.needs) for job in found.jobs] == [(f"cls-ds{n}-seed0", ()) for n in (1, 2, 3)]
    command = job("cls-ds3-seed0", synthetic="mine").command()
    assert command[command.index("--synthetic") + 1] == "mine"


def test_the_learning_rate_is_searched_with_equal_effort_for_every_arm(tmp_path: Path) -> None:
    rates = (1e-3, 3e-3)
    found = plan(folds=3, arms=("DS1", "DS2"), learning_rates=rates)
    searches = [job.name for job in found.jobs if job.kind == "search"]
    assert searches == [f"search/{arm}-lr{rate:g}" for arm in ("ds1", "ds2") for rate in rates]
    needs = {job.name: job.needs for job in found.jobs}
    for fold in range(3):
        assert needs[f"fold{fold}/cls-ds2-seed0"][1:] == ("search/ds2-lr0.001", "search/ds2-lr0.003")
    assert [job.kind for job in plan(learning_rates=(3e-3,)).jobs if job.kind == "search"] == []


def test_the_best_rate_on_val_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = read_arm("DS1")
    monkeypatch.chdir(tmp_path)
    config = StudyConfig(learning_rates=(3e-3, 1e-3, 1e-2))
    for rate, score in ((3e-3, 0.7), (1e-3, 0.7), (1e-2, 0.2)):
        folder = tmp_path / f"runs/demo/search/ds1-lr{rate:g}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"metrics": {"val": {"balanced_accuracy": score}}}))
    assert chosen_rate(config, arm) == 1e-3
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"search/ds1-lr0\.01/summary\.json: missing"):
        chosen_rate(config, arm)


def test_all_shipped_arms_can_be_read_and_differ() -> None:
    files = sorted((CLONE / "configs/arm").glob("*.yaml"))
    arms = read_arms([file.stem for file in files])
    assert [arm.name for arm in arms] == [file.stem for file in files]
    assert {arm.name for arm in arms if arm.needs_synthetic} == {
        *("DS3", "DS3-augmented", "pretrained"),
        "distilled",
        *("synthetic-0.25", "synthetic-0.5", "synthetic-1", "synthetic-2"),
    }
    assert read_arm("pretrained").mixes == ("synthetic-balanced", "balanced")
    assert all(arm.about and not arm.about.startswith("#") for arm in arms)


def write_arm(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_what_an_arm_may_not_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: budget: is the same in all arms of a study"):
        read_arm(write_arm(tmp_path, "mine", "mix: DS1\nbudget: 5 epochs\n"))
    with pytest.raises(UserError, match=r"mine\.yaml: stages: must be a list of stages, each with a mix"):
        read_arm(write_arm(tmp_path, "mine", "stages: DS1\n"))
    one, two = (write_arm(tmp_path, name, "arm: same\n") for name in ("one", "two"))
    with pytest.raises(UserError, match=r"one\.yaml and .*two\.yaml have the same name, same"):
        read_arms([one, two])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reference": "DS4"}, r"^reference: DS4 is none of the arms of the study \(DS1, DS2, DS3\)"),
        ({"evaluation_arm": "DS3"}, r"^evaluation_arm: DS3 uses synthetic images; name an arm of real ones"),
        ({"folds": 2}, r"^folds: must be 3 or more \(train, val and test are different folds\), or 1, not 2"),
        ({"seeds": (0, 0)}, r"^seeds: names one twice"),
        ({"synthetic": "s", "folds": 5}, r"^synthetic: one set cannot serve several folds"),
        ({"parallel": 0}, r"^parallel: must be 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        plan(**changes)


def test_images_are_synthesized_for_a_mix_that_serves_all_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mix(name: str, text: str) -> str:
        path = write_arm(tmp_path, name, f"name: {name}\n{text}")
        return write_arm(tmp_path, f"arm-{name}", f"mix: {path}\n")

    rare = mix("rare", 'epoch_images: own\nweights: {Pneumothorax: {synthetic: 1}, "*": {real: 1}}')
    everything = mix(
        "all", "epoch_images: own\nweights: {Normal: {synthetic: 1}, Pneumothorax: {synthetic: 1}}"
    )
    real = mix("real", "epoch_images: own\nweights: {Normal: {real: 1}, Pneumothorax: {real: 1}}")
    assert synthesis_mix(read_arms(["DS1", real]), None) is None
    assert synthesis_mix(read_arms(["DS1", "DS3", "DS2"]), None) == "DS3"
    assert synthesis_mix(read_arms([rare, "DS3", real]), None) == "DS3"
    for order in ([rare, everything], [everything, rare]):
        assert synthesis_mix(read_arms(order), None) == str(tmp_path / "all.yaml")
    with pytest.raises(
        UserError, match=r"synthesized for .*rare\.yaml, but DS3 also needs some of classes that it"
    ):
        synthesis_mix(read_arms(["DS3", rare]), str(tmp_path / "rare.yaml"))


def test_a_teacher_labels_each_synthetic_set_with_all_its_classifiers() -> None:
    found = plan(arms=("DS1", "balanced-augmented", "distilled"), seeds=(0, 1, 2), gan_seeds=(7, 8))
    labels = [job for job in found.jobs if job.kind == "prediction"]
    assert [job.name for job in labels] == [
        "labels-balanced-augmented-gan7",
        "labels-balanced-augmented-gan8",
    ]
    assert labels[1].needs == (
        "synthesis-seed8",
        *(f"cls-balanced-augmented-seed{seed}" for seed in range(3)),
    )
    words = labels[1].command()
    teachers = ",".join(f"runs/demo/cls-balanced-augmented-seed{seed}" for seed in range(3))
    assert words[3:] == [
        "predict",
        "shards/demo-synthetic-seed8",
        "--run",
        teachers,
        "--splits",
        "train",
        "--out",
        "runs/demo/labels-balanced-augmented-gan8/soft-labels.csv",
    ]
    student = next(job for job in found.jobs if job.name == "cls-distilled-seed1")
    assert student.needs == ("labels-balanced-augmented-gan8",)
    assert "--soft-labels" in student.command() and words[-1] in student.command()
    assert student.inputs == (Path(words[-1]),)
    assert labels[1].inputs == tuple(Path(run) / "summary.json" for run in teachers.split(","))
    seen: set[str] = set()
    for one in found.jobs:
        assert seen.issuperset(one.needs), one
        seen.add(one.name)


@pytest.mark.parametrize(
    ("arms", "why"),
    [
        (("DS1", "distilled"), r"arm:balanced-augmented: must be an arm of this study .*\(DS1\)"),
        (("{real}", "balanced-augmented"), "for an arm that uses synthetic ones"),
        (("DS1", "{student}"), "arm:DS3: must be an arm of this study"),
    ],
)
def test_a_teacher_must_be_an_arm_of_real_images(tmp_path: Path, arms: tuple[str, ...], why: str) -> None:
    names = {
        "real": write_arm(tmp_path, "real", "mix: DS1\nsoft_labels: arm:balanced-augmented\n"),
        "student": write_arm(tmp_path, "student", "mix: DS3\nsoft_labels: arm:DS3\n"),
    }
    with pytest.raises(UserError, match=why):
        read_arms([arm.format(**names) for arm in arms])


def test_a_job_is_done_if_its_run_is_finished_by_the_same_command_and_files(tmp_path: Path) -> None:
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text("mix: DS1\n")
    command = ["python", "train", "--config", str(config)]
    one, ledger = Job(name="fold0/a", kind="classifier", command=lambda: command, run=run), Ledger(tmp_path)
    assert not ledger.is_done(one, command)
    ledger.succeeded(one, command)
    assert not ledger.is_done(one, command)  # no run
    run.mkdir()
    (run / "summary.json").write_text('{"status": "finished"}')
    assert ledger.is_done(one, command)
    assert not ledger.is_done(one, [*command, "--budget", "1 epochs"])
    config.write_text("mix: DS2\n")
    assert not ledger.is_done(one, command)
    labels = Job(
        name="labels",
        kind="prediction",
        command=lambda: command,
        run=tmp_path / "labels",
        inputs=(run / "summary.json",),
    )
    ledger.succeeded(labels, command)
    assert not ledger.is_done(labels, command)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/soft-labels.csv").write_text("")
    assert ledger.is_done(labels, command)
    (run / "summary.json").write_text('{"status": "finished", "weights": "of another training"}')
    assert not ledger.is_done(labels, command)
