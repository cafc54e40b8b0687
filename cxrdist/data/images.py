"""Reads radiographs from external files, and encodes and decodes shard members: all pixels are 8-bit grey."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrdist.data.npy import UnsupportedNpyVersion, header_of
from cxrdist.errors import UserError, nearest

ENCODINGS = ("png", "jpg", "npy")
LOSSLESS = ("png", "npy")
FITS = ("pad", "crop")
FOREIGN = {"pad": "foreign-pad", "crop": "foreign-crop"}
"""The "encoding" of a set of external tars, by fit: any file that ``grey_of`` reads, made square by that fit."""
MAX_PIXELS = 100_000_000
"""The largest image that is read: a file that declares more is a decompression bomb or damaged."""

_FIT_OF = {encoding: fit for fit, encoding in FOREIGN.items()}
_PILLOW_FORMAT = {"png": "PNG", "jpg": "JPEG"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Tone:
    """How the grey values of a file are mapped to 8-bit grey."""

    of_16_bit: Callable[[np.ndarray], np.ndarray]
    """Maps [H, W] uint16 to [H, W] uint8; includes any inversion."""
    is_inverted: bool
    """True if 8-bit grey is inverted as well."""


class UndecodableImage(Exception):
    """A file, or the bytes of a sample, cannot be decoded as the expected image.

    ``reason`` is a short phrase that depends only on the data; ``file`` is "" if the bytes were not read from a file.
    """

    def __init__(self, reason: str, file: str = "") -> None:
        super().__init__(reason, file)
        self.reason = reason
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason


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


def grey_of(data: bytes, size: int, fit: str = "pad", tone: Tone | None = None) -> np.ndarray:
    """Decodes a PNG or JPEG of any mode and size, a DICOM file, or a 2-D uint8 npy to [size, size] uint8.

    The aspect ratio is kept: ``fit`` "pad" adds black bars around the whole image, "crop" keeps the largest centred
    square. 16-bit grey is reduced to its upper 8 bits unless ``tone`` is given, transparent pixels become black, and
    the orientation of a JPEG is applied. Raises UndecodableImage if ``data`` is not an image, is damaged, or declares
    more than MAX_PIXELS; UserError if ``fit`` is unknown.
    """
    if fit not in FITS:
        raise UserError(f"unknown fit {fit!r}{nearest(fit, FITS)}")
    from cxrdist.data.dicom import grey_of_dicom, is_dicom  # which imports this module

    if is_dicom(data):
        return _resize(Image.fromarray(grey_of_dicom(data)), size, fit)
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        return _decoding(lambda: _resize(Image.fromarray(_decode_npy(data, None)), size, fit))
    # Pillow does not check the checksums of a PNG's pixels when it decodes them; only verify() does.
    _decoding(lambda: _open(data, tuple(_PILLOW_FORMAT.values())).verify())
    return _decoding(lambda: _resize(_to_grey(_open(data, tuple(_PILLOW_FORMAT.values())), tone), size, fit))


def smaller(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image [H, H] uint8 to [size, size] uint8 with the anti-aliasing filter of an import."""
    return _resize(Image.fromarray(pixels), size, "pad")


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Encodes [H, W] uint8 as a shard member: the same pixels give the same bytes, without metadata.

    png and npy are lossless. jpg (quality 95) reproduces radiographs with a PSNR of at least 42 dB at 64 px and 44 dB
    at 256 px (the minimum over 600 films of ChestX-ray14 is 43.3 and 45.3 dB). Raises UserError if ``encoding`` is
    unknown.
    """
    assert pixels.ndim == 2 and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
    _check_encoding(encoding)
    buffer = io.BytesIO()
    if encoding == "npy":
        np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    elif encoding == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decode(data: bytes | memoryview, encoding: str, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Decodes a shard member to [size, size] uint8: into ``out``, contiguous and of that shape, or a new array.

    Raises UndecodableImage unless ``data`` is one complete grey image of exactly this size and encoding; for an
    encoding of ``FOREIGN``, if ``grey_of`` cannot read it. The content of ``out`` is then undefined.
    """
    if out is None:
        out = np.empty((size, size), np.uint8)
    if encoding == "npy":
        out[:] = _decode_npy(data, size)
    elif encoding == "png":
        image = _decoding(lambda: _open(data, ("PNG",)))
        _check_grey(image.height, image.width, image.mode, "L", size)
        out[:] = _decoding(lambda: np.asarray(image))
    elif encoding == "jpg":
        _decode_jpeg(data, size, out)
    elif encoding in _FIT_OF:
        out[:] = grey_of(bytes(data), size, _FIT_OF[encoding])
    else:
        _check_encoding(encoding)
    return out


