"""Reads radiographs from external files, and encodes and decodes shard members: all pixels are 8-bit grey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from cxrdist.data.imaging.codecs import (
    PILLOW_FORMAT,
    check_encoding,
    check_grey,
    decode_jpeg,
    decode_npy,
    decoding,
    open_image,
    whole_jpeg,
)
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.mend import JPEG_MAGIC, mended
from cxrdist.data.imaging.other_files import kind_of_file
from cxrdist.data.imaging.repairs import repaired
from cxrdist.data.imaging.wide_png import ALL_TRANSPARENT, grey_of_16_bit_colour, is_16_bit_colour, is_hidden
from cxrdist.errors import UserError, nearest

Fit = Literal["pad", "crop"]
FITS = get_args(Fit)
EXTERNAL_ENCODINGS = {"pad": "foreign-pad", "crop": "foreign-crop"}
"""The "encoding" of a set of external tars, by fit: any file that ``grey_of`` reads, made square by that fit."""
EXIF_ORIENTATION = 0x0112
FEWER_BITS = "16-bit pixels of 14 bits or fewer, scaled by the bits that they have"
"""The widest such image uses less than a quarter of the grey values, so it would be nearly black."""
MOST_FEWER_BITS = 14

_FIT_OF = {encoding: fit for fit, encoding in EXTERNAL_ENCODINGS.items()}


def is_external(encoding: str) -> bool:
    """True for the encoding of a set of external tars."""
    return encoding in _FIT_OF


@dataclass(frozen=True)
class Tone:
    """How the grey values of a file are mapped to 8-bit grey."""

    of_16_bit: Callable[[np.ndarray], np.ndarray]
    """Maps [H, W] uint16 to [H, W] uint8; includes any inversion."""
    is_inverted: bool
    """True if 8-bit grey is inverted as well."""


def load_grey(path: str | PathLike[str], size: int, fit: str = "pad", tone: Tone | None = None) -> np.ndarray:
    """Reads an image file as [size, size] uint8; see ``grey_of``.

    Raises UndecodableImage, with the file's name, also if the file is missing.
    """
    try:
        return grey_of(Path(path).read_bytes(), size, fit, tone)
    except (FileNotFoundError, NotADirectoryError):
        raise UndecodableImage("missing", str(path)) from None
    except IsADirectoryError:
        raise UndecodableImage("a folder, not a file", str(path)) from None
    except UndecodableImage as error:
        raise UndecodableImage(error.reason, str(path)) from error.__cause__


def grey_of(
    data: bytes, size: int, fit: str = "pad", tone: Tone | None = None, *, is_checked: bool = False
) -> np.ndarray:
    """Decodes a PNG or JPEG of any mode and size, a DICOM file, or a 2-D uint8 npy to [size, size] uint8.

    The aspect ratio is kept: ``fit`` "pad" adds black bars around the whole image, "crop" keeps the largest centred
    square. 16-bit grey or colour is reduced to the upper 8 of the bits that it uses unless ``tone`` is given,
    transparent pixels become black, and the orientation of a JPEG is applied. Faults beside the pixels are repaired,
    and noted (``repairs.noting``). Raises UndecodableImage if ``data`` is not an image, is damaged, or declares more
    than MAX_PIXELS; UserError if ``fit`` is unknown. ``is_checked``: it is known that no pixel of a JPEG is missing.
    """
    if fit not in FITS:
        raise UserError(f"unknown fit {fit!r}{nearest(fit, FITS)}")
    from cxrdist.data.imaging.dicom import grey_of_dicom, is_dicom  # loads pydicom only for a DICOM file

    if is_dicom(data):
        return _resize(Image.fromarray(grey_of_dicom(data)), size, fit)
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        return decoding(lambda: _resize(Image.fromarray(decode_npy(data, None)), size, fit))
    try:
        return _resize(_grey_image(data, tone, is_checked), size, fit)
    except UndecodableImage as error:
        copy = decoding(lambda: mended(data))
        if copy is None:
            raise UndecodableImage(_why(data, error.reason)) from error.__cause__
        return _resize(_grey_image(copy, tone, is_checked), size, fit)


def smaller(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image [H, H] uint8 to [size, size] uint8 with the anti-aliasing filter of an import."""
    return _resize(Image.fromarray(pixels), size, "pad")


