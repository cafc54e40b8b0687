"""NIH ChestX-ray14 (Wang et al., CVPR 2017), in the layout of its release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cxrdist.data.importers.common.attributes import attributes
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.inner_paths import plain_name
from cxrdist.data.importers.common.tables import cell, find_table, merged, rows_of
from cxrdist.errors import UserError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


@dataclass(frozen=True, kw_only=True)
class NIH14(FileImporter):
    """Import NIH ChestX-ray14: Data_Entry_2017(_v2020).csv and images/ or images_001/images/ to
    images_012/images/, as released.

    Images of the table that are missing in the folders count as undecodable. ``--split official`` needs
    train_val_list.txt and test_list.txt beside the table.
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
        "has train_val_list.txt and test_list.txt for it, which are missing beside the table: copy them there, or "
        "remove the option"
    )

    def records(self) -> Iterator[Record]:
        return merged(self._rows())

    def _rows(self) -> Iterator[tuple[str, Record]]:
        root = Path(self.root)
        table = find_table(root, *TABLES)
        folder_of = _folders(root)
        split_of = _official_split(root)
        for where, row in rows_of(table, ("Image Index", "Finding Labels", "Patient ID")):
            file_name = plain_name(cell(row, "Image Index", where), "Image Index", where)
            of_image = attributes(
                where,
                patient=cell(row, "Patient ID", where),
                view=row.get("View Position", ""),
                sex=row.get("Patient Gender", ""),
                age=row.get("Patient Age", ""),
            )
            yield (
                where,
                Record(
                    source_id=file_name,
                    findings=tuple(f.strip() for f in cell(row, "Finding Labels", where).split("|")),
                    split=split_of.get(file_name),
                    file=f"{folder_of.get(file_name, 'images')}/{file_name}",
                    **of_image,
                ),
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
    """Image file name -> train-val or test; empty without the release's lists."""
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
