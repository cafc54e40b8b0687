"""Radiographs listed in a CSV that users write themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.attributes import attributes, class_name
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.contained_files import ConfinedImporter
from cxrdist.data.importers.common.inner_paths import inner_path
from cxrdist.data.importers.common.tables import cell, find_table, merged, rows_of, split_word
from cxrdist.errors import UserError

OPTIONAL = ("patient_id", "view", "sex", "age", "split")


@dataclass(frozen=True, kw_only=True)
class CsvTable(ConfinedImporter):
    """Import PNG, JPEG or DICOM files listed in a CSV, one per line, with the columns path (relative to the root),
    label and optionally patient_id, view, sex, age (years) and split (train, val or test). Columns may be separated
    by commas, semicolons or tabs, and their names written with capitals or spaces.

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
        return self.described(merged(self._rows()))

    def _rows(self) -> Iterator[tuple[str, Record]]:
        table = find_table(Path(self.root), self.table)
        for where, row in rows_of(table, ("path", "label"), OPTIONAL, paths=("path",)):
            label = class_name(cell(row, "label", where))
            if not label:
                raise UserError(
                    f"{where}: the label {row['label']!r} stands for none; fill it in, or remove the line"
                )
            file = inner_path(cell(row, "path", where), "path", where, self.root)
            patient, view, sex, age, split = (row.get(name, "") for name in OPTIONAL)
            yield (
                where,
                Record(
                    source_id=file,
                    label=label,
                    split=split_word(split, where),
                    file=file,
                    **attributes(where, patient=patient, view=view, sex=sex, age=age),
                ),
            )
