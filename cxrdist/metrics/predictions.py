"""The predictions of a classifier on a split, and the CSV file that keeps them.

::

    key,class,patient,view,sex,age,p:normal,p:mass
    00c1f8...,mass,9b2e...,PA,F,61,0.0820312503,0.917968750

Probabilities have nine significant digits. So a reader gets the same float32, even one that parses to float64 first.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from cxrdist.errors import UserError, nearest
from cxrdist.files import write_atomic

COLUMNS = ("key", "class", "patient", "view", "sex", "age")
PROBABILITY = "p:"
"""Before the name of a class: the column of its probability."""
SUM_TOLERANCE = 1e-3
"""Probabilities of an image may miss the sum 1 by this much, so that they may be rounded to four digits."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One image per row. Raises ValueError if lengths differ, a label is no class, or a key is there twice."""

    keys: np.ndarray  # [N] str
    labels: np.ndarray  # [N] int64: the true class
    probabilities: np.ndarray  # [N, classes] float32
    classes: tuple[str, ...]
    patients: np.ndarray  # [N] str: salted hashes; "" if unknown
    view: np.ndarray  # [N] str; "" if unknown
    sex: np.ndarray  # [N] str; "" if unknown
    age: np.ndarray  # [N] float64, years; NaN if unknown

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self), len(self.classes)):
            raise ValueError(f"probabilities {self.probabilities.shape}: not {len(self), len(self.classes)}")
        for column in self._columns():
            if len(getattr(self, column)) != len(self):
                raise ValueError(f"{column}: {len(getattr(self, column))} values for {len(self)} images")
        if len(self) and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise ValueError(
                f"labels from {self.labels.min()} to {self.labels.max()}: {len(self.classes)} classes"
            )
        if len(set(self.keys.tolist())) < len(self):
            raise ValueError("a key occurs twice")

    @staticmethod
    def of(
        keys: Sequence[str] | np.ndarray,
        labels: np.ndarray,
        probabilities: np.ndarray,
        classes: Sequence[str],
    ) -> Predictions:
        """Predictions on images of which nothing else is known; ``dataclasses.replace`` adds what is."""
        n = len(keys)
        return Predictions(
            keys=np.asarray(keys, str),
            labels=np.asarray(labels, np.int64),
            probabilities=np.asarray(probabilities, np.float32),
            classes=tuple(classes),
            patients=np.full(n, "", str),
            view=np.full(n, "", str),
            sex=np.full(n, "", str),
            age=np.full(n, np.nan),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def patient_of_image(self) -> np.ndarray:
        """[N] str: the patient of each image. An image of an unknown patient is a patient of its own."""
        # No hash holds a space, so these names are different from all hashes.
        return np.where(self.patients == "", np.char.add("image ", self.keys), self.patients)

    def take(self, rows: np.ndarray) -> Predictions:
        """The images at ``rows``: indices, or [N] bool."""
        return replace(self, **{column: getattr(self, column)[rows] for column in self._columns()})

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "classes"]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the CSV, sorted by key. Raises UserError if an image's values are no probabilities."""
    ordered = predictions.take(np.argsort(predictions.keys, kind="stable"))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(PROBABILITY + name for name in ordered.classes)])
    attributes = (ordered.patients, ordered.view, ordered.sex, ordered.age)
    for key, label, *of_image, probabilities in zip(
        ordered.keys.tolist(),
        ordered.labels.tolist(),
        *(values.tolist() for values in attributes),
        ordered.probabilities.tolist(),
    ):
        try:
            _check(probabilities)
        except ValueError as error:
            raise UserError(f"{path}: not written, since image {key} is wrong: {error}") from None
        age = of_image.pop()
        writer.writerow(
            [key, ordered.classes[label], *of_image, "" if math.isnan(age) else f"{age:.9g}"]
            + [f"{value:.9g}" for value in probabilities]
        )
    content = text.getvalue()
    # Excel takes a file for UTF-8 if it starts with a byte order mark. Other programs need none.
    write_atomic(path, content.encode("ascii" if content.isascii() else "utf-8-sig"))


def read_predictions(path: Path) -> Predictions:
    """Read the CSV, in the order of the file. Raises UserError, naming file and line, if something is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line_of_key: dict[str, int] = {}
    images = []
    try:
        classes = _classes_of(next(reader, []))
        label_of = {name: label for label, name in enumerate(classes)}
        for row in reader:
            images.append(_image_of(row, label_of))
            first = line_of_key.setdefault(row[0], reader.line_num)
            if first != reader.line_num:
                raise ValueError(f"key {row[0]!r} is also in line {first}")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: line {max(1, reader.line_num)}: {error}") from None
    keys, labels, patients, views, sexes, ages, probabilities = zip(*images) if images else [()] * 7
    return Predictions(
        keys=np.array(keys, str),
        labels=np.array(labels, np.int64),
        probabilities=np.array(probabilities, np.float32).reshape(len(keys), len(classes)),
        classes=classes,
        patients=np.array(patients, str),
        view=np.array(views, str),
        sex=np.array(sexes, str),
        age=np.array(ages, np.float64),
    )


def _classes_of(header: Sequence[str]) -> tuple[str, ...]:
    """The classes that the first line names. Raises ValueError with what is wrong with it."""
    for column in COLUMNS:
        if column not in header:
            raise ValueError(f"column {column!r} is missing")
    of_classes = header[len(COLUMNS) :]
    if (
        tuple(header[: len(COLUMNS)]) != COLUMNS
        or not of_classes
        or not all(column.startswith(PROBABILITY) for column in of_classes)
        or len(set(of_classes)) < len(of_classes)
    ):
        raise ValueError(
            f"the columns must be {','.join(COLUMNS)}, then one {PROBABILITY}<class> for each class"
        )
    return tuple(column.removeprefix(PROBABILITY) for column in of_classes)


def _image_of(
    row: Sequence[str], label_of: Mapping[str, int]
) -> tuple[str, int, str, str, str, float, list[float]]:
    """Key, label, patient, view, sex, age and probabilities of a line. Raises ValueError with what is wrong."""
    if len(row) != len(COLUMNS) + len(label_of):
        raise ValueError(f"{len(row)} values for {len(COLUMNS) + len(label_of)} columns")
    key, name, patient, view, sex, age_text, *texts = row
    if not key:
        raise ValueError("the key is empty")
    if name not in label_of:
        raise ValueError(f"{name!r} is not a class{nearest(name, label_of)}")
    age = _number("age", age_text) if age_text else math.nan
    if age < 0 or math.isinf(age):
        raise ValueError(f"age is {age_text}: must be 0 or more")
    probabilities = [_number(PROBABILITY + name, text) for name, text in zip(label_of, texts)]
    _check(probabilities)
    return key, label_of[name], patient, view, sex, age, probabilities


def _number(column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}: not a number") from None


def _check(probabilities: Sequence[float]) -> None:
    """Raises ValueError if the values of an image are no probabilities."""
    for value in probabilities:
        if not 0 <= value <= 1:  # also true for NaN
            raise ValueError(f"a probability is {value:.9g}: must be from 0 to 1")
    if abs(sum(probabilities) - 1) > SUM_TOLERANCE:
        raise ValueError(f"the probabilities have the sum {sum(probabilities):.6g}, not 1")
