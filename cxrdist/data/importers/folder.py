"""Any radiographs sorted into one folder per class; only DICOM files tell whose they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrdist.data.importers.base import Record
from cxrdist.data.importers.confined import ConfinedImporter
from cxrdist.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
_DICOM_PREAMBLE_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class Folder(ConfinedImporter):
    """Import DIR/<class>/*.png|jpg|jpeg|dcm|dicom at any depth, and DICOM files without an ending. Each PNG and JPEG
    counts as a patient of its own; near-duplicate films are kept on one side of the split.

    Files that are hidden, or no images by their name, are ignored; one without an ending, or with a number for
    one (a UID), is an image where it begins like a DICOM file. All names of one file (symbolic links) are one
    patient. Nothing is read through a link that leads out of the root: such an image stays a record, and
    counts as undecodable later.
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
        classes = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
        if not classes:
            raise UserError(f"{root}: holds no class folders; put the images of each class into one folder")
        real_root = root.resolve()
        for folder in classes:
            if not folder.resolve().is_relative_to(real_root):
                raise UserError(f"{folder}: a link that leads out of {root}; move the folder itself there")
            files = sorted(_images(folder, real_root))
            if not files:
                raise UserError(
                    f"{folder}: no PNG, JPEG or DICOM image in this class; add some or remove the folder"
                )
            yield from (_record(file, folder.name, root, real_root) for file in files)


def _images(folder: Path, real_root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(parent, name)
            if not name.startswith(".") and (file.suffix.lower() in SUFFIXES or _is_dicom(file, real_root)):
                yield file


def _is_dicom(file: Path, real_root: Path) -> bool:
    """Whether a file that no ending tells anything of begins as DICOM PS3.10 says."""
    has_ending = file.suffix != "" and not file.suffix[1:].isdigit()  # a UID ends in a number
    # A DICOMDIR begins like that, too, and is a directory of others.
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
        # Two names of one file must not land in two splits.
        patient_id=target.relative_to(real_root).as_posix() if is_link_within else "",
        label=label,
        file=source_id,
    )
