"""A complete importer in one file: a site's PNG files and the CSV that describes them.

    ROOT/studies.csv    file,patient,findings,projection,sex,age
    ROOT/...            the images, at the paths in the column `file`

`docs/importing.md` walks through this file. Run it from the clone:

    python docs/examples/site_table.py --root my_site --out shards/my-site --size 64
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cxrdist.cli.imports import command_of
from cxrdist.data.importers.common.attributes import attributes
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.tables import cell, find_table, inner_path, merged, rows_of
from cxrdist.errors import check_choice
from cxrdist.process import main

COLUMNS = ("file", "patient", "findings")
LATERAL = ("LAT", "LATERAL", "LL", "RL")
VIEWS = ("frontal", "all")


@dataclass(frozen=True, kw_only=True)
class SiteTable(FileImporter):
    """Import PNG and JPEG files that studies.csv lists, with their findings separated by semicolons.

    A file that the table lists and that is missing counts as undecodable.
    """

    views: str = "frontal"
    """Views to keep: frontal (lateral images are left out and counted) or all."""

    name = "site-table"
    release = "table of a site"
    example = "cxrdist import site-table --root my_site --out shards/my-site --size 64"
    targets: ClassVar = {
        "cardiomegaly": "Cardiomegaly",
        "pleural effusion": "Pleural Effusion",
        "pulmonary edema": "Pulmonary Edema",
        "pneumothorax": "Pneumothorax",
    }
    normal = "no finding"

    def __post_init__(self) -> None:
        check_choice("views", self.views, VIEWS)

    def records(self) -> Iterator[Record]:
        return merged(self._rows())

    def _rows(self) -> Iterator[tuple[str, Record]]:
        table = find_table(Path(self.root), "studies.csv")
        for where, row in rows_of(table, COLUMNS):
            file = inner_path(cell(row, "file", where), "file", where, self.root)
            of_image = attributes(
                where,
                patient=cell(row, "patient", where),
                view=row.get("projection", ""),
                sex=row.get("sex", ""),
                age=row.get("age", ""),
            )
            is_lateral = of_image["view"] in LATERAL
            findings = (text.strip().lower() for text in cell(row, "findings", where).split(";"))
            record = Record(
                source_id=file,
                findings=tuple(text for text in findings if text),
                left_out="lateral view" if is_lateral and self.views == "frontal" else None,
                file=file,
                **of_image,
            )
            yield where, record


if __name__ == "__main__":
    main(lambda: command_of(SiteTable)(sys.argv[1:]))
