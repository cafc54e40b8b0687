"""Options of an index in place over two external tars."""

from __future__ import annotations

from pathlib import Path

from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions

SIZE = 24


def importer(tars: Path, *, in_place: bool) -> WebDataset:
    return WebDataset(root=str(tars), class_names=("Normal", "Mass"), in_place=in_place)


def options(out: str = "", **others: object) -> IngestOptions:
    made = {"size": SIZE, "val": 0.2, "test": 0.2, "workers": 1, **others}
    return IngestOptions(out=out, **made)  # type: ignore[arg-type]
