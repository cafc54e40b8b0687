"""Radiographs in one folder per class; only DICOM files name their patients."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cxrdist.data.imaging.dicom import HEAD_BYTES, is_dicom
from cxrdist.data.imaging.mend import JPEG_MAGIC, PNG_MAGIC
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.contained_files import (
    USUAL,
    ConfinedImporter,
    files_below,
    is_left_behind,
    listed,
)
from cxrdist.data.importers.common.tables import SPLIT_OF
from cxrdist.data.importers.common.texts import composed
from cxrdist.errors import UserError, check_choice

SUFFIXES = (*USUAL, ".dcm", ".dicom")
NO_IMAGE = "not a PNG, JPEG or DICOM file"
IN_NO_CLASS = "in no class folder"
ClassFolders = Literal["top", "below"]
CLASS_FOLDERS = get_args(ClassFolders)


@dataclass(frozen=True, kw_only=True)
class Folder(ConfinedImporter):
    """Import ROOT/<class>/**/*.png|jpg|jpeg|jpe|jfif|dcm|dicom, and such files without an extension. Each PNG and
    JPEG counts as a patient of its own; near-duplicate films are kept in one split.

    If all folders of ROOT are named train, val and test (or other words for them), they are taken for splits, and the
    class folders lie in these. Hidden files, and what file managers and network drives leave behind (__MACOSX,
    @eaDir, Thumbs.db ...), are ignored. Files with another extension and files outside the class folders are left out
    and counted; a file without an extension, or with a number as its extension (a UID), is read if it begins like a
    PNG, JPEG or DICOM file. Symbolic links to one file count as one patient. Links that lead out
    of the root are not followed: such images count as undecodable.
    """

    class_folders: ClassFolders | None = None
    """Which folders are the classes: top (those of ROOT) or below (those in them, such as ROOT/<hospital>/<class>).
    By default top, unless ROOT looks like something else; then the import says what it sees, and stops."""

    name = "folder"
    default_split = "official"
    no_official_split = "has none: its folders are not named train, val and test; remove the option"
    walks_root = True
    release = "folder of images"
    example = "cxrdist import folder --root my_images --out shards/mine --size 64"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_folders is not None:
            check_choice("class_folders", self.class_folders, CLASS_FOLDERS)

    def records(self) -> Iterator[Record]:
        return self.described(self._records())

    def _records(self) -> Iterator[Record]:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; name a folder that holds one folder per class")
        real_root = root.resolve()
        for folder, split in self._class_folders(root):
            if not folder.is_dir():
                yield _left_out(folder, IN_NO_CLASS, root)
                continue
            if not folder.resolve().is_relative_to(real_root):
                raise UserError(f"{folder}: a link that leads out of {root}; move the folder itself there")
            is_image = {file: _is_image(file, real_root) for file in sorted(files_below(folder))}
            if not any(is_image.values()):
                raise UserError(
                    f"{folder}: no PNG, JPEG or DICOM image in this class; add some or remove the folder"
                )
            for file, is_one in is_image.items():
                if is_one:
                    label = composed(folder.name)
                    yield replace(_record(file, label, root, real_root), split=split)
                else:
                    yield _left_out(file, NO_IMAGE, root)

    def _class_folders(self, root: Path) -> Iterator[tuple[Path, str | None]]:
        """(class folder, split), and files that lie beside class folders. Raises UserError for a layout that may mean
        several things."""
        seen = _visible(root)
        folders = [path for path in seen if path.is_dir()]
        if not folders:
            raise UserError(f"{root}: has no class folders; put the images of each class into one folder")
        named = {path: SPLIT_OF[path.name.lower()] for path in folders if path.name.lower() in SPLIT_OF}
        are_splits = len(named) == len(folders) and self.class_folders != "top"
        if self.class_folders is None and not are_splits:
            _check_layout(root, folders, named)
        for top in seen:
            if top.is_dir() and (are_splits or self.class_folders == "below"):
                yield from ((path, named[top] if are_splits else None) for path in _visible(top))
            else:
                yield top, None


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder, but those that are hidden or left behind."""
    return sorted(path for path in listed(folder) if not is_left_behind(path.name))


def _check_layout(root: Path, folders: list[Path], named: Mapping[Path, str]) -> None:
    """Raises UserError for folders that may be classes or something above them."""
    either = (
        "add --class-folders top if they are the classes, or --class-folders below if the folders in them are"
    )
    if named:
        others = " and ".join(path.name for path in folders if path not in named)
        splits = " and ".join(path.name for path in named)
        raise UserError(f"{root}: {splits} beside {others}: splits or classes? {either}")
    inside = [{path.name for path in _visible(folder) if path.is_dir()} for folder in folders]
    if len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        tops, below = (" and ".join(sorted(names)) for names in ({path.name for path in folders}, inside[0]))
        verb = "hold" if len(folders) > 1 else "holds"
        raise UserError(f"{root}: {tops} {verb} the folders {below}: which are the classes? {either}")


def _is_image(file: Path, real_root: Path) -> bool:
    return file.suffix.lower() in SUFFIXES or _begins_like_an_image(file, real_root)


def _left_out(file: Path, reason: str, root: Path) -> Record:
    source_id = os.fsencode(file.relative_to(root)).decode(errors="backslashreplace")
    return Record(source_id=source_id, left_out=reason)


def _begins_like_an_image(file: Path, real_root: Path) -> bool:
    """True for a file without an extension that begins like a PNG, JPEG or DICOM file."""
    has_ending = file.suffix != "" and not file.suffix[1:].isdigit()  # a UID ends in a number
    # A DICOMDIR begins like an image, but is a directory of other files.
    if has_ending or file.name == "DICOMDIR" or not file.is_file():
        return False
    if not file.resolve().is_relative_to(real_root):
        return False
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    return head.startswith((PNG_MAGIC, JPEG_MAGIC)) or is_dicom(head)


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
