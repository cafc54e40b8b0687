"""Untrusted, external tars: which members make a sample, and where its bytes are.

    headers, one after the other        by tarfile; a damaged header or a truncated tar raises UserError
      -> refused members                links, devices, pickles, names that lead out, members above the size cap
      -> members of a sample            by their key, as in WebDataset
      -> samples                        offset and length of the image, the bytes of .cls and .json

No member is unpacked. Only images, ``.cls`` and ``.json`` members are ever read.
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

from cxrdist.data.imaging.dicom import HEAD_BYTES, is_dicom
from cxrdist.data.imaging.other_files import ADVICE, kind_of_file
from cxrdist.data.importers.common.contained_files import is_left_behind
from cxrdist.data.shards.schema import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from cxrdist.errors import UserError, is_plain

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "jpe", "jfif", "npy", "dcm", "dicom")
UNREAD_ENDINGS = frozenset(
    ("webp", "tif", "tiff", "gif", "bmp", "jp2", "j2k", "jxl", "avif", "heic", "pgm", "ppm", "npz", "nii")
)
TEXT_ENDINGS = ("cls", "json")
PICKLE_ENDINGS = frozenset(
    ("pyd", "pickle", "pkl", "pk", "pck", "pcl", "p", "pth", "pt", "ckpt", "joblib", "dill", "pyc", "pyo")
)
"""Endings of files whose usual readers run code from the file."""
MAX_HEADER_BYTES = 2**14
"""Far above what names need. The time of tarfile's regular expressions grows with the square of it
(CVE-2024-6232)."""

# Manifests record these reasons: changing one changes the digest of the sets that it occurs in.
PICKLE = "a pickle member, never opened"
LINK = "a link, never followed"
SPECIAL = "a device or other special member, never read"
LEADS_OUT = "a name that leads out of the tar, never followed"
NOT_PLAIN = "a name that is not plain UTF-8 text"
TOO_LARGE = "a member over the size cap, never read"
TWICE = "a member that stands twice"
SEVERAL_IMAGES = "several images in one sample"
OTHER_ENDING = "an image with a longer ending, such as .input.png, which --image-ending names"
SHARED_KEY = (
    "images whose names have more dots, so that they share a key, which ends at the first dot; rename them"
)
UNREAD = "an image of a format that is not read, such as .webp or .tif; convert it to PNG"
NO_KEY = "an image whose file name begins with a dot, so it has no key; name it KEY.png"

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
class ExternalSample:
    """The members of a tar that share a key."""

    key: str
    image: Place | None
    """None if there is no image, or more than one."""
    is_dicom: bool = False
    """True if the image begins like a DICOM file, whatever its ending is."""
    cls: bytes | None
    json: bytes | None
    refused: tuple[str, ...]
    """The reasons why members of it were refused, without repetition."""
    other_image: str = ""
    """The name of a member that may be the image, if there is no other."""


@dataclass(slots=True)
class _Draft:
    places: dict[str, Place | None] = field(default_factory=dict)
    """Ending -> place; None for an ending that occurs twice."""
    refused: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """The names of members whose endings are longer than that of an image, such as seg.png or input.png."""
    has_unread: bool = False
    """Whether there is an image of a format that is not read."""


def walk(path: Path, image_ending: str = "") -> Iterator[ExternalSample]:
    """The samples of a tar, in the order of their first members; a sample's members may lie apart. Their images have
    one of ``IMAGE_ENDINGS``, or ``image_ending``.

    Members without an ending are ignored: in WebDataset no sample has one. Raises UserError, with the offset, if the
    tar is truncated, damaged or not a plain tar.
    """
    drafts: defaultdict[str, _Draft] = defaultdict(_Draft)
    with path.open("rb", buffering=0) as file:
        for member in _members(path, file):
            if not member.isdir():
                _sort_in(member, drafts, image_ending)
        for key, draft in drafts.items():
            images = [draft.places[ending] for ending in IMAGE_ENDINGS if ending in draft.places]
            if image_ending:
                images = [draft.places[image_ending]] if image_ending in draft.places else []
            others = [] if images else draft.others
            if others:
                draft.refused.append(OTHER_ENDING if len(others) == 1 else SHARED_KEY)
            elif draft.has_unread and not images:
                draft.refused.append(UNREAD)
            if len(images) > 1:
                draft.refused.append(SEVERAL_IMAGES)
            image = images[0] if len(images) == 1 else None
            cls, json = (_read(file, draft.places.get(ending)) for ending in TEXT_ENDINGS)
            yield ExternalSample(
                key=key,
                image=image,
                is_dicom=image is not None and is_dicom(_start(file, image)),
                cls=cls,
                json=json,
                refused=tuple(dict.fromkeys(draft.refused)),
                other_image=others[0] if others else "",
            )
            for name in others[1:]:
                yield ExternalSample(
                    key=name, image=None, cls=None, json=None, refused=(SHARED_KEY,), other_image=name
                )


def read_place(path: Path, place: Place) -> bytes:
    """The bytes of a member, fewer if the tar has been truncated. Raises OSError if the tar does not exist."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), place.length_bytes, place.offset_bytes)


