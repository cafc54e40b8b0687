"""Radiographs listed in a CSV that users write themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.contained_files import ConfinedImporter
from cxrdist.data.importers.common.tables import (
    UniqueNames,
    age_years,
    cell,
    find_table,
    inner_path,
    rows_of,
    sex_of,
    split_word,
    view_of,
)


@dataclass(frozen=True, kw_only=True)
class CsvTable(ConfinedImporter):
    """Import PNG, JPEG or DICOM files listed in a CSV, one per line, with the columns path (relative to the root),
    label and optionally patient_id, view, sex, age (years) and split (train, val or test).

    The label is the class. Other columns are ignored. Empty cells are filled in from the headers of DICOM files. An
    image without a patient counts as a patient of its own. If any line has a split, lines without one are left out,
    unless ``--split drawn`` is given. Links that lead out of the root are not followed: such images, like missing
    ones, count as undecodable.
    """

    table: str = "labels.csv"
    """The CSV (UTF-8, plain or .gz): a path relative to the root, or an absolute path."""

    name = "csv"
    release = "table of images"
    example = "cxrdist import csv --root my_images --table labels.csv --out shards/mine --size 64"
    default_split = "official"
    no_official_split = (
        "has none, because its column split is missing or empty: fill in train, val and test, or remove the "
        "option"
    )

    def records(self) -> Iterator[Record]:
        return self.described(self._records())

    def _records(self) -> Iterator[Record]:
        table = find_table(Path(self.root), self.table)
        listed = UniqueNames()
        for where, row in rows_of(table, ("path", "label")):
            file = inner_path(cell(row, "path", where), "path", where)
            listed.add(file, where)
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
