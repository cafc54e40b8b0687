from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.splits.drawn import split_patients
from cxrdist.errors import OptionError, UserError

PAPER = {
    "Cardiomegaly": 17_098,
    "Normal": 15_781,
    "Pleural Effusion": 14_510,
    "Pulmonary Edema": 5_018,
    "Pneumothorax": 4_013,
}


def single_image_patients(images: dict[str, int]) -> tuple[list[str], list[str]]:
    labels = [label for label, count in images.items() for _ in range(count)]
    return [f"p{i}" for i in range(len(labels))], labels


def test_the_papers_counts() -> None:
    patients, labels = single_image_patients(PAPER)
    counts = Counter(zip(split_patients(patients, labels, val=1000, test=1000, seed=0), labels))
    assert [counts["train", label] for label in PAPER] == [15_098, 13_781, 12_510, 3_018, 2_013]
    assert [counts["val", label] for label in PAPER] == [1000] * 5
    assert [counts["test", label] for label in PAPER] == [1000] * 5


def test_shares_are_of_each_class() -> None:
    patients, labels = single_image_patients({"A": 100, "B": 20, "C": 3})
    counts = Counter(zip(split_patients(patients, labels, val=0.1, test=0.15, seed=3), labels))
    assert [counts["val", k] for k in "ABC"] == [10, 2, 1]
    assert [counts["test", k] for k in "ABC"] == [15, 3, 1]
    assert [counts["train", k] for k in "ABC"] == [75, 15, 1]


def test_shares_of_a_tiny_class_leave_train_one_image() -> None:
    patients, labels = single_image_patients({"A": 4})
    counts = Counter(split_patients(patients, labels, val=0.45, test=0.45, seed=0))
    assert counts["train"] == 1 and counts["val"] + counts["test"] == 3


def test_a_count_and_a_share_together() -> None:
    patients, labels = single_image_patients({"A": 40})
    counts = Counter(split_patients(patients, labels, val=7, test=0.25, seed=0))
    assert counts == {"train": 23, "val": 7, "test": 10}


def test_patients_with_several_images_and_classes_come_close_to_the_targets_from_below() -> None:
    rng = random.Random(0)
    patients, labels = [], []
    for patient in range(600):
        classes = rng.sample(["A", "A", "A", "B", "C"], 2)
        for _ in range(min(20, int(rng.paretovariate(1.2)))):
            patients.append(str(patient))
            labels.append(rng.choice(classes))
    splits = split_patients(patients, labels, val=0.1, test=0.2, seed=0)
    images, counts = Counter(labels), Counter(zip(splits, labels))
    for label in "ABC":
        assert 0 <= round(0.1 * images[label]) - counts["val", label] <= 1
        assert 0 <= round(0.2 * images[label]) - counts["test", label] <= 1


def test_a_patient_too_large_for_what_val_lacks_goes_to_train() -> None:
    patients = ["a", "b", "c", *(f"large{i}" for i in range(20) for _ in range(10))]
    counts = Counter(split_patients(patients, ["A"] * 203, val=3, test=3, seed=0))
    assert counts == {"train": 201, "val": 1, "test": 1}


def test_another_seed_is_another_split() -> None:
    patients, labels = single_image_patients({"A": 200, "B": 100})
    first = split_patients(patients, labels, val=0.2, test=0.2, seed=0)
    assert first != split_patients(patients, labels, val=0.2, test=0.2, seed=1)


