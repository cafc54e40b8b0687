"""Radiographs from foreign files, and the three encodings of a shard: all pixels are 8-bit grey."""

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

from cxrdist.data.npy import OtherVersion, header_of
from cxrdist.errors import UserError, nearest

ENCODINGS = ("png", "jpg", "npy")
LOSSLESS = ("png", "npy")
FITS = ("pad", "crop")
FOREIGN = {"pad": "foreign-pad", "crop": "foreign-crop"}
"""The "encoding" of a set whose tars others wrote: any file that ``grey_of`` reads, made square as the name says."""
MAX_PIXELS = 100_000_000
"""No radiograph is larger; a file that declares more is a decompression bomb or damaged."""

_FIT_OF = {encoding: fit for fit, encoding in FOREIGN.items()}
_PILLOW_FORMAT = {"png": "PNG", "jpg": "JPEG"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Tone:
    """How the grey that a file holds becomes 8-bit."""

    of_16_bit: Callable[[np.ndarray], np.ndarray]
    """[H, W] uint16 -> [H, W] uint8, inverted or not."""
    is_inverted: bool
    """Whether 8-bit grey, too, is turned over; else it stays as it is."""


class UndecodableImage(Exception):
    """A file, or a sample's bytes, that is not the image it should be.

    ``reason`` is a few words that depend on the data alone; ``file`` is "" where the bytes came from no file.
    """

    def __init__(self, reason: str, file: str = "") -> None:
        super().__init__(reason, file)
        self.reason = reason
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason


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
    from cxrdist.data.dicom import grey_of_dicom, is_dicom  # it knows this module

    if is_dicom(data):
        return _resize(Image.fromarray(grey_of_dicom(data)), size, fit)
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        return _decoding(lambda: _resize(Image.fromarray(_decode_npy(data, None)), size, fit))
    # Pillow skips the checksums of a PNG's pixels while it decodes them; only verify() looks.
    _decoding(lambda: _open(data, tuple(_PILLOW_FORMAT.values())).verify())
    return _decoding(lambda: _resize(_to_grey(_open(data, tuple(_PILLOW_FORMAT.values())), tone), size, fit))


def smaller(pixels: np.ndarray, size: int) -> np.ndarray:
    """A square image [H, H] uint8 as [size, size] uint8, by the anti-aliasing filter of an import."""
    return _resize(Image.fromarray(pixels), size, "pad")


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """[H, W] uint8 as the bytes of a shard member: the same pixels give the same bytes, without metadata.

    png and npy give every pixel back. jpg (quality 95) gives radiographs back with a PSNR of 42 dB or more at 64 px
    and 44 dB or more at 256 px (the least of 600 films of ChestX-ray14 is 43.3 and 45.3 dB).
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
    """The bytes of a shard member as a [size, size] uint8 array: a new one, or ``out``, contiguous and of that shape.

    Raises UndecodableImage for anything else than one whole grey image of exactly this size and encoding; where
    the encoding is one of ``FOREIGN``, for anything that ``grey_of`` does not read. ``out`` then holds anything.
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
    """By libjpeg-turbo, as Pillow does: the same pixels, a third faster."""
    import simplejpeg  # no set of another encoding needs it

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
    """What ``encode`` puts before the pixels of an npy of this size."""
    return encode(np.empty((size, size), np.uint8), "npy")[: -(size * size)]


def _check_encoding(encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise UserError(f"unknown image encoding {encoding!r}{nearest(encoding, ENCODINGS)}")


def _decoding(step: Callable[[], _T]) -> _T:
    """Run a step of Pillow's on foreign bytes, on which it may raise nearly anything."""
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


def _decode_npy(data: bytes | memoryview, size: int | None) -> np.ndarray:
    """[size, size] uint8, or [H, W] uint8 of any size where ``size`` is None."""
    stream = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = header_of(stream)
    except OtherVersion as error:
        raise UndecodableImage(str(error)) from None
    except Exception as error:
        # A header is a Python literal of at most 10 kB: a MemoryError is its parser's, for one that nests too far.
        raise UndecodableImage("truncated or damaged") from error
    # Checked before any pixel is touched: no foreign dtype is built, no foreign size allocated.
    is_right = len(shape) == 2 and min(shape) > 0 if size is None else shape == (size, size)
    if not is_right or dtype != np.uint8:
        wanted = "2-D" if size is None else f"{size}x{size}"
        raise UndecodableImage(f"{'x'.join(map(str, shape))} {dtype}, not {wanted} uint8")
    if math.prod(shape) > MAX_PIXELS:
        raise UndecodableImage(_TOO_LARGE)
    if len(data) - stream.tell() != math.prod(shape):
        raise UndecodableImage("truncated or damaged")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=stream.tell())
    return pixels.reshape(shape, order="F" if is_fortran else "C")
