"""Audits of sets in which copies and duplicates were planted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.cli.synth import audit
from cxrdist.data.shards.manifest import Manifest, Stratum
from cxrdist.data.shards.removed import Reason
from cxrdist.data.shards.writing.rewrite import changing, remove_samples
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError
from cxrdist.synth.audit.sets import FAMILY, open_sets
from cxrdist.synth.audit.verdict import findings
from tests.helpers.audit_sets import (
    CLASSES,
    MADE,
    TRAIN,
    VAL,
    copy_of,
    key_of,
    noise,
    real_images,
    write_classifier,
    write_real,
    write_synthetic,
)

NORMAL, PNEUMOTHORAX = CLASSES
COPIED = {5: 11, 20: 3, 33: 29}
"""Number of a synthetic image -> of the training image that it copies."""
REPEATED = {30: 2, 31: 2}
"""Number of a synthetic image -> of the earlier one that it repeats."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("sets") / "ward"
    return folder, write_real(folder)


@pytest.fixture(scope="module")
def clean() -> dict[str, list[np.ndarray]]:
    """Images of the distribution of the real ones."""
    return {name: noise(320 + place, MADE) for place, name in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
    real: tuple[Path, Manifest],
    clean: dict[str, list[np.ndarray]],
) -> Path:
    """A folder with a set of planted copies and duplicates, and its audit."""
    folder = tmp_path_factory.mktemp("planted")
    of_normal = list(clean[NORMAL])
    for number, original in COPIED.items():
        of_normal[number] = copy_of(real_images(NORMAL, "train")[original])
    for number, original in REPEATED.items():
        of_normal[number] = of_normal[original].copy()
    write_synthetic(folder / "made", real[1], {**clean, NORMAL: of_normal})
    assert _audit(folder / "made", real[0], folder / "out") == 1
    return folder


def _audit(synthetic: Path, real: Path, out: Path, *more: str) -> int:
    return audit([str(synthetic), "--shards", str(real), "--out", str(out), *more])


def _found(out: Path) -> Any:
    return json.loads((out / "audit.json").read_bytes())


def _kinds(out: Path) -> list[tuple[str, str | None]]:
    return [(line["kind"], line["class"]) for line in _found(out)["findings"]]


def test_all_planted_copies_are_found_and_named_with_their_training_images(planted: Path) -> None:
    copies = _found(planted / "out")["classes"][NORMAL]["copies"]
    assert (copies["count"], copies["very_close"]) == (3, 3)
    closest = {(of["key"], of["train_class"], of["train_number"]) for of in copies["closest"][:3]}
    assert closest == {(key_of(NORMAL, made), NORMAL, original) for made, original in COPIED.items()}
    assert copies["calibrated_on"] == 2 * VAL
    assert copies["null_rate"] == pytest.approx(1 / (2 * VAL + 1), abs=1e-6)


def test_more_near_copies_than_chance_gives_must_be_looked_at(planted: Path) -> None:
    found = _found(planted / "out")
    copies = found["classes"][PNEUMOTHORAX]["copies"]
    copies["count"] = copies["most_by_chance"]
    before = findings(found)
    copies["count"] += 1
    (added,) = [line for line in findings(found) if line not in before]
    assert (added["kind"], added["class"]) == ("near copies", PNEUMOTHORAX)
    overall = found["overall"]["copies"]
    overall["count"] = overall["most_by_chance"] + 1
    assert ("near copies", None) in [(line["kind"], line["class"]) for line in findings(found)]


def test_all_planted_duplicates_are_found_and_named_with_the_earlier_image(planted: Path) -> None:
    duplicates = _found(planted / "out")["classes"][NORMAL]["duplicates"]
    assert duplicates["count"] == 2
    pairs = {(pair["key"], pair["of"]) for pair in duplicates["pairs"]}
    assert pairs == {(key_of(NORMAL, made), key_of(NORMAL, first)) for made, first in REPEATED.items()}


def test_the_other_class_is_clean(planted: Path) -> None:
    found = _found(planted / "out")
    assert found["classes"][PNEUMOTHORAX]["copies"]["count"] == 0
    assert found["classes"][PNEUMOTHORAX]["duplicates"]["count"] == 0
    assert {line["class"] for line in found["findings"]} == {NORMAL}
    assert found["overall"]["copies"]["count"] == 3
    assert found["overall"]["duplicates"]["count"] == 2


