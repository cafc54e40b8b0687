"""NIH ChestX-ray14 (Wang et al., CVPR 2017), in the layout of its release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.tables import (
    age_years,
    cell,
    find_table,
    once,
    plain_name,
    rows_of,
    sex_of,
    view_of,
)
from cxrdist.errors import UserError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


@dataclass(frozen=True, kw_only=True)
class NIH14(FileImporter):
    """Import NIH ChestX-ray14: Data_Entry_2017(_v2020).csv and images/ or images_001/images/ to
    images_012/images/, as released.

    An image that the table names and no folder holds stays a record, and counts as undecodable later.
    ``--split official`` takes train_val_list.txt and test_list.txt, which must then lie beside the table.
    """

    name = "nih14"
    release = "NIH ChestX-ray14"
    example = "cxrdist import nih14 --root ~/NIH --out shards/nih --size 64 --label-rule one-target"
    targets: ClassVar = {
        "Cardiomegaly": "Cardiomegaly",
        "Effusion": "Pleural Effusion",
        "Edema": "Pulmonary Edema",
        "Pneumothorax": "Pneumothorax",
    }
    normal = "No Finding"
    no_official_split = (
        "has train_val_list.txt and test_list.txt for it, and neither lies beside the table: put them there, or "
        "leave the option out"
    )

    def records(self) -> Iterator[Record]:
        root = Path(self.root)
        table = find_table(root, *TABLES)
        folder_of = _folders(root)
        split_of = _official_split(root)
        seen: set[str] = set()
        for where, row in rows_of(table, ("Image Index", "Finding Labels", "Patient ID")):
            file_name = plain_name(cell(row, "Image Index", where), "Image Index", where)
            once(seen, file_name, where)
            yield Record(
                source_id=file_name,
                patient_id=cell(row, "Patient ID", where),
                findings=tuple(f.strip() for f in cell(row, "Finding Labels", where).split("|")),
                split=split_of.get(file_name),
                view=view_of(row.get("View Position", "")),
                sex=sex_of(row.get("Patient Gender", "")),
                age=age_years(row.get("Patient Age", "")),
                file=f"{folder_of.get(file_name, 'images')}/{file_name}",
            )


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


def _official_split(root: Path) -> dict[str, str]:
    """Image file name -> train-val or test, as far as the release's lists lie there."""
    split_of: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train-val"), ("test_list.txt", "test")):
        path = root / name
        if not path.is_file():
            continue
        for line, text in enumerate(path.read_text(errors="replace").split("\n"), 1):
            image = text.strip()
            if image and split_of.setdefault(image, split) != split:
                raise UserError(f"{path}, line {line}: {image} is in both lists; download them again")
    return split_of
