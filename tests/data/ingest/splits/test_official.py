"""The source's own split."""

from __future__ import annotations

from collections import Counter

import pytest

from cxrdist.data.ingest.splits.official import official_split
from cxrdist.errors import UserError


def test_an_official_split_is_taken_as_it_is() -> None:
    said = ["train", "val", "test", "train"]
    assert official_split(list("abcd"), ["x"] * 4, said, list("abcd"), val=0.5, seed=0) == said


def test_train_val_is_drawn_apart_by_patient_and_test_stays() -> None:
    patients = [f"p{i // 2}" for i in range(20)] + ["t0", "t1"]
    said = ["train-val"] * 20 + ["test"] * 2
    splits = official_split(patients, ["x"] * 22, said, patients, val=4, seed=0)
    assert Counter(splits) == {"train": 16, "val": 4, "test": 2}
    assert all(splits[i] == splits[i + 1] for i in range(0, 20, 2))
    assert splits[20:] == ["test", "test"]


def test_an_official_split_that_divides_a_patient_is_refused() -> None:
    with pytest.raises(UserError, match=r"divides 1 patients .* use --split drawn"):
        official_split(list("aab"), ["x"] * 3, ["train", "val", "test"], list("aab"), val=0.5, seed=0)


def test_an_official_split_that_lacks_a_class_is_refused() -> None:
    with pytest.raises(UserError, match="no val image of x"):
        official_split(list("ab"), ["x"] * 2, ["train", "test"], list("ab"), val=0.5, seed=0)


def test_what_is_drawn_of_an_official_split_keeps_films_together() -> None:
    patients = [f"p{i}" for i in range(12)] + ["t"]
    films = [f"f{i // 2}" for i in range(12)] + ["f0"]  # a film of test's is another's, too: test stays
    said = ["train-val"] * 12 + ["test"]
    splits = official_split(patients, ["x"] * 13, said, films, val=4, seed=0)
    assert all(splits[i] == splits[i + 1] for i in range(0, 12, 2))
    assert Counter(splits) == {"train": 8, "val": 4, "test": 1}
