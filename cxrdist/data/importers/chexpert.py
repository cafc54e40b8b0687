"""CheXpert 1.0, full size or -small (Irvin et al., AAAI 2019), and its test set (rajpurkarlab on GitHub)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.chexpert_labels import OBSERVATIONS, CheXpertLabelled
from cxrdist.data.importers.common.tables import (
    Row,
    age_years,
    cell,
    find_table,
    inner_path,
    once,
    rows_of,
    sex_of,
    view_of,
)
from cxrdist.errors import UserError

TEST_TABLES = ("test.csv", "test_labels.csv")
# The full-size release comes in four parts: one with the tables and valid/, three with patients of train/.
FIRST_PART = "CheXpert-v1.0 batch 1 (validate & csv)"
TRAIN_PARTS = "CheXpert-v1.0 batch * (train *)"

_PATH = re.compile(r"(?:^|/)((?:train|valid|test)/(patient[0-9]+)/.*)")


@dataclass(frozen=True, kw_only=True)
class CheXpert(CheXpertLabelled):
    """Import CheXpert 1.0 or its -small release: train.csv, valid.csv and, where it lies there, test.csv or
    test_labels.csv, beside train/, valid/ and test/; or the folder of the four parts of the full release.

    What stands before train/, valid/ or test/ in a table's paths is not looked at. ``--split official`` takes
    valid.csv as the test images, and draws val from train.csv; with a test table, the three as they are.
    """

    name = "chexpert"
    release = "CheXpert 1.0"
    example = "cxrdist import chexpert --root ~/CheXpert-v1.0-small --out shards/chexpert --size 64"

    def records(self) -> Iterator[Record]:
        root = Path(self.root)
        is_in_parts = (root / FIRST_PART).is_dir()
        folder = root / FIRST_PART if is_in_parts else root
        part_of = {patient.name: part for part in root.glob(TRAIN_PARTS) for patient in part.iterdir()}
        seen: set[str] = set()
        for table, split in _tables(folder).items():
            for where, row in rows_of(table, ("Path", *OBSERVATIONS)):
                path, patient = _path(cell(row, "Path", where), where)
                once(seen, path, where)
                file = path
                if path.startswith("train/") and patient in part_of:
                    file = f"{part_of[patient].name}/{path.removeprefix('train/')}"
                elif is_in_parts:
                    file = f"{FIRST_PART}/{path}"
                view = _view(row, path, where)
                labels = self.labels_of(row, where)
                yield Record(
                    source_id=path,
                    patient_id=patient,
                    findings=labels.findings,
                    uncounted=labels.uncounted,
                    left_out=self.left_out_view(view) or labels.left_out,
                    split=split,
                    view="LATERAL" if view == "lateral" else view_of(row.get("AP/PA", "")),
                    sex=sex_of(row.get("Sex", "")),
                    # A few rows hold 0, all others the ages of adults.
                    age=age_years(row.get("Age", "")) or None,
                    file=file,
                )


def _tables(folder: Path) -> dict[Path, str]:
    """Table -> what its images are in the release's own split."""
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
            f"{where}: the Path {text!r} holds no train/, valid/ or test/ with a patient in it; download the "
            "table again"
        )
    return inner_path(match[1], "Path", where), match[2]


def _view(row: Row, path: str, where: str) -> str:
    """frontal or lateral; a test table says it in the file's name alone."""
    said = row.get("Frontal/Lateral") or Path(path).stem.rpartition("_")[2]
    if said.lower() not in ("frontal", "lateral"):
        raise UserError(f"{where}: {said!r} is neither Frontal nor Lateral; download the table again")
    return said.lower()
