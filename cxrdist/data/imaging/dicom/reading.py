"""Opening a DICOM file: only the tags asked for, no value of any other, nothing said aloud."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from cxrdist.data.imaging.errors import MAX_PIXELS, UndecodableImage
from cxrdist.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ADVICE = "run: pip install 'cxrdist[dicom]'"
_PREAMBLE_BYTES = 128
_MAX_INFLATED_BYTES = 2 * MAX_PIXELS + 2**24
"""The largest image of 16 bits, and room for everything before it."""


def is_dicom(data: bytes) -> bool:
    """Whether these (the first 132 or more) bytes of a file are those of a DICOM file (PS3.10, 7.1)."""
    return data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM"


@contextmanager
def reading() -> Iterator[None]:
    """Around all that touches a foreign file: whatever goes wrong in it is an UndecodableImage.

    Its reason quotes nothing of the file, and pydicom, whose warnings and log do, is silent meanwhile: any
    value may be a person's name.
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


def read_tags(file: BinaryIO, keywords: Sequence[str]) -> tuple[Dataset, str]:
    """The named elements that the file holds, and the UID of its transfer syntax.

    Reads no further than the last of them: without "PixelData" among them, no pixel. Sequences among them
    come whole. Raises UndecodableImage for what is not DICOM, UserError where pydicom is not installed.
    """
    if not is_dicom(file.read(_PREAMBLE_BYTES + 4)):
        raise UndecodableImage("not a DICOM file")
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
        raise UndecodableImage("no transfer syntax")
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
    """A deflated data set (PS3.5, A.5), whose size no header declares: bounded."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data, _MAX_INFLATED_BYTES)
    if stream.unconsumed_tail:
        raise UndecodableImage(f"inflates to more than {_MAX_INFLATED_BYTES // 2**20} MiB")
    return inflated
