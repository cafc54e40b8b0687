"""Decodes the pixels of a DICOM file of any supported transfer syntax to 8-bit grey.

::

    bytes -> data set -> frame -> words [H, W] of BitsStored bits -> grey table [2**BitsStored] -> grey [H, W]
             reading    _decompress  _significant                   grey.grey_of_words
                               or -> channels [H, W, 3] that are grey                          -> grey [H, W]
                                     colour.grey_of_channels
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from cxrdist.data.imaging.codecs import whole_jpeg
from cxrdist.data.imaging.dicom.codestream import END, Frame, jpeg2000_frame, jpeg_frame, kind_of
from cxrdist.data.imaging.dicom.colour import grey_of_channels
from cxrdist.data.imaging.dicom.depth import has_more_bits
from cxrdist.data.imaging.dicom.grey import GREY_TAGS, grey_of_words
from cxrdist.data.imaging.dicom.layout import COLOUR, LAYOUT_TAGS, OVERLAY_BITS, Layout, layout_of
from cxrdist.data.imaging.dicom.reading import ADVICE, read_tags, reading
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.repairs import repaired
from cxrdist.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

BITS_ABOVE = "bits above HighBit are set, which were ignored"
MORE_BITS = "pixels of more bits than BitsStored"
OTHER_SIGN = "compressed pixels with a sign, PixelRepresentation without"
OTHER_SYNTAX = "pixels of another kind than the transfer syntax says"
OFFSETS = "wrong offsets of compressed pixels, which were ignored"
MORE_BITS_SHARE = 0.01
"""Of the samples: so many far above the range of BitsStored belong to one with more bits."""
OVERSHOOT = 1 / 8
"""Of the range: lossy compression overshoots it by less, but maybe in all of a saturated area."""

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", _BIG_ENDIAN)
_RLE = "1.2.840.10008.1.2.5"
# The decoder of one syntax decodes all of its kind: JPEG and JPEG-LS; JPEG 2000, also of high throughput.
_DECODER_OF = {"jpeg": "1.2.840.10008.1.2.4.70", "jpeg2000": "1.2.840.10008.1.2.4.90"}
_KIND_OF = {
    **{f"1.2.840.10008.1.2.4.{number}": "jpeg" for number in range(50, 82)},
    **{f"1.2.840.10008.1.2.4.{number}": "jpeg2000" for number in (90, 91, 92, 93, 201, 202, 203)},
}
_ITEM = b"\xfe\xff\x00\xe0"
"""Encapsulated pixels begin with one (PS3.5, A.4)."""


class _Words(NamedTuple):
    """The pixels of a frame."""

    values: np.ndarray
    """Unsigned [H * W], two's complement if signed."""
    bits: int
    """Of a value."""
    is_signed: bool


def grey_of_dicom(data: bytes) -> np.ndarray:
    """Decodes a DICOM file with one grey frame to [H, W] uint8, with the transformations that its header specifies.

    These are the modality, VOI and presentation transformations of PS3.3 (see ``grey.grey_of_words``). A colour image
    whose pixels are grey, and look like a film, is such a frame, too. Raises UndecodableImage, with a reason that
    depends only on the file, for other colour images, several frames, more than MAX_PIXELS (checked before decoding),
    and truncated, damaged or unsupported files; UserError if the libraries of the extra ``dicom`` are not installed.
    """
    with reading():
        tags, syntax = read_tags(io.BytesIO(data), (*LAYOUT_TAGS, *OVERLAY_BITS, *GREY_TAGS))
        layout = layout_of(tags)
        code = _compressed(tags, syntax, layout)
        if layout.is_colour:
            return _grey_of_colour(tags, code, layout)
        words = _native(tags, syntax, layout) if code is None else _decompressed(code, layout)
        values = words.values.reshape(layout.rows, layout.columns)
        return grey_of_words(values, words.bits, words.is_signed, tags, syntax != _BIG_ENDIAN)


def _compressed(tags: Dataset, syntax: str, layout: Layout) -> bytes | None:
    """The compressed frame; None for native pixels. What the pixels are outweighs what the transfer syntax says."""
    data, is_known = tags.PixelData, syntax == _RLE or syntax in _KIND_OF
    if data.startswith(_ITEM) and (syntax not in _NATIVE or tags["PixelData"].is_undefined_length):
        code = _one_frame(data)
        kind = kind_of(code)
        if kind and kind != _KIND_OF.get(syntax):
            repaired(OTHER_SYNTAX)
        if kind or syntax == _RLE:
            return code
    elif syntax in _NATIVE:
        return None
    elif is_known and len(data) >= layout.bytes:
        repaired(OTHER_SYNTAX)
        return None
    raise UndecodableImage(
        "truncated or damaged" if is_known else f"unsupported transfer syntax{_name_of(syntax)}"
    )


def _name_of(syntax: str) -> str:
    """Its name in the standard: nothing else that a file says is quoted."""
    from pydicom.uid import UID_dictionary

    return f" ({UID_dictionary[syntax][0]})" if syntax in UID_dictionary else ""


def _native(tags: Dataset, syntax: str, layout: Layout) -> _Words:
    # 8-bit pixels in 16-bit words come in pairs, swapped (PS3.5, 8.2 and annex D).
    is_swapped = syntax == _BIG_ENDIAN and (layout.bits_allocated == 16 or tags["PixelData"].VR == "OW")
    return _significant(tags.PixelData, layout, is_swapped)


def _decompressed(code: bytes, layout: Layout) -> _Words:
    if not kind_of(code):
        return _significant(_run_lengths(code, _decoder(_RLE), layout), layout, is_swapped=False)
    frame = _frame_of(code, layout)
    return _samples(frame, _decoder(_DECODER_OF[kind_of(code)]), layout)


