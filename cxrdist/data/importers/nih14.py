"""NIH ChestX-ray14 (Wang et al., CVPR 2017), in the layout of its release."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdist.data.images import load_grey
from cxrdist.data.importers.base import Importer, Record
from cxrdist.errors import UserError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
TARGETS = {
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Edema": "Pulmonary Edema",
    "Pneumothorax": "Pneumothorax",
}
NEEDED_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")


@dataclass(frozen=True, kw_only=True)
class NIH14(Importer):
    """``root`` holds ``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``) and the images.

    They lie in ``images/`` or, as they are unpacked, in ``images_001/images/`` to ``images_012/images/``. An
    image that the table names and no folder holds stays a record, and counts as undecodable later.
    """

    root: str

    name = "nih14"
    release = "NIH ChestX-ray14"
    targets = TARGETS
    normal = "No Finding"
    is_phantom = False

    def records(self) -> list[Record]:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; name the folder that holds {TABLES[0]}")
        table = next((root / name for name in TABLES if (root / name).is_file()), None)
        if table is None:
            raise UserError(f"{root}: holds neither {TABLES[0]} nor {TABLES[1]}; name the folder that does")
        folder_of = _folders(root)
        records: dict[str, Record] = {}
        for line, row in _rows(table):
            record = _record(row, folder_of, f"{table}, line {line}")
            if record.source_id in records:
                raise UserError(f"{table}, line {line}: {record.source_id} is listed twice; remove one line")
            records[record.source_id] = record
        if not records:
            raise UserError(f"{table}: has no rows; download it again")
        return list(records.values())

    def pixels(self, record: Record, size: int) -> np.ndarray:
        return load_grey(Path(self.root) / record.file, size)


def _folders(root: Path) -> dict[str, str]:
    """Image file name -> its folder, relative to the root."""
    folders = [root / "images", *sorted(root.glob("images_[0-9][0-9][0-9]/images"))]
    folder_of = {
        file.name: folder.relative_to(root).as_posix()
        for folder in folders
        if folder.is_dir()
        for file in folder.iterdir()
    }
    if not folder_of:
        raise UserError(f"{root}: no image in images/ or images_001/images/ ...; unpack the images there")
    return folder_of


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line number, row) of the table."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in NEEDED_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{table}: lacks the columns {', '.join(missing)}; download it again")
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: is not a CSV table in UTF-8 ({error}); download it again") from error


def _record(row: dict[str, str | None], folder_of: dict[str, str], where: str) -> Record:
    file_name, findings, patient = ((row[name] or "").strip() for name in NEEDED_COLUMNS)
    for name, value in zip(NEEDED_COLUMNS, (file_name, findings, patient)):
        if not value:
            raise UserError(f"{where}: no {name}; put it in, or remove the line")
    if Path(file_name).name != file_name:
        raise UserError(f"{where}: the Image Index {file_name!r} is not a plain file name; remove the line")
    sex = (row.get("Patient Gender") or "").strip()
    return Record(
        source_id=file_name,
        patient_id=patient,
        findings=tuple(finding.strip() for finding in findings.split("|")),
        view=(row.get("View Position") or "").strip() or None,
        sex=sex if sex in ("M", "F") else None,
        age=_age_years(row.get("Patient Age") or ""),
        file=f"{folder_of.get(file_name, 'images')}/{file_name}",
    )


def _age_years(text: str) -> int | None:
    """Whole years from "58" (2020's table) or "058Y", "013M", "009D" (2017's); None where it cannot be."""
    match = re.fullmatch(r"([0-9]{1,4})([YMD]?)", text.strip())
    if match is None:
        return None
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "D": 365}[match[2]]
    # The table holds typing errors such as 414; from 90 up an age alone may tell who a person is.
    return min(years, 90) if years <= 120 else None
