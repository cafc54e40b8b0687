"""Files of anybody's making: nothing is read through a link that leads out, and DICOM files speak for themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cxrdist.data.imaging.dicom import DicomHeader, is_dicom, read_header
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import load_grey
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.dicom_headers import check_burned_in, described
from cxrdist.data.importers.common.intensity import check_intensity, tone_of
from cxrdist.errors import UserError

USUAL = (".png", ".jpg", ".jpeg")
DICOM_HEAD_BYTES = 132


@dataclass(frozen=True, kw_only=True)
class ConfinedImporter(FileImporter):
    """A source that others may have filled."""

    burned_in: str = "drop"
    """DICOM images with text in their pixels, by their file's own word: drop those that say YES, or strict (also
    those that do not say), or keep."""
    intensity: str = "percentiles"
    """How 16-bit PNGs become 8-bit: percentiles (each image's own 0.5 and 99.5 are black and white: many detectors
    have 12 bits, and their images would be black) or full (0 and 65535 are)."""

    def __post_init__(self) -> None:
        check_burned_in(self.burned_in)
        check_intensity(self.intensity)

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return load_grey(confined(self.root, record.file), size, fit, tone_of(self.intensity))

    def described(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records with what DICOM files say of themselves where the source says nothing."""
        yield from described(((record, self._header(record)) for record in records), self.burned_in)

    def _header(self, record: Record) -> DicomHeader | None:
        if record.left_out is not None:
            return None
        if record.file.lower().endswith(USUAL) and not _may_be_dicom(os.path.join(self.root, record.file)):  # noqa: PTH118
            return None
        try:
            return read_header(confined(self.root, record.file))
        except UndecodableImage:
            return None  # told when its pixels are asked for


def _may_be_dicom(path: str) -> bool:
    """False for a file that begins otherwise: told in a tenth of the time that reading its header takes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return True  # a link, say: it is looked at with care
    try:
        return is_dicom(os.pread(descriptor, DICOM_HEAD_BYTES, 0))
    finally:
        os.close(descriptor)


def listed(folder: Path) -> list[Path]:
    """What a folder holds. Raises UserError where it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise _unreadable(error) from None


def files_below(folder: Path) -> Iterator[Path]:
    """All files at any depth but hidden ones; no link to a folder is followed.

    Raises UserError where a folder cannot be read: its images would be missing without a word.
    """

    def give_up(error: OSError) -> None:
        raise _unreadable(error)

    for parent, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"{error.filename}: cannot be read ({error.strerror}); make it readable, or take it away"
    )


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
