from __future__ import annotations

from pathlib import Path

import pytest

from cxrdist.config import find_named, load_yaml
from cxrdist.data.mix import MixRule, quotas, rule_from
from cxrdist.errors import UserError

# Training images per class once 1,000 are taken for validation and 1,000 for test from each class.
PAPER = {
    "Cardiomegaly": 15_098,
    "Normal": 13_781,
    "Pleural Effusion": 12_510,
    "Pulmonary Edema": 3_018,
    "Pneumothorax": 2_013,
}


def rule(name: str) -> MixRule:
    return rule_from(load_yaml(find_named("mix", name)))


def paper_quotas(name: str) -> dict[str, dict[str, int]]:
    return quotas(rule(name), {c: {"real": n} for c, n in PAPER.items()})


def test_ds1_is_the_papers() -> None:
    assert paper_quotas("DS1") == {c: {"real": n} for c, n in PAPER.items()}
    assert sum(q["real"] for q in paper_quotas("DS1").values()) == 46_420


def test_ds2_is_the_papers() -> None:
    assert paper_quotas("DS2") == {c: {"real": 2_013} for c in PAPER}


def test_ds3_is_the_papers() -> None:
    found = paper_quotas("DS3")
    assert {c: q["real"] for c, q in found.items()} == PAPER
    assert {c: q["synthetic"] for c, q in found.items()} == {
        "Cardiomegaly": 15_098,
        "Normal": 16_415,
        "Pleural Effusion": 17_686,
        "Pulmonary Edema": 27_178,
        "Pneumothorax": 28_183,
    }
    assert {sum(q.values()) for q in found.values()} == {30_196}
    assert sum(q["synthetic"] for q in found.values()) == 104_560
    assert sum(sum(q.values()) for q in found.values()) == 150_980


def test_an_empty_class_is_left_out_of_ds1_and_filled_in_ds3() -> None:
    counts = {"a": {"real": 4}, "b": {"real": 0}}
    assert quotas(rule("DS1"), counts) == {"a": {"real": 4}, "b": {"real": 0}}
    assert quotas(rule("DS2"), counts)["a"] == {"real": 4}
    assert quotas(rule("DS3"), counts)["b"] == {"real": 0, "synthetic": 8}


def test_a_rule_of_ones_own() -> None:
    own = rule_from(
        {"name": "half", "images_per_class": "largest", "times": 0.5, "fill": ["real", "synthetic"]}
    )
    assert quotas(own, {"a": {"real": 10}, "b": {"real": 2}}) == {
        "a": {"real": 5, "synthetic": 0},
        "b": {"real": 2, "synthetic": 3},
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x", "images_per_class": "larges"}, "did you mean 'largest'"),
        ({"name": "x", "images_per_clas": 3}, "did you mean 'images_per_class'"),
        ({"name": "x", "images_per_class": 3, "fill": ["sinthetic"]}, "did you mean 'synthetic'"),
        ({"name": "x", "images_per_class": 0}, "1 or more"),
        ({"name": "x", "images_per_class": 3, "times": 0}, "more than 0"),
        ({"name": "x"}, "images_per_class is missing"),
    ],
)
def test_a_wrong_rule_is_explained(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        rule_from(values)


def test_mix_files_say_how_they_are_used() -> None:
    for name in ("DS1", "DS2", "DS3"):
        assert f"--mix {name}" in Path(find_named("mix", name)).read_text()
