"""Any radiographs sorted into one folder per class; their patients are unknown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cxrdist.data.images import UndecodableImage
from cxrdist.data.importers.base import FileImporter, Record
from cxrdist.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Folder(FileImporter):
    """Import DIR/<class>/*.png|jpg|jpeg at any depth. Each image counts as a patient of its own.

    Files that are hidden or no PNG or JPEG by name are ignored. All names of one file (symbolic links) are one
    patient. Nothing is read through a link that leads out of the root: such an image stays a record, and
    counts as undecodable later.
    """

    name = "folder"
    release = "folder of images"
    example = "cxrdist import folder --root my_images --out shards/mine --size 64"

    def records(self) -> Iterator[Record]:
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
            files = sorted(_images(folder, folder.name))
            if not files:
                raise UserError(
                    f"{folder}: no PNG or JPEG image in this class; add some or remove the folder"
                )
            yield from (_record(*file, folder.name, root, real_root) for file in files)

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        file = Path(self.root, record.file)
        # Its folder in place of a file that is no link: known from the file before, and quicker than to resolve each.
        if not _is_within(str(file if file.is_symlink() else file.parent), self.root):
            raise UndecodableImage("a link that leads out of the folder", str(file))
        return super().pixels(record, size, fit)


@lru_cache(maxsize=1024)
def _is_within(path: str, root: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(root).resolve())


def _images(folder: Path, inner: str) -> Iterator[tuple[str, bool]]:
    """(path from the class folder's name on, whether it is a link) of all images at any depth."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{inner}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                if entry.name.lower().endswith(SUFFIXES):
                    yield path, entry.is_symlink()
            elif not entry.is_symlink():
                yield from _images(folder / entry.name, path)


def _record(source_id: str, is_link: bool, label: str, root: Path, real_root: Path) -> Record:
    try:
        source_id.encode()
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {source_id!a} is not UTF-8; rename the file") from None
    patient_id = ""
    if is_link:
        target = (root / source_id).resolve()
        # Two names of one file must not land in two splits.
        if target.is_relative_to(real_root):
            patient_id = target.relative_to(real_root).as_posix()
    return Record(source_id=source_id, patient_id=patient_id, label=label, file=source_id)
