"""One file per source of radiographs; a new source is one file and one line in ``IMPORTERS``."""

from __future__ import annotations

from cxrdist.data.importers.base import Importer
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.importers.vindr import VinDr

IMPORTERS: dict[str, type[Importer]] = {"phantom": Phantom, "nih14": NIH14, "vindr": VinDr, "folder": Folder}
