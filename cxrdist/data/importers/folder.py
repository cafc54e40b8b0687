"""Radiographs in one folder per class; only DICOM files name their patients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.contained_files import ConfinedImporter, files_below, listed
from cxrdist.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
NO_IMAGE = "not a PNG, JPEG or DICOM file"
IN_NO_CLASS = "in no class folder"
_DICOM_PREAMBLE_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class Folder(ConfinedImporter):
    """Import ROOT/<class>/**/*.png|jpg|jpeg|dcm|dicom, and DICOM files without an extension. Each PNG and JPEG counts
    as a patient of its own; near-duplicate films are kept in one split.

    Hidden files are ignored. Files with another extension and files outside the class folders are left out and
    counted; a file without an extension, or with a number as its extension (a UID), is read if it begins like a DICOM
    file. Symbolic links to one file count as one patient. Links that lead out of the root are not followed: such
    images count as undecodable.
    """

    name = "folder"
    walks_root = True
    release = "folder of images"
    example = "cxrdist import folder --root my_images --out shards/mine --size 64"

    def records(self) -> Iterator[Record]:
        return self.described(self._records())

    def _records(self) -> Iterator[Record]:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; name a folder that holds one folder per class")
        seen = sorted(path for path in listed(root) if not path.name.startswith("."))
        classes = [path for path in seen if path.is_dir()]
        if not classes:
            raise UserError(f"{root}: has no class folders; put the images of each class into one folder")
        yield from (_left_out(path, IN_NO_CLASS, root) for path in seen if not path.is_dir())
        real_root = root.resolve()
        for folder in classes:
            if not folder.resolve().is_relative_to(real_root):
                raise UserError(f"{folder}: a link that leads out of {root}; move the folder itself there")
            is_image = {file: _is_image(file, real_root) for file in sorted(files_below(folder))}
            if not any(is_image.values()):
                raise UserError(
                    f"{folder}: no PNG, JPEG or DICOM image in this class; add some or remove the folder"
                )
            for file, is_one in is_image.items():
                if is_one:
                    yield _record(file, folder.name, root, real_root)
                else:
                    yield _left_out(file, NO_IMAGE, root)


def _is_image(file: Path, real_root: Path) -> bool:
    return file.suffix.lower() in SUFFIXES or _is_dicom(file, real_root)


def _left_out(file: Path, reason: str, root: Path) -> Record:
    source_id = os.fsencode(file.relative_to(root)).decode(errors="backslashreplace")
    return Record(source_id=source_id, left_out=reason)


def _is_dicom(file: Path, real_root: Path) -> bool:
    """True for a file without an extension that begins like a DICOM file (PS3.10)."""
    has_ending = file.suffix != "" and not file.suffix[1:].isdigit()  # a UID ends in a number
    # A DICOMDIR begins like an image, but is a directory of other files.
    if has_ending or file.name == "DICOMDIR" or not file.is_file():
        return False
    if not file.resolve().is_relative_to(real_root):
        return False
    with file.open("rb") as stream:
        return stream.read(_DICOM_PREAMBLE_BYTES + 4)[_DICOM_PREAMBLE_BYTES:] == b"DICM"


def _record(file: Path, label: str, root: Path, real_root: Path) -> Record:
    source_id = file.relative_to(root).as_posix()
    try:
        source_id.encode()
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {source_id!a} is not UTF-8; rename the file") from None
    target = file.resolve() if file.is_symlink() else file
    is_link_within = file.is_symlink() and target.is_relative_to(real_root)
    return Record(
        source_id=source_id,
        # Two names of one file must be in one split.
        patient_id=target.relative_to(real_root).as_posix() if is_link_within else "",
        label=label,
        file=source_id,
    )
