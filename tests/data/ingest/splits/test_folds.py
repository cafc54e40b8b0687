"""Patients dealt into the folds of a cross-validation."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.data.ingest.splits.folds import deal_folds, fold_split
from cxrdist.errors import UserError


def one_image_each(patients_of: dict[str, int]) -> tuple[list[str], list[str]]:
    labels = [label for label, count in patients_of.items() for _ in range(count)]
    return [f"p{i}" for i in range(len(labels))], labels


def test_classes_of_patients_with_one_image_differ_by_at_most_one_between_folds() -> None:
    patients, labels = one_image_each({"Normal": 103, "Effusion": 20, "Edema": 7})
    counts = Counter(zip(deal_folds(patients, labels, folds=5, seed=3), labels))
    assert sorted(counts[fold, "Normal"] for fold in range(5)) == [20, 20, 21, 21, 21]
    assert [counts[fold, "Effusion"] for fold in range(5)] == [4] * 5
    assert sorted(counts[fold, "Edema"] for fold in range(5)) == [1, 1, 1, 2, 2]
    # The folds that have one more of a class have one less of another.
    assert [sum(counts[fold, label] for label in set(labels)) for fold in range(5)] == [26] * 5


def test_large_patients_are_evened_out_by_small_ones() -> None:
    sizes = [9, 5, 5, 1, 1, 1, 1, 1]
    patients = [f"p{i}" for i, size in enumerate(sizes) for _ in range(size)]
    dealt = deal_folds(patients, ["A"] * len(patients), folds=3, seed=0)
    of_folds = [
        [size for size, i in zip(sizes, range(8)) if dealt[patients.index(f"p{i}")] == f] for f in range(3)
    ]
    assert sorted(of_folds) == [[5, 1, 1], [5, 1, 1], [9, 1]]


def test_patients_of_several_classes_with_many_images_are_even_in_patients_and_images() -> None:
    rng = random.Random(0)
    classes, shares = ["Normal", "Effusion", "Edema"], [80, 15, 5]
    patients, labels = [], []
    for patient in range(1500):
        own = rng.choices(classes, shares)[0]
        for _ in range(min(30, int(rng.paretovariate(1.2)))):
            patients.append(str(patient))
            labels.append(own if rng.random() < 0.7 else rng.choices(classes, shares)[0])
    dealt = deal_folds(patients, labels, folds=5, seed=1)
    images = Counter(zip(dealt, labels))
    of_patients = Counter((fold, label) for fold, label, _ in {*zip(dealt, labels, patients)})
    for label in classes:
        for counts in (images, of_patients):
            of_folds = [counts[fold, label] for fold in range(5)]
            assert max(of_folds) - min(of_folds) <= max(3, 0.02 * sum(of_folds) / 5), (label, of_folds)


@st.composite
def sources(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Images of patients that share classes, each class with five patients of its own at least."""
    classes = "ABC"[: draw(st.integers(1, 3))]
    images = [(f"{label}{i}", label) for label in classes for i in range(5)]
    more = st.tuples(st.integers(0, 15).map(lambda i: f"m{i}"), st.sampled_from(classes))
    images += draw(st.lists(more, max_size=40))
    images = draw(st.permutations(images))
    return [patient for patient, _ in images], [label for _, label in images]


@settings(deadline=None, max_examples=50)
@given(sources(), st.integers(3, 5), st.integers(-3, 2**70))
def test_disjoint_covering_deterministic_and_independent_of_order(
    source: tuple[list[str], list[str]], folds: int, seed: int
) -> None:
    patients, labels = source
    dealt = deal_folds(patients, labels, folds=folds, seed=seed)
    homes = dict(zip(patients, dealt))
    assert [homes[patient] for patient in patients] == dealt
    assert {*zip(dealt, labels)} == {*itertools.product(range(folds), {*labels})}
    backwards = deal_folds(patients[::-1], labels[::-1], folds=folds, seed=seed)
    assert backwards[::-1] == dealt


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sets(st.sampled_from("ABC"), min_size=1), min_size=3, max_size=7))
def test_a_dealing_is_found_wherever_there_is_one(classes_of: list[set[str]]) -> None:
    wanted = {*itertools.product(range(3), set().union(*classes_of))}
    exists = any(
        {(fold, label) for fold, classes in zip(homes, classes_of) for label in classes} == wanted
        for homes in itertools.product(range(3), repeat=len(classes_of))
    )
    patients = [str(i) for i, classes in enumerate(classes_of) for _ in classes]
    labels = [label for classes in classes_of for label in sorted(classes)]
    if exists:
        assert {*zip(deal_folds(patients, labels, folds=3, seed=0), labels)} == wanted
    else:
        with pytest.raises(UserError, match=r"too few .*: no number of folds works; or leave"):
            deal_folds(patients, labels, folds=3, seed=0)


def test_each_fold_is_test_once_and_the_next_one_is_val() -> None:
    patients, labels = one_image_each({"A": 11, "B": 6})
    dealt = deal_folds(patients, labels, folds=4, seed=2)
    for fold in range(4):
        splits = fold_split(patients, labels, folds=4, fold=fold, seed=2)
        for name, of in (
            ("test", [fold]),
            ("val", [(fold + 1) % 4]),
            ("train", {*range(4)} - {fold, (fold + 1) % 4}),
        ):
            assert [s == name for s in splits] == [home in of for home in dealt]


def test_another_seed_is_another_dealing_and_another_process_deals_the_same() -> None:
    patients, labels = [str(i) for i in range(40)], ["AB"[i % 2] for i in range(40)]
    dealt = deal_folds(patients, labels, folds=5, seed=7)
    assert dealt != deal_folds(patients, labels, folds=5, seed=8)
    program = (
        "from cxrdist.data.ingest.splits.folds import deal_folds as d;"
        "print(d([str(i) for i in range(40)], ['AB'[i % 2] for i in range(40)], folds=5, seed=7))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(dealt)


@pytest.mark.parametrize(
    ("edema", "works"),
    [
        (4, "Edema has 4 patients, too few to give each of 5 folds one: at most --folds 4 works"),
        (2, "Edema has 2 patients, too few to give each of 5 folds one: no number of folds works"),
        (1, "Edema has 1 patient, too few to give each of 5 folds one: no number of folds works"),
    ],
)
def test_a_class_in_too_few_patients_is_named_with_the_folds_that_work(edema: int, works: str) -> None:
    patients, labels = one_image_each({"Normal": 9, "Edema": edema})
    with pytest.raises(UserError) as caught:
        deal_folds([*patients, patients[-1]], [*labels, "Edema"], folds=5, seed=0)
    assert str(caught.value) == f"{works}; or leave the class out with --classes, or merge sources"
    if edema == 4:
        deal_folds(patients, labels, folds=4, seed=0)


def test_classes_that_need_the_same_patients_are_too_few_together() -> None:
    # Each class has 3 patients. Two of A's also have B, so the third of A shares a fold with the third of B. Both are
    # patients of C, which then lacks one of the three folds.
    classes_of = ["AB", "AB", "AC", "BC", "C"]
    patients = [str(i) for i, classes in enumerate(classes_of) for _ in classes]
    with pytest.raises(UserError) as caught:
        deal_folds(patients, list("".join(classes_of)), folds=3, seed=0)
    assert str(caught.value) == (
        "C has 3 patients, some of whom other classes need, too few to give each of 3 folds one: no number of folds "
        "works; or leave the class out with --classes, or merge sources"
    )