def _grey_of_colour(tags: Dataset, code: bytes | None, layout: Layout) -> np.ndarray:
    """[H, W] uint8. Modality and VOI transformations are those of grey images, and do not apply."""
    shape = (layout.rows, layout.columns)
    if code is None:
        if layout.bits_allocated != 8 or len(tags.PixelData) < layout.bytes:
            raise UndecodableImage(COLOUR)
        values = np.frombuffer(tags.PixelData, np.uint8, layout.bytes)
        if tags.get("PlanarConfiguration") == 1:
            return grey_of_channels(np.moveaxis(values.reshape(3, *shape), 0, -1), layout, None)
        return grey_of_channels(values.reshape(*shape, 3), layout, None)
    if not kind_of(code):
        raise UndecodableImage(COLOUR)
    frame = _frame_of(code, layout)
    channels = _channels(frame, _decoder(_DECODER_OF[kind_of(code)]))
    return grey_of_channels(channels, layout, frame.code)


def _significant(data: bytes | bytearray, layout: Layout, is_swapped: bool) -> _Words:
    """Extracts the BitsStored bits that end at HighBit from words of BitsAllocated bits; other bits are undefined."""
    length = layout.bytes
    if len(data) < length:
        raise UndecodableImage("truncated or damaged")
    if layout.bits_allocated == 16:
        words = np.frombuffer(data, ">u2" if is_swapped else "<u2", layout.pixels)
    elif is_swapped:
        words = np.frombuffer(data, ">u2", (length + 1) // 2).astype("<u2").view(np.uint8)[:length]
    else:
        words = np.frombuffer(data, np.uint8, length)
    words = words & np.uint16(0xFFFF ^ layout.overlay_bits)
    above = words >> (layout.high_bit + 1) if layout.high_bit < 15 else np.zeros(1, np.uint16)
    low, bits = layout.high_bit + 1 - layout.bits_stored, layout.bits_stored
    # Signed values may be extended to the whole word: then all of these bits are set, or none.
    if above.any() and not (layout.is_signed and np.isin(above, (0, above.max())).all()):
        image = words.reshape(layout.rows, layout.columns) >> low
        if has_more_bits(image, bits, layout.bits_allocated - low, layout.is_signed):
            repaired(MORE_BITS)
            bits = layout.bits_allocated - low
        else:
            repaired(BITS_ABOVE)
    return _Words((words >> low) & ((1 << bits) - 1), bits, layout.is_signed)


def _run_lengths(code: bytes, decode: Callable[..., bytearray], layout: Layout) -> bytearray:
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


def _frame_of(code: bytes, layout: Layout) -> Frame:
    """The frame, if its size is that of the header: a decoder allocates what the codestream declares."""
    frame = jpeg_frame(code) if kind_of(code) == "jpeg" else jpeg2000_frame(code)
    if frame.components not in (1, 3):
        raise UndecodableImage(COLOUR)
    if (frame.rows, frame.columns) != (layout.rows, layout.columns):
        raise UndecodableImage(
            f"compressed pixels of {frame.rows}x{frame.columns} but a header of {layout.rows}x{layout.columns}"
        )
    if kind_of(code) == "jpeg" and frame.precision == 8:
        whole_jpeg(frame.code)  # raises
    if frame.precision > 16:
        raise UndecodableImage(f"{frame.precision} bits per pixel, not 8 to 16")
    return frame


def _samples(frame: Frame, decode: Callable[..., bytearray], layout: Layout) -> _Words:
    """Decodes a codestream of grey."""
    if frame.components == 3:
        grey = grey_of_channels(_channels(frame, decode), layout, frame.code)
        return _Words(grey.ravel().astype(np.uint16), 8, False)
    samples = np.frombuffer(decode(frame.code, version=2), np.uint8 if frame.precision <= 8 else "<u2")
    words = samples.astype(np.uint16) & ((1 << frame.precision) - 1)
    if words.size != layout.pixels:
        raise UndecodableImage("truncated or damaged")
    if frame.is_signed and not layout.is_signed:
        repaired(OTHER_SIGN)
        return _Words(words, frame.precision, True)
    if layout.is_signed:
        bits = min(frame.precision, layout.bits_stored)
        return _Words(words & ((1 << bits) - 1), bits, True)
    most = (1 << layout.bits_stored) - 1
    if np.count_nonzero(words > most + int(most * OVERSHOOT)) > MORE_BITS_SHARE * words.size:
        repaired(MORE_BITS)
        return _Words(words, frame.precision, False)
    return _Words(np.minimum(words, most), layout.bits_stored, False)


def _channels(frame: Frame, decode: Callable[..., bytearray]) -> np.ndarray:
    """[H, W, 3] uint8 of a codestream in colour."""
    size = frame.rows * frame.columns * 3
    if frame.components != 3 or frame.precision != 8:
        raise UndecodableImage(COLOUR)
    samples = np.frombuffer(decode(frame.code, version=2), np.uint8)
    if samples.size != size:
        raise UndecodableImage("truncated or damaged")
    return samples.reshape(frame.rows, frame.columns, 3)


def _one_frame(data: bytes) -> bytes:
    """Joins all fragments of encapsulated pixel data (PS3.5, A.4), or those of the first of several frames."""
    from pydicom.encaps import generate_fragments, get_frame, parse_basic_offsets

    stream = io.BytesIO(data)
    offsets = parse_basic_offsets(stream)
    code = b"".join(generate_fragments(stream))
    if len(offsets) > 1:
        try:
            first = get_frame(data, 0, number_of_frames=1)
        except Exception:  # pydicom raises several for offsets that lead nowhere
            first = b""
        if first and (not kind_of(first) or END in first):
            return first
        repaired(OFFSETS)
    return code


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