def _decode_jpeg(data: bytes | memoryview, size: int, out: np.ndarray) -> None:
    """Decodes with libjpeg-turbo directly: the same pixels as Pillow's, a third faster."""
    import simplejpeg  # here, since only JPEG sets need it

    if not data:
        raise UndecodableImage("empty")
    if data[:3] != b"\xff\xd8\xff":
        raise UndecodableImage("not an image of a known format")
    height, width, colours, _ = _decoding(lambda: simplejpeg.decode_jpeg_header(data))
    _check_grey(height, width, colours, "Gray", size)
    _decoding(lambda: simplejpeg.decode_jpeg(data, "GRAY", buffer=out))


def _check_grey(height: int, width: int, mode: str, grey: str, size: int) -> None:
    if height * width > MAX_PIXELS:
        raise UndecodableImage(_TOO_LARGE)
    if mode != grey or (height, width) != (size, size):
        raise UndecodableImage(f"{height}x{width} {mode}, not {size}x{size} 8-bit grey")


@functools.cache
def npy_header(size: int) -> bytes:
    """The bytes that ``encode`` writes before the pixels of an npy of this size."""
    return encode(np.empty((size, size), np.uint8), "npy")[: -(size * size)]


def _check_encoding(encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise UserError(f"unknown image encoding {encoding!r}{nearest(encoding, ENCODINGS)}")


def _decoding(step: Callable[[], _T]) -> _T:
    """Runs a decoding step on untrusted bytes: a decoder may raise almost any exception on them."""
    try:
        return step()
    except (UndecodableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage(_TOO_LARGE) from error
    except Exception as error:
        raise UndecodableImage("truncated or damaged") from error


_TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels"


def _open(data: bytes | memoryview, formats: tuple[str, ...]) -> Image.Image:
    if not data:
        raise UndecodableImage("empty")
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage(_TOO_LARGE)
    return image


def _to_grey(image: Image.Image, tone: Tone | None) -> Image.Image:
    """Decodes the whole image and converts it to mode L."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return Image.fromarray(tone.of_16_bit(pixels) if tone else (pixels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "black")
        image.alpha_composite(visible)
    # convert() copies even if the mode is L already.
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


def _decode_npy(data: bytes | memoryview, size: int | None) -> np.ndarray:
    """Decodes [size, size] uint8, or [H, W] uint8 of any size if ``size`` is None."""
    stream = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = header_of(stream)
    except UnsupportedNpyVersion as error:
        raise UndecodableImage(str(error)) from None
    except Exception as error:
        # A header is a Python literal of at most 10 kB: a MemoryError comes from a literal nested too deeply.
        raise UndecodableImage("truncated or damaged") from error
    # Checked before any pixel is read, so that no untrusted dtype is built and no untrusted size is allocated.
    is_expected = len(shape) == 2 and min(shape) > 0 if size is None else shape == (size, size)
    if not is_expected or dtype != np.uint8:
        expected = "2-D" if size is None else f"{size}x{size}"
        raise UndecodableImage(f"{'x'.join(map(str, shape))} {dtype}, not {expected} uint8")
    if math.prod(shape) > MAX_PIXELS:
        raise UndecodableImage(_TOO_LARGE)
    if len(data) - stream.tell() != math.prod(shape):
        raise UndecodableImage("truncated or damaged")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=stream.tell())
    return pixels.reshape(shape, order="F" if is_fortran else "C")
