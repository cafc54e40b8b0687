from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.gan import jobs, quality_phantom, quality_real
from benchmarks.gan.jobs import Cost
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.models import export_generator
from cxrdist.nets import conditional, dcgan

pytestmark = pytest.mark.slow


def of_class(kid: float | None, recall: float | None, copies: float) -> dict[str, Any]:
    of_kid = {"value": kid, "floor": 0.001, "n_real": 4, "n_floor": 9}
    return {
        "spaces": {"s": {"kid": of_kid, "recall": {"value": recall}, "coverage": {"value": 0.25}}},
        "copies": {"pixels": {"share": copies, "floor": 0.02}},
    }


def found(
    common: float | None, rare: float | None, recall: float | None = 0.5, copies: float = 0.5
) -> dict[str, Any]:
    return {
        name: of_class(kid, recall, copies)
        for name, kid in (("Normal", common), ("Rare", rare), ("Rarest", rare))
    }


def test_a_row_has_the_mean_over_seeds() -> None:
    seeds = [found(0.5, 0.01), found(0.5, 0.03, None, copies=0.1)]
    rows = quality_real.rows_of({"paper": seeds})
    assert [row["class"] for row in rows] == ["Normal", "Rare", "Rarest"]
    not_evaluated = ("agreement", "agreement_real", "near_copies", "near_copies_real", "diversity")
    assert rows[1] == {
        **{"preset": "paper", "class": "Rare", "space": "s", "train": 9, "held_out": 4},
        **{"kid_1000": 20.0, "std": 14.14, "floor_1000": 1.0, "kids_1000": [10.0, 30.0]},
        **{"recall": None, "coverage": 0.25},
        **{"copies": 0.3, "copies_floor": 0.02, "copies_of_seeds": [0.5, 0.1]},
        **dict.fromkeys(not_evaluated),
    }
    (row, *_) = quality_real.rows_of({"paper": [found(None, 0.01)]})
    assert (row["kid_1000"], row["std"], row["kids_1000"]) == (None, None, [None])


def test_a_row_has_agreement_and_near_copies_beside_those_of_real_images() -> None:
    more = {
        "agreement": {"value": 0.8, "real": {"value": 0.9}},
        "near_copies": {"value": 0.2, "null": None},
        "diversity": {"pairwise": 0.75, "nearest": None},
    }
    (row,) = quality_real.rows_of({"p": [{"Normal": of_class(0.1, 0.5, 0.5) | more}]})
    assert {key: row[key] for key in ("agreement", "agreement_real", "near_copies", "diversity")} == {
        **{"agreement": 0.8, "agreement_real": 0.9, "near_copies": 0.2, "diversity": 0.75}
    }
    assert row["near_copies_real"] is None


def test_ratios_are_of_the_rare_classes_and_only_if_there_are_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "kid, nih64 over paper, rare classes, s"
    paper, ours = [found(9.0, 0.04), found(9.0, 0.06)], [found(1.0, 0.01), found(1.0, 0.03, copies=0.25)]
    assert quality_real.ratios_of({"paper": paper, "nih64": ours}, "Normal") == {
        "(KID - floor) x 1000, paper, rare classes, s": 49.0,
        "(KID - floor) x 1000, nih64, rare classes, s": 19.0,
        **{f"copies, paper, {rare}": 0.5 for rare in ("Rare", "Rarest")},
        **{f"copies, nih64, {rare}": 0.375 for rare in ("Rare", "Rarest")},
        name: 0.4,
    }
    for nothing in (None, -0.01, 0.0):
        evaluations = {"paper": [found(9.0, nothing)], "nih64": ours}
        assert name not in quality_real.ratios_of(evaluations, "Normal")
    assert capsys.readouterr().err.count("no ratio") == 3
    assert quality_real.ratios_of({"nih64": [found(1.0, None)]}, "Normal") == {
        f"copies, nih64, {rare}": 0.5 for rare in ("Rare", "Rarest")
    }


def test_an_evaluation_of_other_weights_split_or_classifier_is_repeated(tmp_path: Path) -> None:
    evaluation = {
        "split": "val",
        "models": {"all-classes": {"best": {"weights_sha256": "a"}}},
        "spaces": {"classifier": {"weights_sha256": "c"}},
    }
    run, classifier = tmp_path / "run", tmp_path / "classifier"
    for folder in (run, classifier):
        folder.mkdir()
    (run / "summary.json").write_text(json.dumps({"models": {"all classes": {"weights_sha256": "a"}}}))
    (classifier / "summary.json").write_text(json.dumps({"weights_sha256": "c"}))
    assert quality_real.is_current(evaluation, run, classifier, "val")
    assert not quality_real.is_current(evaluation, run, classifier, "test")
    other = {**evaluation, "spaces": {"classifier": {"weights_sha256": "d"}}}
    assert not quality_real.is_current(other, run, classifier, "val")
    other = {**evaluation, "models": {"all-classes": {"best": {"weights_sha256": "b"}}}}
    assert not quality_real.is_current(other, run, classifier, "val")


