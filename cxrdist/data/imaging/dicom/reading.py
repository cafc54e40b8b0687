"""Opens DICOM files: reads only the requested tags, and keeps values of the file out of logs and errors."""

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
"""The largest 16-bit image, plus 16 MiB for the elements before it."""


def is_dicom(data: bytes) -> bool:
    """True if ``data``, at least the first 132 bytes of a file, is the start of a DICOM file (PS3.10, 7.1)."""
    return data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM"


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


def read_tags(file: BinaryIO, keywords: Sequence[str]) -> tuple[Dataset, str]:
    """Returns those of the named elements that the file has, and the UID of its transfer syntax.

    Reading stops after the last named element, so pixels are read only if "PixelData" is named. Sequences are read
    with all their items. Raises UndecodableImage if the file is not DICOM, UserError if pydicom is not installed.
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
    """Inflates a deflated data set (PS3.5, A.5), up to a limit: no header declares its size."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data, _MAX_INFLATED_BYTES)
    if stream.unconsumed_tail:
        raise UndecodableImage(f"inflates to more than {_MAX_INFLATED_BYTES // 2**20} MiB")
    return inflated
