"""Decodes the pixels of a DICOM file of any supported transfer syntax to 8-bit grey.

::

    bytes -> data set -> frame -> words [H, W] of BitsStored bits -> grey table [2**BitsStored] -> grey [H, W]
             reading    _decompress  _significant                   grey.grey_of_words
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from cxrdist.data.imaging.dicom.codestream import Frame, jpeg2000_frame, jpeg_frame
from cxrdist.data.imaging.dicom.grey import GREY_TAGS, grey_of_words
from cxrdist.data.imaging.dicom.numbers import first_number
from cxrdist.data.imaging.dicom.reading import ADVICE, read_tags, reading
from cxrdist.data.imaging.errors import MAX_PIXELS, UndecodableImage
from cxrdist.data.imaging.repairs import repaired
from cxrdist.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LAYOUT_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
NO_FRAMES = "number of frames 0, read as 1"
BITS_STORED = "BitsStored absent or not possible, read as BitsAllocated"
HIGH_BIT = "HighBit not possible, read as BitsStored - 1"
REPRESENTATION = "PixelRepresentation neither 0 nor 1, read as 0 (unsigned)"
BITS_ABOVE = "bits above HighBit are set, which were ignored"

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", _BIG_ENDIAN)
_RLE = "1.2.840.10008.1.2.5"
# JPEG baseline, extended, lossless, lossless SV1; JPEG-LS lossless and near-lossless; JPEG 2000 lossless and lossy.
_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
_JPEG2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91))


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The pixel format of a data set (PS3.5, 8.1.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def grey_of_dicom(data: bytes) -> np.ndarray:
    """Decodes a DICOM file with one grey frame to [H, W] uint8, with the transformations that its header specifies.

    These are the modality, VOI and presentation transformations of PS3.3 (see ``grey.grey_of_words``). Raises
    UndecodableImage, with a reason that depends only on the file, for colour images, several frames, more than
    MAX_PIXELS (checked before decoding), and truncated, damaged or unsupported files; UserError if the libraries of
    the extra ``dicom`` are not installed.
    """
    with reading():
        tags, syntax = read_tags(io.BytesIO(data), (*LAYOUT_TAGS, *GREY_TAGS))
        layout = _layout(tags)
        words, bits = _words(tags, syntax, layout)
        return grey_of_words(
            words.reshape(layout.rows, layout.columns), bits, layout.is_signed, tags, syntax != _BIG_ENDIAN
        )


def _layout(tags: Dataset) -> _Layout:
    if "PixelData" not in tags:
        raise UndecodableImage("no pixel data")
    rows, columns = _whole(tags, "Rows", 1, 65535), _whole(tags, "Columns", 1, 65535)
    if rows * columns > MAX_PIXELS:
        raise UndecodableImage(f"more than {MAX_PIXELS // 1_000_000} megapixels")
    frames = first_number(tags, "NumberOfFrames")
    if frames == 0:
        repaired(NO_FRAMES)
    elif frames not in (None, 1):
        raise UndecodableImage("several frames, not one")
    interpretation = str(tags.get("PhotometricInterpretation") or "").strip().upper()
    if tags.get("SamplesPerPixel", 1) != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise UndecodableImage("colour, not grey" if interpretation else "no PhotometricInterpretation")
    allocated = _whole(tags, "BitsAllocated", 1, 64)
    if allocated not in (8, 16):
        raise UndecodableImage(f"{allocated} bits allocated per pixel, not 8 or 16")
    stored = tags.get("BitsStored")
    if not (isinstance(stored, int) and 1 <= stored <= allocated):
        repaired(BITS_STORED)
        stored = allocated
    high_bit = tags.get("HighBit", stored - 1)
    if not (isinstance(high_bit, int) and stored - 1 <= high_bit < allocated):
        repaired(HIGH_BIT)
        high_bit = stored - 1
    representation = tags.get("PixelRepresentation")
    if representation not in (0, 1):
        repaired(REPRESENTATION)
    return _Layout(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        is_signed=representation == 1,
    )


def _whole(tags: Dataset, keyword: str, least: int, most: int) -> int:
    value = tags.get(keyword)
    if not isinstance(value, int):
        raise UndecodableImage(f"no {keyword}")
    if not least <= value <= most:
        raise UndecodableImage(f"{keyword} is {value}, not {least} to {most}")
    return value


def _words(tags: Dataset, syntax: str, layout: _Layout) -> tuple[np.ndarray, int]:
    """Returns the stored values as unsigned words [H * W], two's complement if signed, and the bits per word."""
    data = tags.PixelData
    if syntax in _NATIVE:
        # 8-bit pixels in 16-bit words come in pairs, swapped (PS3.5, 8.2 and annex D).
        is_swapped = syntax == _BIG_ENDIAN and (layout.bits_allocated == 16 or tags["PixelData"].VR == "OW")
        return _significant(data, layout, is_swapped), layout.bits_stored
    if syntax == _RLE:
        data = _run_lengths(_one_frame(data), _decoder(syntax), layout)
        return _significant(data, layout, is_swapped=False), layout.bits_stored
    if syntax in (*_JPEG, *_JPEG2000):
        code = _one_frame(data)
        frame = jpeg_frame(code) if syntax in _JPEG else jpeg2000_frame(code)
        return _decompress(frame, _decoder(syntax), layout)
    raise UndecodableImage("unsupported transfer syntax")


