"""What is said of readers, on a store that is small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxrdist.synth.review.decisions import read_decisions
from cxrdist.synth.review.report.findings import findings
from cxrdist.synth.review.statistics import as_json, share
from tests.helpers.review_stores import blinded, curated, write_store

EDEMA = {"class_name": "Edema"}
ANN = [
    blinded("Ann", "s1", "synthetic", "synthetic", 5, seconds=1),
    blinded("Ann", "s2", "synthetic", "synthetic", 4, guessed_class="Edema", seconds=2),
    blinded("Ann", "s3", "synthetic", "real", 1, **EDEMA, guessed_class="Edema", seconds=3),
    blinded("Ann", "s4", "synthetic", "synthetic", 3, **EDEMA, guessed_class=None, seconds=4),
    blinded("Ann", "r1", "real", "real", 5, seconds=5),
    blinded("Ann", "r2", "real", "synthetic", 2, **EDEMA, seconds=None, time="2026-03-02T08:30:00+00:00"),
    curated("Ann", "c1", "keep"),
    curated("Ann", "c2", "remove", reason="blurred: at the apex: left"),
    curated("Ann", "c3", "unsure", "Edema"),
    curated("Ann", "c4", "remove", "Edema", reason="blurred"),
    curated("Ann", "c5", "remove", "Edema", reason="anatomy"),
]
BO = [
    blinded("Bo", "s1", "synthetic", "synthetic", None),
    blinded("Bo", "s2", "synthetic", "real", None),
    blinded("Bo", "s3", "synthetic", "real", None, **EDEMA),
]
CY = [curated("Cy", "c1", "keep")]
UNDONE = [
    curated("Ann", "c1", "remove"),
    blinded("Ann", "r1", "real", "synthetic", 1),
    curated("Di", "c1", "keep"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = write_store(tmp_path_factory.mktemp("store") / "review.sqlite", [*ANN, *BO, *CY], UNDONE)
    return findings(read_decisions(store), None)


def of(count: int, n: int) -> dict[str, Any]:
    return as_json(share(count, n))


def test_what_was_read(found: dict[str, Any]) -> None:
    assert (found["first"], found["last"]) == ("2026-03-01T10:00+00:00", "2026-03-02T08:30+00:00")
    assert found["images"] == {"curate": {"synthetic": 5}, "blinded": {"synthetic": 4, "real": 2}}
    assert (found["decisions"], found["taken_back"], found["gates"]) == (15, 3, None)
    assert found["conclusions"][0].startswith("3 readers gave 15 decisions on 11 images.")
    assert found["conclusions"][-1].endswith("no clinical claim is made.")


def test_readers_have_numbers_and_times(found: dict[str, Any]) -> None:
    assert [reader["name"] for reader in found["readers"]] == ["Ann", "Bo", "Cy", "Di"]
    ann, bo, _, di = found["readers"]
    assert ann["decisions"] == {"curate": 5, "blinded": 6} and ann["taken_back"] == {
        "curate": 1,
        "blinded": 1,
    }
    assert ann["seconds"]["blinded"] == {"n": 5, "q25": 2.0, "median": 3.0, "q75": 4.0}
    assert bo["seconds"]["curate"] == {"n": 0, "q25": None, "median": None, "q75": None}
    assert (bo["curate"], di["blinded"], di["curate"]) == (None, None, None)
    assert di["decisions"] == {"curate": 0, "blinded": 0} and di["taken_back"] == {"curate": 1, "blinded": 0}


def test_real_or_synthetic(found: dict[str, Any]) -> None:
    ann, bo = (found["readers"][n]["blinded"] for n in (0, 1))
    assert (ann["right"], ann["synthetic"], ann["real"]) == (of(4, 6), of(3, 4), of(1, 2))
    assert (ann["always_one_answer"], bo["always_one_answer"]) == (0.666667, 1.0)
    assert ann["classes"] == [
        {"class": "Edema", "right": of(1, 3), "synthetic": of(1, 2), "real": of(0, 1)},
        {"class": "Normal", "right": of(3, 3), "synthetic": of(2, 2), "real": of(1, 1)},
    ]
    assert (bo["right"], bo["synthetic"]) == (of(1, 3), of(1, 3))
    assert bo["real"] == {
        "n": 0,
        "count": 0,
        "value": None,
        "low": None,
        "high": None,
        "why": "no real images",
    }


def test_calibration(found: dict[str, Any]) -> None:
    ann, bo = (found["readers"][n]["blinded"]["confidence"] for n in (0, 1))
    assert [level["stated"] for level in ann["levels"]] == [0.5, 0.625, 0.75, 0.875, 1.0]
    assert [level["right"] for level in ann["levels"]] == [of(0, 1), of(0, 1), of(1, 1), of(1, 1), of(2, 2)]
    # Gaps 0.5, 0.625, 0.25, 0.125 and twice 0, of 6; their squares.
    assert (ann["n"], ann["calibration_error"]) == (6, 0.25)
    assert ann["brier"] == pytest.approx((0.25 + 0.390625 + 0.0625 + 0.015625) / 6, abs=1e-6)
    assert (bo["n"], bo["calibration_error"], bo["brier"]) == (0, None, None)
    assert {level["right"]["why"] for level in bo["levels"]} == {"never given"}


def test_guessed_classes(found: dict[str, Any]) -> None:
    guesses = found["readers"][0]["blinded"]["guesses"]
    assert (guesses["classes"], guesses["unanswered"]) == (["Edema", "Normal"], 1)
    assert guesses["synthetic"] == {
        "right": of(2, 3),
        "rows": [{"class": "Edema", "guessed": [1, 0]}, {"class": "Normal", "guessed": [1, 1]}],
    }
    assert guesses["real"] == {
        "right": of(1, 2),
        "rows": [{"class": "Edema", "guessed": [0, 1]}, {"class": "Normal", "guessed": [0, 1]}],
    }


def test_curation(found: dict[str, Any]) -> None:
    ann = found["readers"][0]["curate"]
    assert (ann["keep"], ann["remove"], ann["unsure"]) == (of(1, 5), of(3, 5), of(1, 5))
    assert ann["classes"] == [
        {"class": "Edema", "keep": of(0, 3), "remove": of(2, 3), "unsure": of(1, 3)},
        {"class": "Normal", "keep": of(1, 2), "remove": of(1, 2), "unsure": of(0, 2)},
    ]
    assert ann["reasons"] == [
        {"reason": "blurred", "remove": 2, "unsure": 0},
        {"reason": "anatomy", "remove": 1, "unsure": 0},
        {"reason": None, "remove": 0, "unsure": 1},
    ]
    assert found["readers"][2]["curate"]["reasons"] == []


def test_agreement(found: dict[str, Any]) -> None:
    (pair,) = found["agreement"]["blinded"]["pairs"]
    assert (pair["readers"], pair["same"]) == (["Ann", "Bo"], of(2, 3))
    # Ann: s, s, r; Bo: s, r, r. Chance 2/3 x 1/3 + 1/3 x 2/3 = 4/9; of all answers together 1/2.
    assert (pair["kappa"]["n"], pair["kappa"]["value"]) == (3, 0.4)
    everyone = found["agreement"]["blinded"]["all"]
    assert (everyone["readers"], everyone["kappa"]["n"]) == (["Ann", "Bo"], 3)
    assert everyone["kappa"]["value"] == 0.333333


def test_agreement_that_cannot_be_computed_has_a_reason(tmp_path: Path, found: dict[str, Any]) -> None:
    (pair,) = found["agreement"]["curate"]["pairs"]
    assert (pair["readers"], pair["kappa"]["value"]) == (["Ann", "Cy"], None)
    assert pair["kappa"]["why"] == "all answers are the same"
    alone = findings(read_decisions(write_store(tmp_path / "alone.sqlite", ANN[:6])), None)["agreement"]
    assert alone["blinded"]["pairs"] == [] and alone["blinded"]["all"]["kappa"]["why"] == "one reader only"
    assert alone["curate"]["all"] == {
        "readers": [],
        "kappa": {"n": 0, "count": None, "value": None, "low": None, "high": None, "why": "no reader"},
    }
    apart = [curated("Ann", "c1", "keep"), curated("Bo", "c2", "keep")]
    apart_found = findings(read_decisions(write_store(tmp_path / "apart.sqlite", apart)), None)
    (pair,) = apart_found["agreement"]["curate"]["pairs"]
    assert (pair["same"]["why"], pair["kappa"]["why"]) == ("no image in common", "no image in common")
    assert apart_found["agreement"]["curate"]["all"]["kappa"]["why"] == "no image in common"