def test_the_page_loads_nothing_and_shows_the_images(planted: Path) -> None:
    page = (planted / "out" / "audit.html").read_text(encoding="utf-8")
    sources = re.findall(r'\bsrc="([^"]{0,22})', page)
    assert {*sources} == {"data:image/png;base64,"}
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    # Of each class 8 pairs, two grids of 10, and the 8 worst of the one gate left; two pairs of duplicates.
    assert len(sources) == 2 * (8 * 2 + 2 * 10 + 8) + 2 * 2
    assert "This page holds images of patients" in page
    assert str(planted) not in page


def test_real_images_are_left_out_on_request(planted: Path, real: tuple[Path, Manifest]) -> None:
    assert _audit(planted / "made", real[0], planted / "without", "--no-real-images") == 1
    page = (planted / "without" / "audit.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * (8 + 10 + 8) + 2 * 2
    assert "This page holds images of patients" not in page
    assert (planted / "without" / "audit.json").read_bytes() == (planted / "out" / "audit.json").read_bytes()


def test_the_figures_are_all_there(planted: Path) -> None:
    found = _found(planted / "out")
    assert {*found} == {
        *("format", "synthetic", "real", "images_per_class", "gates", "made", "classes", "overall"),
        *("findings", "notes", "must_look"),
    }
    of_class = found["classes"][NORMAL]
    assert {*of_class} == {"images", "looked_at", "copies", "duplicates", "overlap", "labels", "gates"}
    assert {*of_class["overlap"]["random"]} == {"train", "val", "train_by_val"}
    assert of_class["overlap"]["random"]["train"]["real"] == TRAIN
    assert of_class["overlap"]["random"]["val"]["real"] == VAL
    assert {*of_class["gates"]["by_gate"]} == {"pixels", "copy"}
    assert found["made"]["generators"] == {name: ["9" * 64] for name in CLASSES}


def test_a_clean_set_of_an_earlier_version_has_nothing_to_look_at(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    write_synthetic(tmp_path / "made", real[1], clean)
    assert _audit(tmp_path / "made", real[0], tmp_path / "out") == 0
    found = _found(tmp_path / "out")
    assert (found["findings"], found["must_look"]) == ([], False)
    assert found["made"]["gates"] is None
    assert "as that of an earlier version" in (tmp_path / "out" / "audit.html").read_text()


def test_one_image_over_and_over_is_found_by_duplicates_and_coverage(
    tmp_path: Path, real: tuple[Path, Manifest]
) -> None:
    write_synthetic(tmp_path / "made", real[1], {NORMAL: [noise(7, 1)[0]] * 20})
    assert _audit(tmp_path / "made", real[0], tmp_path / "out") == 1
    assert _found(tmp_path / "out")["classes"][NORMAL]["duplicates"]["count"] == 19
    assert {("duplicates", NORMAL), ("coverage", NORMAL)} <= {*_kinds(tmp_path / "out")}


def test_what_the_manifest_admits_is_found(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    gates = {"name": "own", "fitted_on": "train", "calibrated_on": "test", "classes": {}}
    write_synthetic(
        tmp_path / "made",
        real[1],
        {NORMAL: clean[NORMAL]},
        provenance={"training_data": "unknown", "gates": gates},
    )
    assert _audit(tmp_path / "made", real[0], tmp_path / "out") == 1
    assert _kinds(tmp_path / "out") == [("training data", None), ("test split", None)]
    page = (tmp_path / "out" / "audit.html").read_text()
    assert '<dt>learned from</dt><dd class="bad-text">unknown</dd>' in page
    assert '<dt>gates calibrated on</dt><dd class="bad-text">test</dd>' in page


def test_another_lineage_is_refused_or_stands_in_red(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    write_synthetic(tmp_path / "made", real[1], clean, lineage={"real_digest": "5" * 64})
    with pytest.raises(UserError, match=r"descends from another real set.*--allow-other-lineage"):
        _audit(tmp_path / "made", real[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert _audit(tmp_path / "made", real[0], tmp_path / "out", "--allow-other-lineage") == 1
    assert _kinds(tmp_path / "out") == [("other lineage", None)]
    page = (tmp_path / "out" / "audit.html").read_text()
    assert '<dt>compared with</dt><dd class="bad-text">another set</dd>' in page


def test_a_set_of_the_family_is_compared(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    lineage = {"real_digest": "5" * 64, "real_ancestors": [real[1].digest]}
    write_synthetic(tmp_path / "made", real[1], clean, lineage=lineage)
    assert open_sets(str(tmp_path / "made"), str(real[0])).relation == FAMILY


def test_removed_samples_are_counted_by_reason_and_not_looked_at(
    planted: Path, tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    of_normal = list(clean[NORMAL])
    of_normal[4] = copy_of(real_images(NORMAL, "train")[0])
    write_synthetic(tmp_path / "made", real[1], {**clean, NORMAL: of_normal})
    copied, grid = (
        Reason(reason=why, by="review", reviewer=None, time=None) for why in ("copy", "grid lines")
    )
    reasons = {key_of(NORMAL, 4): copied, key_of(NORMAL, 8): grid, key_of(NORMAL, 9): grid}
    store = store_of(tmp_path / "made")
    with changing(store) as manifest:
        remove_samples(store, manifest, {Stratum("train", NORMAL, "synthetic"): reasons}, by="review")
    assert _audit(tmp_path / "made", real[0], tmp_path / "out") == 0
    found = _found(tmp_path / "out")
    assert found["made"]["classes"][NORMAL]["removed"] == [
        {"by": "review", "reason": "copy", "images": 1},
        {"by": "review", "reason": "grid lines", "images": 2},
    ]
    assert found["classes"][NORMAL]["looked_at"] == MADE - 3


def test_a_part_of_the_images_is_the_same_part_each_time(planted: Path, real: tuple[Path, Manifest]) -> None:
    for name in ("a", "b"):
        _audit(planted / "made", real[0], planted / name, "--images", "12")
    assert (planted / "a" / "audit.json").read_bytes() == (planted / "b" / "audit.json").read_bytes()
    found = _found(planted / "a")
    assert found["overall"]["looked_at"] == 24
    assert "24 of 80 images were looked at: of each class the first 12" in found["notes"][0]["text"]


def test_sets_that_cannot_be_compared_are_refused(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    with pytest.raises(UserError, match="is a set of real images"):
        _audit(real[0], real[0], tmp_path / "out")
    few = write_real(tmp_path / "few", val=5)
    write_synthetic(tmp_path / "made", few, clean, lineage={"real_ancestors": [real[1].digest]})
    with pytest.raises(UserError, match="10 images in its val split, and an audit needs 20"):
        _audit(tmp_path / "made", tmp_path / "few", tmp_path / "out")
    with pytest.raises(UserError, match=r"classifiers.*not a finished run"):
        _audit(
            tmp_path / "made",
            real[0],
            tmp_path / "out",
            "--classifiers",
            str(tmp_path),
            "--allow-other-lineage",
        )
    with pytest.raises(UserError, match=r"lies in the shard set"):
        _audit(tmp_path / "made", real[0], tmp_path / "made" / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "made" / "out").exists()


def test_classifiers_add_labels_realism_and_their_space(
    tmp_path: Path, real: tuple[Path, Manifest], clean: dict[str, list[np.ndarray]]
) -> None:
    write_classifier(tmp_path / "cls", real[1], always=NORMAL)
    write_synthetic(tmp_path / "made", real[1], {name: images[:12] for name, images in clean.items()})
    _audit(tmp_path / "made", real[0], tmp_path / "out", "--classifiers", str(tmp_path / "cls"))
    found = _found(tmp_path / "out")
    labels = {name: of["labels"] for name, of in found["classes"].items()}
    assert labels[NORMAL]["synthetic"] == {"count": 12, "of": 12, "rate": 1.0}
    assert labels[NORMAL]["val"] == {"count": VAL, "of": VAL, "rate": 1.0}
    assert labels[PNEUMOTHORAX]["synthetic"] == {"count": 0, "of": 12, "rate": 0.0}
    assert found["overall"]["labels"]["synthetic"] == {"count": 12, "of": 24, "rate": 0.5}
    assert [*found["overall"]["overlap"]] == ["classifier", "random"]
    assert {*found["overall"]["gates"]["by_gate"]} == {"pixels", "realism", "label", "copy"}
    assert "The classifiers see the class in 50 % of the synthetic images" in found["notes"][-1]["text"]


def test_a_class_too_small_to_measure_coverage_has_none(tmp_path: Path, real: tuple[Path, Manifest]) -> None:
    write_synthetic(tmp_path / "made", real[1], {PNEUMOTHORAX: noise(321, 3)})
    assert _audit(tmp_path / "made", real[0], tmp_path / "out") == 0
    found = _found(tmp_path / "out")
    assert [*found["classes"]] == [PNEUMOTHORAX]
    overlap = found["overall"]["overlap"]["random"]
    assert (overlap["train"], overlap["val"]) == (None, None)
    assert overlap["train_by_val"]["covering"] == VAL
