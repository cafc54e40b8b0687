"""One file per source of radiographs; a new source is one file and one line in ``IMPORTERS``."""

from __future__ import annotations

from cxrdist.data.importers.base import Importer
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.importers.vindr import VinDr
from cxrdist.data.importers.webdataset import WebDataset

IMPORTERS: dict[str, type[Importer]] = {
    source.name: source for source in (Phantom, NIH14, VinDr, Folder, CsvTable, WebDataset)
}
