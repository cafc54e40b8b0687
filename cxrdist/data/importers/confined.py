"""Files of anybody's making: nothing is read through a link that leads out, and DICOM files speak for themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from cxrdist.data.images import UndecodableImage, load_grey
from cxrdist.data.importers.base import FileImporter, Record
from cxrdist.data.importers.headers import check_burned_in, with_header

NO_DICOM = (".png", ".jpg", ".jpeg")
NOTE_ONE_PATIENT = (
    "all DICOM files bear one PatientID, which tells nobody apart: each counts as a patient of its own"
)


@dataclass(frozen=True, kw_only=True)
class ConfinedImporter(FileImporter):
    """A source that others may have filled."""

    burned_in: str = "drop"
    """DICOM images with text in their pixels, by their file's own word: drop those that say YES, or strict (also
    those that do not say), or keep."""

    def __post_init__(self) -> None:
        check_burned_in(self.burned_in)

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return load_grey(confined(self.root, record.file), size, fit)

    def described(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records with what DICOM files say of themselves where the source says nothing."""
        before = list(records)
        after = [self._with_header(record) for record in before]
        named = [new.patient_id for old, new in zip(before, after) if new.patient_id != old.patient_id]
        tells_nothing = len(named) > 1 and len(set(named)) == 1
        for old, new in zip(before, after):
            if tells_nothing and new.patient_id != old.patient_id:
                yield replace(new, patient_id=old.patient_id, notes=(*new.notes, NOTE_ONE_PATIENT))
            else:
                yield new

    def _with_header(self, record: Record) -> Record:
        if record.file.lower().endswith(NO_DICOM):
            return record
        try:
            confined(self.root, record.file)
        except UndecodableImage:
            return record  # told when its pixels are asked for
        return with_header(record, Path(self.root), self.burned_in)


def confined(root: str, file: str) -> Path:
    """A file below ``root``. Raises UndecodableImage where a link leads out of there."""
    path = Path(root, file)
    # Its folder in place of a file that is no link: known from the file before, and quicker than to resolve each.
    if not _is_within(str(path if path.is_symlink() else path.parent), root):
        raise UndecodableImage("a link that leads out of the folder", str(path))
    return path


@lru_cache(maxsize=1024)
def _is_within(path: str, root: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(root).resolve())
