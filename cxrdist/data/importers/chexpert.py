"""CheXpert 1.0, full size or -small (Irvin et al., AAAI 2019), and its test set (rajpurkarlab on GitHub)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.attributes import attributes
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.chexpert_labels import OBSERVATIONS, CheXpertLabelled
from cxrdist.data.importers.common.inner_paths import inner_path
from cxrdist.data.importers.common.tables import Row, cell, find_table, merged, rows_of
from cxrdist.errors import UserError

TEST_TABLES = ("test.csv", "test_labels.csv", "groundtruth.csv")
# The full-size release comes in four parts: one with the tables and valid/, three with patients of train/.
FIRST_PART = "CheXpert-v1.0 batch 1 (validate & csv)"
TRAIN_PARTS = "CheXpert-v1.0 batch * (train *)"

_PATH = re.compile(r"(?:^|/)((?:train|valid|test)/(patient[0-9]+)/.*)")


@dataclass(frozen=True, kw_only=True)
class CheXpert(CheXpertLabelled):
    """Import CheXpert 1.0, full size or -small: a folder with train.csv, valid.csv, optionally test.csv,
    test_labels.csv or groundtruth.csv, and the images in train/, valid/ and test/; or the folder with the four parts
    of the full release.

    Paths in the tables are read from train/, valid/ or test/ on. ``--split official`` uses train, valid and test as
    they are if there is a test table. Otherwise valid.csv has the test images, and val is drawn from train.csv.
    """

    name = "chexpert"
    release = "CheXpert 1.0"
    example = "cxrdist import chexpert --root ~/CheXpert-v1.0-small --out shards/chexpert --size 64"

    def records(self) -> Iterator[Record]:
        return merged(self._rows())

    def _rows(self) -> Iterator[tuple[str, Record]]:
        root = Path(self.root)
        is_in_parts = (root / FIRST_PART).is_dir()
        folder = root / FIRST_PART if is_in_parts else root
        part_of = {patient.name: part for part in root.glob(TRAIN_PARTS) for patient in part.iterdir()}
        for table, split in _tables(folder).items():
            for where, row in rows_of(table, ("Path", *OBSERVATIONS)):
                path, patient = _path(cell(row, "Path", where), where)
                file = path
                if path.startswith("train/") and patient in part_of:
                    file = f"{part_of[patient].name}/{path.removeprefix('train/')}"
                elif is_in_parts:
                    file = f"{FIRST_PART}/{path}"
                view = _view(row, path, where)
                labels = self.labels_of(row, where)
                left_out = self.left_out_view(view)
                of_image = attributes(
                    where,
                    patient=patient,
                    view="LATERAL" if view == "lateral" else row.get("AP/PA", ""),
                    sex=row.get("Sex", ""),
                    # A few rows have age 0, all others are adults: unknown.
                    age=row.get("Age", "") if row.get("Age") != "0" else "",
                )
                yield (
                    where,
                    Record(
                        source_id=path,
                        findings=labels.findings,
                        uncounted=labels.uncounted,
                        left_out=left_out,
                        no_class=None if left_out else labels.no_class,
                        split=split,
                        file=file,
                        **of_image,
                    ),
                )


def _tables(folder: Path) -> dict[Path, str]:
    """Table -> the split of its images in the release."""
    train = find_table(folder, "train.csv")
    valid = folder / "valid.csv"
    tests = [folder / name for name in TEST_TABLES if (folder / name).is_file()]
    tables = {train: "train" if tests else "train-val"}
    if valid.is_file():
        tables[valid] = "val" if tests else "test"
    return tables | {table: "test" for table in tests[:1]}


def _path(text: str, where: str) -> tuple[str, str]:
    """("train/patient00001/study1/view1_frontal.jpg", "patient00001")."""
    match = _PATH.search(text)
    if match is None:
        raise UserError(
            f"{where}: the Path {text!r} has no train/, valid/ or test/ with a patient folder; download the "
            "table again"
        )
    return inner_path(match[1], "Path", where), match[2]


def _view(row: Row, path: str, where: str) -> str:
    """frontal or lateral, from the column, or from the file name in test tables, which have no such column."""
    view = row.get("Frontal/Lateral") or Path(path).stem.rpartition("_")[2]
    if view.lower() not in ("frontal", "lateral"):
        raise UserError(f"{where}: {view!r} is neither Frontal nor Lateral; download the table again")
    return view.lower()
