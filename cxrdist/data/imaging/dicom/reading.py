"""Opens DICOM files: reads only the requested tags, and keeps values of the file out of logs and errors."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from cxrdist.data.imaging.errors import MAX_PIXELS, UndecodableImage
from cxrdist.data.imaging.repairs import repaired
from cxrdist.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ADVICE = "run: pip install 'cxrdist[dicom]'"
HEAD_BYTES = 512
"""So many bytes of a file show whether it is DICOM."""
NO_PREAMBLE = "DICOM without the preamble of a file"
NO_SYNTAX = "no transfer syntax, which was inferred"
_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
_META, _IDENTIFYING = 2, 8
"""Groups: the file meta information, and the first of a data set."""
_LAST_FIRST_ELEMENT = 0x18
"""A data set begins with one of the elements up to SOPInstanceUID (0008,0018)."""
_LONGEST_FIRST = 128
"""Bytes of such an element, far above what they hold."""
_LAST_SECOND_GROUP = 0x10
_LONGEST_SECOND, _UNDEFINED = 2**16, 2**32 - 1
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Value representations whose length takes 4 bytes, after 2 that are unused."""
_OTHER_FILES = (b"\xff\xd8\xff", b"\x89PNG", b"\x93NUMPY", b"II*\0", b"MM\0*")
"""How a JPEG, PNG, npy or TIFF begins: anything may follow. A preamble may be the start of a TIFF."""
_MAX_INFLATED_BYTES = 2 * MAX_PIXELS + 2**24
"""The largest 16-bit image, plus 16 MiB for the elements before it."""


def is_dicom(data: bytes) -> bool:
    """True if ``data``, at least the first ``HEAD_BYTES`` bytes of a file, is the start of a DICOM file."""
    return _start(data) is not None


def _start(data: bytes) -> int | None:
    """Where the elements of a DICOM file begin, by the start of the file; None if it is none.

    A file begins with a preamble and a prefix (PS3.10, 7.1). Either may be missing, and what was saved from a network
    or an old archive may begin with the data set itself. Only the first ``HEAD_BYTES`` bytes count.
    """
    data = data[:HEAD_BYTES]
    is_other = data.startswith(_OTHER_FILES)
    at = _PREAMBLE_BYTES + len(_PREFIX)
    if data[_PREAMBLE_BYTES:at] == _PREFIX and (not is_other or _begins_elements(data[at:])):
        return at
    if is_other:
        return None
    begins = (len(_PREFIX),) if data.startswith(_PREFIX) else (0, _PREAMBLE_BYTES)
    return next((at for at in begins if _begins_elements(data[at:])), None)


def _begins_elements(data: bytes) -> bool:
    """Whether two elements stand there, in their order: one alone may be chance."""
    if not _is_first_element(data[:8]):
        return False
    if not _has_vr(data):
        header, length = 8, int.from_bytes(data[4:8], "little")
    elif data[4:6] in _LONG_VRS:
        header, length = 12, int.from_bytes(data[8:12], "little")
    else:
        header, length = 8, int.from_bytes(data[6:8], "little")
    second = data[header + length : header + length + 8]
    if len(second) < 8:
        return False
    group, element, length = struct.unpack("<HHI", second)
    is_next = struct.unpack("<HH", data[:4]) < (group, element) and group <= _LAST_SECOND_GROUP
    is_length = length == _UNDEFINED or (length <= _LONGEST_SECOND and length % 2 == 0)
    return is_next and (_has_vr(second) or is_length)


def _is_first_element(head: bytes) -> bool:
    """Whether 8 bytes are an element that file meta information or a data set begins with (PS3.5, 7.1)."""
    if len(head) < 8:
        return False
    group, element, length = struct.unpack("<HHI", head)
    if group not in (_META, _IDENTIFYING) or element > _LAST_FIRST_ELEMENT:
        return False
    return _has_vr(head) or (group == _IDENTIFYING and 0 < length <= _LONGEST_FIRST and length % 2 == 0)


def _has_vr(head: bytes) -> bool:
    """Whether the header of an element states its value representation."""
    return head[4:6].isalpha() and head[4:6].isupper()


@contextmanager
def reading() -> Iterator[None]:
    """Turns any exception raised while an untrusted DICOM file is read into UndecodableImage.

    Any value in the file may be a person's name, so the reason never quotes the file, and pydicom's warnings and log
    messages, which do, are suppressed. UserError and MemoryError pass through.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UndecodableImage, UserError, MemoryError):
        raise
    except Exception:
        raise UndecodableImage("truncated or damaged") from None
    finally:
        logger.setLevel(level)


def read_tags(file: BinaryIO, keywords: Sequence[str | int]) -> tuple[Dataset, str]:
    """Returns those of the elements, named by keyword or tag, that the file has, and the UID of its transfer syntax.

    Reading stops after the last named element, so pixels are read only if "PixelData" is named. Sequences are read
    with all their items. Raises UndecodableImage if the file is not DICOM, UserError if pydicom is not installed.
    """
    at = _start(file.read(HEAD_BYTES))
    if at is None:
        raise UndecodableImage("not a DICOM file")
    file.seek(at)
    if at != _PREAMBLE_BYTES + 4:
        repaired(NO_PREAMBLE)
    try:
        from pydicom.filereader import read_dataset
        from pydicom.tag import Tag
    except ModuleNotFoundError:
        raise UserError(f"reading DICOM files needs pydicom, which is not installed; {ADVICE}") from None
    from pydicom import uid

    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag.group != 2
    )
    syntax = str(meta.get("TransferSyntaxUID") or "")
    if not syntax:
        begin = file.tell()
        head = file.read(8)
        file.seek(begin)
        if not _is_first_element(head):
            raise UndecodableImage("no transfer syntax")
        repaired(NO_SYNTAX)
        syntax = uid.ExplicitVRLittleEndian if _has_vr(head) else uid.ImplicitVRLittleEndian
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        file = io.BytesIO(_inflate(file.read()))
    tags = [Tag(keyword) for keyword in keywords]
    last = max(tags)
    return (
        read_dataset(
            file,
            is_implicit_VR=syntax == uid.ImplicitVRLittleEndian,
            is_little_endian=syntax != uid.ExplicitVRBigEndian,
            stop_when=lambda tag, vr, length: tag > last,
            specific_tags=list(tags),
        ),
        syntax,
    )


def _inflate(data: bytes) -> bytes:
    """Inflates a deflated data set (PS3.5, A.5), up to a limit: no header declares its size."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data, _MAX_INFLATED_BYTES)
    if stream.unconsumed_tail:
        raise UndecodableImage(f"inflates to more than {_MAX_INFLATED_BYTES // 2**20} MiB")
    return inflated