def decode(data: bytes | memoryview, encoding: str, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Decodes a shard member to [size, size] uint8: into ``out``, contiguous and of that shape, or a new array.

    Raises UndecodableImage unless ``data`` is one complete grey image of exactly this size and encoding; for an
    encoding of ``EXTERNAL_ENCODINGS``, if ``grey_of`` cannot read it. The content of ``out`` is then undefined.
    """
    if out is None:
        out = np.empty((size, size), np.uint8)
    if encoding == "npy":
        out[:] = decode_npy(data, size)
    elif encoding == "png":
        image = decoding(lambda: open_image(data, ("PNG",)))
        check_grey(image.height, image.width, image.mode, "L", size)
        out[:] = decoding(lambda: np.asarray(image))
    elif encoding == "jpg":
        decode_jpeg(data, size, out)
    elif is_external(encoding):
        # An import read all of these bytes before it wrote their hash.
        out[:] = grey_of(bytes(data), size, _FIT_OF[encoding], is_checked=True)
    else:
        check_encoding(encoding)
    return out


def _grey_image(data: bytes, tone: Tone | None, is_checked: bool) -> Image.Image:
    """Decodes a PNG or JPEG to mode L."""
    # Pillow does not check the checksums of a PNG's pixels when it decodes them; only verify() does.
    decoding(lambda: open_image(data, tuple(PILLOW_FORMAT.values())).verify())
    return decoding(lambda: _to_grey(_opened(data, is_checked), data, tone))


def _opened(data: bytes, is_checked: bool) -> Image.Image:
    """The image; that of a JPEG has all its pixels."""
    image = open_image(data, tuple(PILLOW_FORMAT.values()))
    if is_checked or not data.startswith(JPEG_MAGIC):
        return image
    pixels = whole_jpeg(data, "RGB" if image.mode == "RGB" else "GRAY")
    # They are Pillow's, which need not be decoded again. CMYK is: its inks are often stored inverted.
    return image if pixels is None or image.mode not in ("L", "RGB") else _with_orientation(pixels, image)


def _with_orientation(pixels: np.ndarray, like: Image.Image) -> Image.Image:
    image = Image.fromarray(pixels)
    orientation = like.getexif().get(EXIF_ORIENTATION)
    if orientation is not None:
        image.getexif()[EXIF_ORIENTATION] = orientation
    return image


def _to_grey(image: Image.Image, data: bytes, tone: Tone | None) -> Image.Image:
    """Decodes the whole image and converts it to mode L."""
    if is_16_bit_colour(data):
        image = _with_orientation(grey_of_16_bit_colour(data), image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return Image.fromarray(tone.of_16_bit(pixels) if tone else _upper_bits(pixels))
    grey = _visible(image)
    return ImageOps.invert(grey) if tone and tone.is_inverted else grey


def _visible(image: Image.Image) -> Image.Image:
    """Mode L, on black where it is transparent: unless that would hide the whole picture."""
    if not image.has_transparency_data:
        return image if image.mode == "L" else image.convert("L")  # convert() copies even what is L already
    whole = image.convert("RGBA")
    shown = Image.new("RGBA", image.size, "black")
    shown.alpha_composite(whole)
    grey, opaque = shown.convert("L"), whole.convert("RGB").convert("L")
    if is_hidden(np.asarray(grey), np.asarray(opaque)):
        repaired(ALL_TRANSPARENT)
        return opaque
    return grey


def _why(data: bytes, reason: str) -> str:
    """Why a file that is neither PNG nor JPEG, or cannot be mended, is not read."""
    if not data.startswith(JPEG_MAGIC):
        return kind_of_file(data) or reason
    from cxrdist.data.imaging.dicom.codestream import jpeg_frame

    try:
        bits = jpeg_frame(data).precision
    except UndecodableImage:
        return reason
    return reason if bits == 8 else f"a JPEG of {bits} bits"


def _upper_bits(pixels: np.ndarray) -> np.ndarray:
    """[H, W] uint16 -> [H, W] uint8."""
    bits = int(pixels.max()).bit_length()
    if not bits or bits > MOST_FEWER_BITS:
        return (pixels >> 8).astype(np.uint8)
    repaired(FEWER_BITS)
    return (pixels >> max(bits - 8, 0)).astype(np.uint8)


def _resize(image: Image.Image, size: int, fit: str) -> np.ndarray:
    width, height = image.size
    side = max(width, height) if fit == "pad" else min(width, height)
    # Neither filter has negative lobes, as LANCZOS and BICUBIC do: those draw halos around bones and markers.
    resample = Image.Resampling.HAMMING if size < side else Image.Resampling.BILINEAR
    if fit == "crop":
        left, top = (width - side) / 2, (height - side) / 2
        return np.array(image.resize((size, size), resample, box=(left, top, left + side, top + side)))
    fitted = image.resize((max(1, round(width * size / side)), max(1, round(height * size / side))), resample)
    pixels = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - fitted.height) // 2, (size - fitted.width) // 2
    pixels[top : top + fitted.height, left : left + fitted.width] = np.asarray(fitted)
    return pixels