def open_place(path: Path, place: Place) -> BinaryIO:
    """A member as a file object, read on demand. Raises OSError if the tar does not exist."""
    return io.BufferedReader(_Member(path, place))


class _Member(io.RawIOBase):
    """A part of a file, as a file."""

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
    return os.pread(file.fileno(), min(place.length_bytes, HEAD_BYTES), place.offset_bytes)


def _read(file: IO[bytes], place: Place | None) -> bytes | None:
    return None if place is None else os.pread(file.fileno(), place.length_bytes, place.offset_bytes)


def _sort_in(member: tarfile.TarInfo, drafts: defaultdict[str, _Draft], image_ending: str) -> None:
    """Add a member to the draft of its sample, or the reason for its refusal."""
    name = PurePosixPath(member.name).as_posix()
    match = _KEY_AND_ENDING.fullmatch(name)
    key, ending = (match[1], match[2].lower()) if match else (name, "")
    if reason := _refusal(member, ending):
        drafts[key.encode(errors="backslashreplace").decode()].refused.append(reason)
    elif PurePosixPath(name).name.startswith("._") or _is_left_behind(name):
        pass  # macOS adds a file ._x.png, which is no image, to each x.png
    elif match is None and name.rpartition(".")[2].lower() in IMAGE_ENDINGS:
        drafts[name].refused.append(NO_KEY)
    elif match and not _META.match(name):
        draft = drafts[key]
        if ending in draft.places:
            draft.refused.append(TWICE)
            draft.places[ending] = None
        elif ending in (*IMAGE_ENDINGS, *TEXT_ENDINGS, image_ending):
            draft.places[ending] = Place(member.offset_data, member.size)
        elif ending.rpartition(".")[2] in IMAGE_ENDINGS:
            draft.others.append(name)
        elif ending.rpartition(".")[2] in UNREAD_ENDINGS:
            draft.has_unread = True


def _is_left_behind(name: str) -> bool:
    return any(not part.startswith(".") and is_left_behind(part) for part in name.split("/"))


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
    # Every part of the name: x.pkl.gz is a pickle, too, and so is .x.pkl, which has no key.
    if not PICKLE_ENDINGS.isdisjoint(PurePosixPath(name.lower()).name.split(".")[1:]):
        return PICKLE
    cap_bytes = {"cls": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}.get(ending, MAX_IMAGE_BYTES)
    return TOO_LARGE if member.size > cap_bytes else None


class _Headers:
    """The file as tarfile reads it, with a limit: a header states its own length, which may be huge."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _members(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """All members of a tar. Raises UserError for a damaged header, which tarfile takes for the end of the tar."""
    file_bytes = os.fstat(file.fileno()).st_size
    at = 0
    reader: Any = _Headers(file)
    try:
        with tarfile.open(fileobj=reader, mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                # A negative size, or a second header that changes it, must not lead back: the tar would never end.
                if tar.offset <= at or member.size < 0:
                    raise tarfile.ReadError(f"member {member.name!a} has an impossible size")
                if tar.offset > file_bytes:
                    raise tarfile.ReadError(f"member {member.name!a} reaches past the end: truncated")
                yield member
                at = tar.offset
    except UserError:
        raise
    except Exception as error:  # tarfile may raise nearly anything for untrusted bytes
        if kind := kind_of_file(os.pread(file.fileno(), 512, 0)):
            raise UserError(f"{path}: is {kind}, not a tar: {ADVICE[kind]}") from error
        raise UserError(
            f"{path}: not a plain, complete tar: at byte {at} of {file_bytes}: {error}; copy or download it again, "
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
                f"{path}: continues after the end mark at byte {at} of {file_bytes}: split it if several "
                "tars were joined, otherwise copy or download it again"
            )
