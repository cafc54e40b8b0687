from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.errors import UserError
from cxrdist.metrics.predictions import Predictions, read_predictions, write_predictions
from tests.helpers.predictions import predicted

TWO = replace(
    predicted([1, 0], [[0.25, 0.75], [0.1, 0.9]], "ab"),
    keys=np.array(["y", "x"]),
    patients=np.array(["p", ""]),
    view=np.array(["PA", ""]),
    sex=np.array(["F", ""]),
    age=np.array([61, np.nan]),
)
TEXT = "key,class,patient,view,sex,age,p:a,p:b\nx,a,,,,,0.100000001,0.899999976\ny,b,p,PA,F,61,0.25,0.75\n"


def test_the_file_is_sorted_by_key_with_nine_digits(tmp_path: Path) -> None:
    write_predictions(tmp_path / "new" / "p.csv", TWO)
    assert (tmp_path / "new" / "p.csv").read_bytes() == TEXT.encode()
    found = read_predictions(tmp_path / "new" / "p.csv")
    assert (found.keys.tolist(), found.labels.tolist(), found.classes) == (["x", "y"], [0, 1], ("a", "b"))
    assert (found.patients.tolist(), found.view.tolist(), found.sex.tolist()) == (
        ["", "p"],
        ["", "PA"],
        ["", "F"],
    )
    np.testing.assert_array_equal(found.age, [np.nan, 61])
    assert (found.labels.dtype, found.probabilities.dtype, found.age.dtype) == (
        np.int64,
        np.float32,
        np.float64,
    )


def test_every_float32_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Through a float64, as pandas reads it. The shortest digits 7.038531e-26 would give the next float32."""
    first = np.random.default_rng(0).uniform(0, 1, 2000).astype(np.float32)
    first[:6] = [0, 1, 1e-45, 1.1754942e-38, 7.0385307e-26, 2**-24]
    first[6:1000] = 10.0 ** -np.linspace(0, 44, 994)
    written = predicted([0] * 2000, np.stack([first, 1 - first], 1), "ab")
    write_predictions(tmp_path / "p.csv", written)
    found = read_predictions(tmp_path / "p.csv")
    where = {key: row for row, key in enumerate(found.keys.tolist())}
    rows = [where[key] for key in written.keys.tolist()]
    np.testing.assert_array_equal(found.probabilities[rows], written.probabilities)


def test_names_may_hold_commas_quotes_and_letters_of_any_language(tmp_path: Path) -> None:
    names = ("Épanchement, gauche", 'the "other"')
    write_predictions(tmp_path / "p.csv", replace(TWO, classes=names))
    assert (tmp_path / "p.csv").read_bytes().startswith(b"\xef\xbb\xbfkey,")
    with (tmp_path / "p.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list(names)
    assert read_predictions(tmp_path / "p.csv").classes == names


def test_predictions_on_no_images(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", TWO.take(np.array([], int)))
    found = read_predictions(tmp_path / "p.csv")
    assert (len(found), found.probabilities.shape, found.classes) == (0, (0, 2), ("a", "b"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TEXT, "", "line 1: column 'key' is missing"),
        ("view,", "", "line 1: column 'view' is missing"),
        (
            "key,class",
            "class,key",
            "line 1: the columns must be key,class,patient,view,sex,age, then one p:<class>",
        ),
        (",p:a,p:b", "", "line 1: the columns must be"),
        ("p:b", "p:a", "line 1: the columns must be"),
        ("p:b", "b", "line 1: the columns must be"),
        (",0.25,0.75", ",0.25", "line 3: 7 values for 8 columns"),
        ("61,", "61,0,", "line 3: 9 values for 8 columns"),
        ("y,b,", ",b,", "line 3: the key is empty"),
        ("y,b,", "x,b,", "line 3: key 'x' is also in line 2"),
        ("y,b,", "y,B,", "line 3: 'B' is not a class; did you mean 'b'?"),
        ("61", "old", "line 3: age is 'old': not a number"),
        ("61", "-1", "line 3: age is -1: must be 0 or more"),
        ("61", "inf", "line 3: age is inf: must be 0 or more"),
        ("0.75", "much", "line 3: p:b is 'much': not a number"),
        ("0.75", "nan", "line 3: a probability is nan: must be from 0 to 1"),
        ("0.25,0.75", "-0.25,1.25", "line 3: a probability is -0.25: must be from 0 to 1"),
        ("0.75", "0.7", "line 3: the probabilities have the sum 0.95, not 1"),
        ("y,b", '"y,b', "line 3: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_reported_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p\.csv: no such file$"):
        read_predictions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_bytes(b"key\xff")
    with pytest.raises(UserError, match=r"p\.csv: not UTF-8 text \(invalid start byte at byte 3\)$"):
        read_predictions(tmp_path / "p.csv")


def test_values_of_a_diverged_classifier_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="not written, since image i1 is wrong: a probability is nan: must be from 0 to 1"
    ):
        write_predictions(tmp_path / "p.csv", predicted([0, 1], [[0.5, 0.5], [np.nan, 1]], "ab"))
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_an_unknown_patient_is_a_patient_of_its_own() -> None:
    assert predicted([0, 0, 0], [[1], [1], [1]], "a", ["p", "", ""]).patient_of_image().tolist() == [
        "p",
        "image i1",
        "image i2",
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", np.array([0, 2]), "labels from 0 to 2: 2 classes"),
        ("labels", np.array([-1, 0]), "labels from -1 to 0"),
        ("keys", np.array(["x", "x"]), "a key occurs twice"),
        ("sex", np.array(["F"]), "sex: 1 values for 2 images"),
        ("probabilities", np.ones((2, 3), np.float32), r"probabilities \(2, 3\): not \(2, 2\)"),
    ],
)
def test_columns_that_do_not_fit_together(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TWO, **{field: value})


def test_taking_images_takes_all_columns() -> None:
    one = TWO.take(np.array([False, True]))
    assert isinstance(one, Predictions)
    assert (one.keys.tolist(), one.labels.tolist(), one.sex.tolist()) == (["x"], [0], [""])
