"""Tars that others wrote, read without trusting them: which members make a sample, and where its bytes lie.

    headers, one after the other        tarfile; a damaged one or a truncated tar raises
      -> a member is refused            a link, a device, a pickle, a name that leads elsewhere, too large
      -> or belongs to a sample         by its key, the rule of WebDataset
      -> samples                        the image's offset and length, the bytes of .cls and .json

No member is unpacked, and no byte of any other member than an image, a ``.cls`` or a ``.json`` is read.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from cxrdist.data.imaging.dicom import is_dicom
from cxrdist.data.shards.schema import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from cxrdist.errors import UserError, is_plain

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "npy", "dcm", "dicom")
TEXT_ENDINGS = ("cls", "json")
PICKLE_ENDINGS = frozenset(
    ("pyd", "pickle", "pkl", "pk", "pck", "pcl", "p", "pth", "pt", "ckpt", "joblib", "dill", "pyc", "pyo")
)
"""Endings whose usual readers run code that the file brings along."""
MAX_HEADER_BYTES = 2**14
"""Far above what names need; tarfile's patterns take a time that grows with its square (CVE-2024-6232)."""

PICKLE = "a pickle member, never opened"
LINK = "a link, never followed"
SPECIAL = "a device or other special member, never read"
LEADS_OUT = "a name that leads out of the tar, never followed"
NOT_PLAIN = "a name that is not plain UTF-8 text"
TOO_LARGE = "a member over the size cap, never read"
TWICE = "a member that stands twice"
SEVERAL_IMAGES = "several images in one sample"

_START_BYTES = 132  # all that tells a DICOM file

# Of base_plus_ext in webdataset 1.0.2: the key ends at the first dot of the base name.
_KEY_AND_ENDING = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
# What its tar_file_iterator skips.
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a member lie in its tar."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSample:
    """The members of a tar that share a key."""

    key: str
    image: Place | None
    """None where there is no image, or several."""
    is_dicom: bool = False
    """Whether the image begins as a DICOM file, whatever its ending says."""
    cls: bytes | None
    json: bytes | None
    refused: tuple[str, ...]
    """Why members of it were refused, each reason once."""


@dataclass(slots=True)
class _Draft:
    places: dict[str, Place | None] = field(default_factory=dict)
    """Ending -> place; None where it stands twice."""
    refused: list[str] = field(default_factory=list)


def walk(path: Path) -> Iterator[ForeignSample]:
    """The samples of a tar, in the order of their first members, wherever the other members stand.

    Members without an ending, which no sample of WebDataset has, are passed over. Raises UserError, naming
    the byte, where the tar is truncated, damaged, or no plain tar.
    """
    drafts: defaultdict[str, _Draft] = defaultdict(_Draft)
    with path.open("rb", buffering=0) as file:
        for member in _members(path, file):
            if not member.isdir():
                _sort_in(member, drafts)
        for key, draft in drafts.items():
            images = [draft.places[ending] for ending in IMAGE_ENDINGS if ending in draft.places]
            if len(images) > 1:
                draft.refused.append(SEVERAL_IMAGES)
            image = images[0] if len(images) == 1 else None
            cls, json = (_read(file, draft.places.get(ending)) for ending in TEXT_ENDINGS)
            yield ForeignSample(
                key=key,
                image=image,
                is_dicom=image is not None and is_dicom(_start(file, image)),
                cls=cls,
                json=json,
                refused=tuple(dict.fromkeys(draft.refused)),
            )


def read_place(path: Path, place: Place) -> bytes:
    """The bytes of a member, fewer where the tar ends before. Raises OSError where there is no such tar."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), place.length_bytes, place.offset_bytes)


def open_place(path: Path, place: Place) -> BinaryIO:
    """A member as a file of its own, of which no byte is read before it is asked for. Raises OSError where there
    is no such tar."""
    return io.BufferedReader(_Member(path, place))


class _Member(io.RawIOBase):
    """A part of a file, with nothing before it and nothing behind."""

    def __init__(self, path: Path, place: Place) -> None:
        self._file = path.open("rb", buffering=0)
        self._place = place
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._place.length_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._place.length_bytes - self._at)
        data = os.pread(self._file.fileno(), min(len(buffer), left), self._place.offset_bytes + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _start(file: IO[bytes], place: Place) -> bytes:
    return os.pread(file.fileno(), min(place.length_bytes, _START_BYTES), place.offset_bytes)


def _read(file: IO[bytes], place: Place | None) -> bytes | None:
    return None if place is None else os.pread(file.fileno(), place.length_bytes, place.offset_bytes)


def _sort_in(member: tarfile.TarInfo, drafts: defaultdict[str, _Draft]) -> None:
    """Put a member into the sample that it belongs to, or its refusal there."""
    name = PurePosixPath(member.name).as_posix()
    match = _KEY_AND_ENDING.fullmatch(name)
    key, ending = (match[1], match[2].lower()) if match else (name, "")
    if reason := _refusal(member, ending):
        drafts[key.encode(errors="backslashreplace").decode()].refused.append(reason)
    elif match and not _META.match(name):
        draft = drafts[key]
        if ending in draft.places:
            draft.refused.append(TWICE)
            draft.places[ending] = None
        elif ending in IMAGE_ENDINGS or ending in TEXT_ENDINGS:
            draft.places[ending] = Place(member.offset_data, member.size)


def _refusal(member: tarfile.TarInfo, ending: str) -> str | None:
    name = member.name
    if not is_plain(name):
        return NOT_PLAIN
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        return LEADS_OUT
    if member.issym() or member.islnk():
        return LINK
    if not member.isreg() or member.issparse():
        return SPECIAL
    # Every part, not the last alone: x.pkl.gz is a pickle, too, and so is .x.pkl, which has no key.
    if not PICKLE_ENDINGS.isdisjoint(PurePosixPath(name.lower()).name.split(".")[1:]):
        return PICKLE
    cap_bytes = {"cls": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}.get(ending, MAX_IMAGE_BYTES)
    return TOO_LARGE if member.size > cap_bytes else None


class _Headers:
    """What tarfile reads of a foreign tar: it would take a header's word for how long the header is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _members(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """All members of a tar that is whole. tarfile itself takes a damaged header for the end."""
    file_bytes = os.fstat(file.fileno()).st_size
    at = 0
    reader: Any = _Headers(file)
    try:
        with tarfile.open(fileobj=reader, mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                # A size below 0, or a second header that changes it, must not lead back: an endless tar.
                if tar.offset <= at or member.size < 0:
                    raise tarfile.ReadError(f"member {member.name!a} has a size that cannot be")
                if tar.offset > file_bytes:
                    raise tarfile.ReadError(f"member {member.name!a} reaches past the end: truncated")
                yield member
                at = tar.offset
    except UserError:
        raise
    except Exception as error:  # tarfile on foreign bytes may raise nearly anything
        raise UserError(
            f"{path}: no plain, whole tar: at byte {at} of {file_bytes}: {error}; copy or download it again, "
            "or unpack it if it is compressed"
        ) from error
    _check_end(path, file, at, file_bytes)


def _check_end(path: Path, file: IO[bytes], at: int, file_bytes: int) -> None:
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise UserError(
            f"{path}: ends without an end mark at byte {at} of {file_bytes}: truncated; copy or download it again"
        )
    if block.strip(b"\0"):
        raise UserError(
            f"{path}: the header at byte {at} of {file_bytes} is damaged; copy or download it again"
        )
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise UserError(
                f"{path}: goes on after the end mark at byte {at} of {file_bytes}: take it apart where several "
                "tars were joined, or copy or download it again"
            )
