"""VinDr-CXR 1.0.0 (Nguyen et al., Scientific Data 2022), in the layout of PhysioNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

from cxrdist.data.imaging.dicom import BurnedInPolicy
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.dicom_headers import check_burned_in, with_header
from cxrdist.data.importers.common.inner_paths import plain_name
from cxrdist.data.importers.common.tables import Row, cell, find_table, rows_of
from cxrdist.errors import UserError, check_choice

TABLE_OF = {"train": "image_labels_train.csv", "test": "image_labels_test.csv"}
Readers = Literal["majority", "any", "all"]
READERS = get_args(Readers)
DISAGREEMENT = "its readers agree on nothing"
SUFFIXES = (".dicom", ".dcm")
_VOTES = {"1": True, "1.0": True, "0": False, "0.0": False, "": False}


@dataclass(frozen=True, kw_only=True)
class VinDr(FileImporter):
    """Import VinDr-CXR: annotations/image_labels_train.csv and annotations/image_labels_test.csv (or both in the
    root), train/<image_id>.dicom and test/<image_id>.dicom, as released.

    Three radiologists read each training image, five agreed on each test image. The release names no patients, so
    each image counts as a patient of its own. ``--split official`` keeps its test images, and draws val from the
    others.
    """

    readers: Readers = "majority"
    """Findings that count: majority (seen by more than half of an image's readers), any (by at least one; "No
    finding" only if all agree) or all (by all of them)."""
    burned_in: BurnedInPolicy = "drop"
    """Images whose header says that text is burned into the pixels (BurnedInAnnotation): drop (leave out those with
    YES), strict (also those without the attribute) or keep."""

    name = "vindr"
    release = "VinDr-CXR 1.0.0"
    example = "cxrdist import vindr --root ~/vindr-cxr/1.0.0 --out shards/vindr --size 256 --split official"
    targets: ClassVar = {
        "Cardiomegaly": "Cardiomegaly",
        "Pleural effusion": "Pleural Effusion",
        "Edema": "Pulmonary Edema",
        "Pneumothorax": "Pneumothorax",
    }
    normal = "No finding"
    no_official_split = "has a test part for it, which is missing: download it, or remove the option"

    def __post_init__(self) -> None:
        check_choice("readers", self.readers, READERS)
        check_burned_in(self.burned_in)

    def records(self) -> Iterator[Record]:
        root = Path(self.root)
        folder = root / "annotations" if (root / "annotations").is_dir() else root
        split_of: dict[str, str] = {}
        tables = _tables(folder)
        for split, table in tables.items():
            file_of = _files(root, split)
            for image, findings_of in _readings(table, (*self.targets, self.normal)).items():
                if split_of.setdefault(image, split) != split:
                    raise UserError(f"{table}: {image} is in both tables; download them again")
                findings = agreed(list(findings_of.values()), self.readers, self.normal)
                record = Record(
                    source_id=image,
                    findings=findings,
                    no_class=None if findings else DISAGREEMENT,
                    split=None if len(tables) == 1 else "test" if split == "test" else "train-val",
                    file=f"{split}/{file_of.get(image, image + SUFFIXES[0])}",
                )
                record = with_header(record, root, self.burned_in)
                # All images of the release are PA, and few of its files say so.
                yield replace(record, view=record.view or "PA")


def _tables(folder: Path) -> dict[str, Path]:
    """Split of the release -> its table: both, or the one that was downloaded."""
    there = [
        split
        for split, name in TABLE_OF.items()
        for end in ("", ".gz")
        if (folder / f"{name}{end}").is_file()
    ]
    return {split: find_table(folder, TABLE_OF[split]) for split in there or TABLE_OF}


def agreed(seen: Sequence[Collection[str]], rule: str, normal: str) -> tuple[str, ...]:
    """The findings that count under a rule of ``READERS``, sorted; empty if the readers agree on none.

    ``seen`` has the findings of each reader.
    """
    votes = Counter(finding for findings in seen for finding in set(findings))
    needed = {"majority": len(seen) // 2 + 1, "any": 1, "all": len(seen)}[rule]
    counted = {finding for finding, count in votes.items() if count >= needed}
    if rule == "any" and votes[normal] < len(seen):
        counted.discard(normal)
    return tuple(sorted(counted))


def _readings(table: Path, needed: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Image -> reader -> findings of the reader, in the table's order; the reader is "" if the table names none."""
    readings: dict[str, dict[str, list[str]]] = {}
    for where, row in rows_of(table, ("image_id", *needed)):
        image = plain_name(cell(row, "image_id", where), "image_id", where)
        reader, seen = row.get("rad_id", ""), _seen(row, where)
        if readings.setdefault(image, {}).setdefault(reader, seen) != seen:
            by = f" by {reader}" if reader else ""
            raise UserError(f"{where}: {image} is listed twice{by}, with other findings; remove one line")
    return readings


def _seen(row: Row, where: str) -> list[str]:
    """The findings of a row: the columns with a 1."""
    votes = {name: text for name, text in row.items() if name not in ("image_id", "rad_id")}
    for finding, text in votes.items():
        if text not in _VOTES:
            raise UserError(f"{where}: {finding} is {text!r}, neither 0 nor 1; download the table again")
    return [finding for finding, text in votes.items() if _VOTES[text]]


def _files(root: Path, split: str) -> dict[str, str]:
    """Image -> its file's name in the split's folder."""
    folder = root / split
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    return {Path(name).stem: name for name in names if name.endswith(SUFFIXES)}
