"""Untrusted folders of image files: no link out of the root is followed; DICOM headers fill in what is unknown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cxrdist.data.imaging.dicom import HEAD_BYTES, BurnedInPolicy, DicomHeader, is_dicom, read_header
from cxrdist.data.imaging.errors import LEADS_OUT, UndecodableImage
from cxrdist.data.imaging.radiograph import load_grey
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.dicom_headers import check_burned_in, described
from cxrdist.data.importers.common.intensity import Intensity, check_intensity, tone_of
from cxrdist.errors import UserError

USUAL = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
_LEFT_BEHIND = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    )
)
"""Files and folders of file managers and network drives; @eaDir holds thumbnails of the films beside it."""


@dataclass(frozen=True, kw_only=True)
class ConfinedImporter(FileImporter):
    """A source of files whose origin is not known: links out of the root are never followed."""

    burned_in: BurnedInPolicy = "drop"
    """DICOM images whose header says that text is burned into the pixels (BurnedInAnnotation): drop (leave out those
    with YES), strict (also those without the attribute) or keep."""
    intensity: Intensity = "percentiles"
    """How 16-bit PNGs become 8-bit: percentiles (the image's own percentiles 0.5 and 99.5 become black and white;
    many detectors have 12 bits, and their images would be nearly black otherwise) or full (0 and 65535 do)."""

    def __post_init__(self) -> None:
        check_burned_in(self.burned_in)
        check_intensity(self.intensity)

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return load_grey(confined(self.root, record.file), size, fit, tone_of(self.intensity))

    def described(self, records: Iterable[Record]) -> Iterator[Record]:
        """Fill in what the source leaves unknown from the headers of its DICOM files."""
        yield from described(((record, self._header(record)) for record in records), self.burned_in)

    def _header(self, record: Record) -> DicomHeader | None:
        if record.left_out is not None:
            return None
        if record.file.lower().endswith(USUAL) and not _may_be_dicom(os.path.join(self.root, record.file)):  # noqa: PTH118
            return None
        try:
            return read_header(confined(self.root, record.file))
        except UndecodableImage:
            return None  # reported when its pixels are decoded


def _may_be_dicom(path: str) -> bool:
    """False if the file does not begin like a DICOM file: ten times faster than reading its header."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return True  # a link, for example: read_header checks where it leads
    try:
        return is_dicom(os.pread(descriptor, HEAD_BYTES, 0))
    finally:
        os.close(descriptor)


def listed(folder: Path) -> list[Path]:
    """The entries of a folder. Raises UserError if it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise _unreadable(error) from None


def is_left_behind(name: str) -> bool:
    """True for hidden files and folders, and those that a file manager or a network drive leaves behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, but those that are hidden or left behind. Links to folders are not followed.

    Raises UserError if a folder cannot be read: its images would be missing silently.
    """

    def give_up(error: OSError) -> None:
        raise _unreadable(error)

    for parent, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not is_left_behind(name)]
        yield from (Path(parent, name) for name in files if not is_left_behind(name))


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or remove it")


def confined(root: str, file: str) -> Path:
    """The path of a file below ``root``. Raises UndecodableImage if a link leads out of the root."""
    path = Path(root, file)
    # For a plain file resolve its folder: cached since the file before, so much faster than resolving each file.
    if not _is_within(str(path if path.is_symlink() else path.parent), root):
        raise UndecodableImage(LEADS_OUT, str(path))
    return path


@lru_cache(maxsize=1024)
def _is_within(path: str, root: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(root).resolve())