def _significant(data: bytes | bytearray, layout: _Layout, is_swapped: bool) -> np.ndarray:
    """Extracts the BitsStored bits that end at HighBit from words of BitsAllocated bits; other bits are undefined."""
    length = layout.pixels * layout.bits_allocated // 8
    if len(data) < length:
        raise UndecodableImage("truncated or damaged")
    if layout.bits_allocated == 16:
        words = np.frombuffer(data, ">u2" if is_swapped else "<u2", layout.pixels)
    elif is_swapped:
        words = np.frombuffer(data, ">u2", (length + 1) // 2).astype("<u2").view(np.uint8)[:length]
    else:
        words = np.frombuffer(data, np.uint8, length)
    words = words.astype(np.uint16)
    above = words >> (layout.high_bit + 1) if layout.high_bit < 15 else np.zeros(1, np.uint16)
    # Signed values may be extended to the whole word: then all of these bits are set, or none.
    if above.any() and not (layout.is_signed and np.isin(above, (0, above.max())).all()):
        repaired(BITS_ABOVE)
    return (words >> (layout.high_bit + 1 - layout.bits_stored)) & ((1 << layout.bits_stored) - 1)


def _run_lengths(code: bytes, decode: Callable[..., bytearray], layout: _Layout) -> bytearray:
    """Decodes RLE (PS3.5, annex G) to words of BitsAllocated bits."""
    try:
        return decode(
            code, version=2, rows=layout.rows, columns=layout.columns, bits_allocated=layout.bits_allocated
        )
    except BaseException as error:
        # pylibjpeg-rle panics on some damaged data, and a PanicException is not an Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise UndecodableImage("truncated or damaged") from None


def _decompress(frame: Frame, decode: Callable[..., bytearray], layout: _Layout) -> tuple[np.ndarray, int]:
    """Decodes a codestream; returns the same as ``_words``.

    The decoder allocates the size that the codestream declares, so that size is checked first.
    """
    if frame.components != 1:
        raise UndecodableImage("colour, not grey")
    if (frame.rows, frame.columns) != (layout.rows, layout.columns):
        raise UndecodableImage(
            f"compressed pixels of {frame.rows}x{frame.columns} but a header of {layout.rows}x{layout.columns}"
        )
    if frame.precision > 16:
        raise UndecodableImage(f"{frame.precision} bits per pixel, not 8 to 16")
    samples = np.frombuffer(decode(frame.code, version=2), np.uint8 if frame.precision <= 8 else "<u2")
    words = samples.astype(np.uint16) & ((1 << frame.precision) - 1)
    if words.size != layout.pixels:
        raise UndecodableImage("truncated or damaged")
    if layout.is_signed:
        bits = min(frame.precision, layout.bits_stored)
        return words & ((1 << bits) - 1), bits
    # Lossy compression may overshoot the original range.
    return np.minimum(words, (1 << layout.bits_stored) - 1), layout.bits_stored


def _one_frame(data: bytes) -> bytes:
    """Joins all fragments of encapsulated pixel data (PS3.5, A.4)."""
    from pydicom.encaps import get_frame

    return get_frame(data, 0, number_of_frames=1)


def _decoder(syntax: str) -> Callable[..., bytearray]:
    """Returns pylibjpeg's decoder, also if other decoders are installed.

    Lossy decoders differ, and the same file must give the same pixels on every machine.
    """
    try:
        from pylibjpeg.utils import get_pixel_data_decoders
    except ModuleNotFoundError:
        raise UserError(f"compressed DICOM files need pylibjpeg, which is not installed; {ADVICE}") from None
    plugins = get_pixel_data_decoders(version=2).get(syntax)
    if not plugins:
        raise UserError(f"transfer syntax {syntax} needs a pylibjpeg plugin that is not installed; {ADVICE}")
    assert isinstance(plugins, dict)
    return cast("Callable[..., bytearray]", plugins[min(plugins)])
