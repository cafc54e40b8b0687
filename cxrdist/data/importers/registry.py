"""All sources of radiographs. A new source is one file and one entry in ``SOURCES``."""

from __future__ import annotations

from cxrdist.data.importers.chexpert import CheXpert
from cxrdist.data.importers.common.base import Importer
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.mimic_cxr import MimicCxrJpg
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.padchest import PadChest
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.importers.vindr import VinDr
from cxrdist.data.importers.webdataset import WebDataset

SOURCES = (Phantom, NIH14, CheXpert, MimicCxrJpg, PadChest, VinDr, Folder, CsvTable, WebDataset)
IMPORTERS: dict[str, type[Importer]] = {source.name: source for source in SOURCES}
