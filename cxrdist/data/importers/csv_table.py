"""Any radiographs that a CSV of one's own lists, with as much as is known of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.contained_files import ConfinedImporter
from cxrdist.data.importers.common.tables import (
    age_years,
    cell,
    find_table,
    inner_path,
    once,
    rows_of,
    sex_of,
    split_word,
    view_of,
)


@dataclass(frozen=True, kw_only=True)
class CsvTable(ConfinedImporter):
    """Import the PNG, JPEG or DICOM files that a CSV lists, one a line, in the columns path, label and, where known,
    patient_id, view, sex, age (years) and split (train, val or test). Paths are relative to the root.

    The label is the class. Other columns are ignored. What the table leaves open a DICOM file may say; an image
    without any patient counts as one of its own. Where any line has a split, the lines without one are left out,
    unless ``--split drawn``. Nothing is read through a link that leads out of the root: such an image, like one
    that is not there, stays a record, and counts as undecodable later.
    """

    table: str = "labels.csv"
    """The CSV (UTF-8, also .gz): its path in the root, or an absolute one."""

    name = "csv"
    release = "table of images"
    example = "cxrdist import csv --root my_images --table labels.csv --out shards/mine --size 64"
    default_split = "official"
    no_official_split = (
        "has none where its column split is missing or empty: write train, val and test there, or leave the option "
        "out"
    )

    def records(self) -> Iterator[Record]:
        return self.described(self._records())

    def _records(self) -> Iterator[Record]:
        table = find_table(Path(self.root), self.table)
        seen: set[str] = set()
        for where, row in rows_of(table, ("path", "label")):
            file = inner_path(cell(row, "path", where), "path", where)
            once(seen, file, where)
            yield Record(
                source_id=file,
                patient_id=row.get("patient_id", ""),
                label=cell(row, "label", where),
                split=split_word(row.get("split", ""), where),
                view=view_of(row.get("view", "")),
                sex=sex_of(row.get("sex", "")),
                age=age_years(row.get("age", "")),
                file=file,
            )