def test_another_process_splits_the_same() -> None:
    program = (
        "from cxrdist.data.ingest.splits.drawn import split_patients as s;"
        "print(s([str(i) for i in range(40)], ['AB'[i % 2] for i in range(40)], val=.2, test=.2, seed=7))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    patients, labels = [str(i) for i in range(40)], ["AB"[i % 2] for i in range(40)]
    assert out.strip() == str(split_patients(patients, labels, val=0.2, test=0.2, seed=7))


@st.composite
def sources(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Images of patients that share classes, each class with three patients of its own at least."""
    classes = "ABCD"[: draw(st.integers(1, 4))]
    images = [(f"{label}{i}", label) for label in classes for i in range(3)]
    more = st.tuples(st.integers(0, 15).map(lambda i: f"m{i}"), st.sampled_from(classes))
    images += draw(st.lists(more, max_size=40))
    images = draw(st.permutations(images))
    return [patient for patient, _ in images], [label for _, label in images]


@settings(deadline=None, max_examples=50)
@given(sources(), st.sampled_from([0.05, 0.2, 0.45, 1]), st.integers(-3, 2**70))
def test_disjoint_covering_deterministic_and_independent_of_order(
    source: tuple[list[str], list[str]], share: float, seed: int
) -> None:
    patients, labels = source
    splits = split_patients(patients, labels, val=share, test=share, seed=seed)
    homes = dict(zip(patients, splits))
    assert [homes[patient] for patient in patients] == splits
    assert set(zip(splits, labels)) == set(itertools.product(("train", "val", "test"), set(labels)))
    assert splits == split_patients(patients, labels, val=share, test=share, seed=seed)
    backwards = split_patients(patients[::-1], labels[::-1], val=share, test=share, seed=seed)
    assert backwards[::-1] == splits


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sets(st.sampled_from("ABC"), min_size=1), min_size=3, max_size=7))
@example([{"A", "C"}, {"B"}, {"A"}, {"B", "C"}, {"A", "B", "C"}])  # the small patients first: never works
def test_a_cover_is_found_wherever_there_is_one(classes_of: list[set[str]]) -> None:
    wanted = set(itertools.product(("train", "val", "test"), set().union(*classes_of)))
    exists = any(
        {(split, label) for split, classes in zip(homes, classes_of) for label in classes} == wanted
        for homes in itertools.product(("train", "val", "test"), repeat=len(classes_of))
    )
    patients = [str(i) for i, classes in enumerate(classes_of) for _ in classes]
    labels = [label for classes in classes_of for label in sorted(classes)]
    if exists:
        splits = split_patients(patients, labels, val=0.1, test=0.1, seed=0)
        assert set(zip(splits, labels)) == wanted
    else:
        with pytest.raises(UserError, match="too few"):
            split_patients(patients, labels, val=0.1, test=0.1, seed=0)


def test_too_few_patients_are_named() -> None:
    patients, labels = single_image_patients({"Normal": 9})
    with pytest.raises(UserError, match=r"Edema has 2 patients, too few .* --classes, or merge sources"):
        split_patients([*patients, "x", "x", "y"], [*labels, *["Edema"] * 3], val=0.1, test=0.1, seed=0)
    with pytest.raises(UserError, match="Edema has 1 patient, too few"):
        split_patients([*patients, "x"], [*labels, "Edema"], val=0.1, test=0.1, seed=0)


def test_a_count_that_leaves_train_nothing_is_refused() -> None:
    patients, labels = single_image_patients({"Normal": 50, "Edema": 20})
    with pytest.raises(
        UserError, match="Edema has 20 images: val 10 and test 10 leave none of them for train"
    ):
        split_patients(patients, labels, val=10, test=10, seed=0)
    counts = Counter(zip(split_patients(patients, labels, val=10, test=9, seed=0), labels))
    assert counts["train", "Edema"] == 1


@pytest.mark.parametrize("wrong", [0, 0.0, -0.1, -3, 2.5, float("nan"), float("inf"), True])
def test_val_and_test_are_checked(wrong: float) -> None:
    with pytest.raises(OptionError, match=f"^val: must be a fraction .*, not {wrong}$"):
        IngestOptions(out="x", val=wrong)
    with pytest.raises(OptionError, match=f"^test: must be a fraction .*, not {wrong}$"):
        IngestOptions(out="x", test=wrong)


def test_shares_that_sum_to_one_are_refused() -> None:
    patients, labels = single_image_patients({"A": 30})
    with pytest.raises(
        UserError, match=r"^val: val 0\.5 and test 0\.5 leave no images for train: .* below 1$"
    ):
        split_patients(patients, labels, val=0.5, test=0.5, seed=0)
