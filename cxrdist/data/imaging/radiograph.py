"""Radiographs from foreign files, and the three encodings of a shard: all pixels are 8-bit grey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

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
)
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.errors import UserError, nearest

FITS = ("pad", "crop")
FOREIGN = {"pad": "foreign-pad", "crop": "foreign-crop"}
"""The "encoding" of a set whose tars others wrote: any file that ``grey_of`` reads, made square as the name says."""

_FIT_OF = {encoding: fit for fit, encoding in FOREIGN.items()}


@dataclass(frozen=True)
class Tone:
    """How the grey that a file holds becomes 8-bit."""

    of_16_bit: Callable[[np.ndarray], np.ndarray]
    """[H, W] uint16 -> [H, W] uint8, inverted or not."""
    is_inverted: bool
    """Whether 8-bit grey, too, is turned over; else it stays as it is."""


def load_grey(path: str | PathLike[str], size: int, fit: str = "pad", tone: Tone | None = None) -> np.ndarray:
    """An image file as [size, size] uint8; see ``grey_of``.

    Raises UndecodableImage, naming the file, also where it is missing.
    """
    try:
        return grey_of(Path(path).read_bytes(), size, fit, tone)
    except (FileNotFoundError, NotADirectoryError):
        raise UndecodableImage("missing", str(path)) from None
    except IsADirectoryError:
        raise UndecodableImage("a folder, not a file", str(path)) from None
    except UndecodableImage as error:
        raise UndecodableImage(error.reason, str(path)) from error.__cause__


def grey_of(data: bytes, size: int, fit: str = "pad", tone: Tone | None = None) -> np.ndarray:
    """The bytes of a PNG or JPEG of any mode and size, of a DICOM file, or of a 2-D uint8 npy, as [size, size]
    uint8.

    The aspect is kept: ``fit`` "pad" adds black bars around the whole image, "crop" keeps the largest centred
    square. 16-bit grey keeps its upper 8 bits unless ``tone`` says otherwise, transparent pixels are black, a
    JPEG's orientation is applied. Raises UndecodableImage where they are no image, damaged, or declare more than
    MAX_PIXELS.
    """
    if fit not in FITS:
        raise UserError(f"unknown fit {fit!r}{nearest(fit, FITS)}")
    from cxrdist.data.imaging.dicom import grey_of_dicom, is_dicom  # loads pydicom only for a DICOM file

    if is_dicom(data):
        return _resize(Image.fromarray(grey_of_dicom(data)), size, fit)
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        return decoding(lambda: _resize(Image.fromarray(decode_npy(data, None)), size, fit))
    # Pillow skips the checksums of a PNG's pixels while it decodes them; only verify() looks.
    decoding(lambda: open_image(data, tuple(PILLOW_FORMAT.values())).verify())
    return decoding(
        lambda: _resize(_to_grey(open_image(data, tuple(PILLOW_FORMAT.values())), tone), size, fit)
    )


def smaller(pixels: np.ndarray, size: int) -> np.ndarray:
    """A square image [H, H] uint8 as [size, size] uint8, by the anti-aliasing filter of an import."""
    return _resize(Image.fromarray(pixels), size, "pad")


def decode(data: bytes | memoryview, encoding: str, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a shard member as a [size, size] uint8 array: a new one, or ``out``, contiguous and of that shape.

    Raises UndecodableImage for anything else than one whole grey image of exactly this size and encoding; where
    the encoding is one of ``FOREIGN``, for anything that ``grey_of`` does not read. ``out`` then holds anything.
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
    elif encoding in _FIT_OF:
        out[:] = grey_of(bytes(data), size, _FIT_OF[encoding])
    else:
        check_encoding(encoding)
    return out


def _to_grey(image: Image.Image, tone: Tone | None) -> Image.Image:
    """To mode L; decodes the whole image."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return Image.fromarray(tone.of_16_bit(pixels) if tone else (pixels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "black")
        image.alpha_composite(visible)
    # convert() copies even where there is nothing to convert.
    grey = image if image.mode == "L" else image.convert("L")
    return ImageOps.invert(grey) if tone and tone.is_inverted else grey


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
