"""The CSV of `cxrdist predict`: image, label, predicted, one probability per class (``p:<class>``), error."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxrdist.errors import UserError, from_os

if TYPE_CHECKING:
    from cxrdist.cls.prediction.predict import Predicted

PREFIX = "p:"


def csv_of(found: Predicted) -> str:
    """The file's text. An image that cannot be read has an error and no numbers; float32 are written exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "predicted", *(PREFIX + name for name in found.classes), "error"])
    for image, row in zip(found.images, found.probabilities, strict=True):
        numbers = [""] * len(found.classes) if row is None else [f"{p:.9g}" for p in row]
        best = "" if row is None else found.classes[int(row.argmax())]
        writer.writerow([image.name, image.label, best, *numbers, image.error])
    return text.getvalue()


def read_probabilities(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the images, classes, and probabilities [n, C] float32, without the images that could not be read.

    Raises UserError, with the line, for anything else than such a file.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise from_os(error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV of `cxrdist predict` ({error})") from None
    header = rows[0] if rows else []
    columns = [n for n, name in enumerate(header) if name.startswith(PREFIX)]
    if "image" not in header or not columns:
        raise UserError(
            f"{path}: not a CSV of `cxrdist predict`: it has no column image, or none that begins with p:"
        )
    names, numbers = [], []
    at = header.index("image")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: {len(row)} values in {len(header)} columns")
        if any(row[n] for n in columns):
            names.append(row[at])
            numbers.append(_numbers([row[n] for n in columns], path, line))
    if not names:
        raise UserError(f"{path}: has no image with probabilities")
    return names, [header[n].removeprefix(PREFIX) for n in columns], np.array(numbers, np.float32)


def _numbers(words: Sequence[str], path: Path, line: int) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or not abs(sum(numbers) - 1) < 1e-3:
        raise UserError(f"{path}:{line}: {', '.join(words)}: not probabilities that sum to 1")
    return numbers