def test_the_options_of_a_preset_do_not_change_the_papers() -> None:
    words = ["--shards", "SET", "--mix", "square-root", "--use-unlabelled", "--train-options", "--batch 40"]
    chosen = quality_real.with_train_options(quality_real.options().parse_args(words))
    run = Path("runs/x")
    ours = quality_real.training_words(chosen, "nih64", run, 2)
    assert [word.rpartition("/")[2] for word in ours[:4]] == [
        *("--config", "demo.yaml", "--config", "nih64.yaml")
    ]
    assert ours[4:] == [
        *("--shards", "SET", "--run", "runs/x", "--seed", "2", "--batch", "40"),
        *("--mix", "square-root", "--use-unlabelled"),
    ]
    assert quality_real.training_words(chosen, "paper", run, 2)[2:] == [
        *("--shards", "SET", "--run", "runs/x", "--seed", "2", "--maps", "64"),
        *("--budget", "40000 images", "--images-per-class", "null", "--look-every-images", "8000"),
        *("--placement", "class"),
    ]


def test_the_picture_has_a_row_per_class(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    own = dcgan.Generator(dcgan.DCGANConfig(size=32, z_dim=8, maps=8))
    joint = conditional.ConditionalGenerator(
        conditional.ConditionalConfig(size=32, classes=3, z_dim=8, widths=(8, 8, 4), d_widths=(8, 8, 4))
    )
    reported: dict[str, Any] = {"preset": "x", "lineage": made_from(shards), "metrics": {}}
    for folder, network, classes in (
        ("paper-0/normal", own, ["Normal"]),
        ("nih64-0/all-classes", joint, shards.classes),
    ):
        export_generator(tmp_path / folder, network, classes=classes, **reported)
    runs = [quality_real.run_of(tmp_path, preset, 0) for preset in ("paper", "nih64")]
    jobs.save_picture(tmp_path / "p.png", quality_real.picture_rows(runs, shards, ["Normal"]))
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (34, 3 * 6 * 34 + 2 * 10)
    assert (sheet[1:33, 1:33] == shards.images("train", "Normal", "real", 1)[0]).all()
    assert (sheet[:, 6 * 34 : 6 * 34 + 10] == 255).all()


# ---- phantoms


def figures(value: float, kid: float) -> dict[str, dict[str, float]]:
    by_class = {"A": value, "B": value + 0.2}
    return {figure: by_class for figure in quality_phantom.FIGURES} | {"kid_1000": {"A": kid, "B": kid}}


def test_a_row_of_phantoms_has_means_over_seeds_and_classes() -> None:
    row = quality_phantom.row_of("g", [figures(0.4, 10), figures(0.6, 12)], 0.01)
    assert (row["generator"], row["seeds"], row["real_copies"]) == ("g", 2, 0.01)
    assert (row["agreement"], row["agreement_std"]) == (0.6, 0.1414)
    assert (row["kid_1000"], row["kid_1000_std"]) == (11, 1.41)
    assert [one["agreement"] for one in row["of_seeds"]] == [0.5, 0.7]
    assert row["of_classes"]["B"] == dict.fromkeys(quality_phantom.FIGURES, 0.7) | {"kid_1000": 11}
    assert quality_phantom.row_of("g", [figures(0.4, 10)], None)["agreement_std"] is None


def test_the_cost_is_of_the_whole_command() -> None:
    runs = [quality_phantom.Trained({}, Cost(cpu, 60.0), 1000) for cpu in (100.0, 150.0)]
    assert quality_phantom.cost_of(runs) == {
        **{"cpu_s": 125.0, "wall_s": 60.0, "images": 1000, "img_s": 8.0, "cpu_s_of_seeds": [100.0, 150.0]}
    }


def test_ratios_of_phantoms_are_of_the_first_preset() -> None:
    rows = [
        quality_phantom.row_of(name, [figures(copies - 0.1, kid)], 0.2)
        for name, copies, kid in (
            ("demo.yaml", 0.3, 10.0),
            ("demo-dcgan.yaml", 0.3, 90.0),
            (quality_phantom.REFERENCE, 0.3, 20.0),
            (quality_phantom.REAL, 0.2, 1.0),
        )
    ]
    assert quality_phantom.ratios_of(rows) == {
        "KID, demo.yaml over recipe C": 0.5,
        "copies, demo.yaml over real phantoms": 1.5,
    }
    assert quality_phantom.ratios_of([row | {"real_copies": 0.0} for row in rows[:1]]) == {}


def test_a_finished_run_keeps_its_cost_and_an_interrupted_one_starts_again(tmp_path: Path) -> None:
    run, calls = tmp_path / "runs" / "a-0", []

    def start() -> None:
        calls.append(run.exists())
        run.mkdir()
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.measured(run, ["--seed", "0"], start)
    cost = jobs.measured(run, ["--seed", "0"], start)
    assert jobs.measured(run, ["--seed", "0"], start) == cost
    with pytest.raises(SystemExit, match=r"trained with other options \(--seed 0\): remove it and a-0\.cost"):
        jobs.measured(run, ["--seed", "1"], start)
    assert calls == [False, False]
    assert run.is_dir()


def test_the_pictures_columns_are_those_of_the_generators() -> None:
    images = {name: np.full((9, 4, 4), value, np.uint8) for value, name in enumerate("AB")}
    rows = quality_phantom.picture_rows(["A", "B"], [images, images, images])
    assert [[group.shape for group in row] for row in rows] == [[(6, 4, 4)] * 3] * 2
    assert [row[2].max() for row in rows] == [0, 1]
