"""The three encodings of a shard member, PNG, JPEG and npy, of 8-bit grey pixels."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxrdist.data.imaging.errors import MAX_PIXELS, TOO_LARGE, UndecodableImage
from cxrdist.data.imaging.npy import UnsupportedNpyVersion, header_of
from cxrdist.data.imaging.other_files import UNKNOWN
from cxrdist.errors import UserError, nearest

EncodingName = Literal["png", "jpg", "npy"]
ENCODINGS = get_args(EncodingName)


LOSSLESS = ("png", "npy")


PILLOW_FORMAT = {"png": "PNG", "jpg": "JPEG"}


_T = TypeVar("_T")


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Encodes [H, W] uint8 as a shard member: the same pixels give the same bytes, without metadata.

    png and npy are lossless. jpg (quality 95) reproduces radiographs with a PSNR of at least 42 dB at 64 px and 44 dB
    at 256 px (the minimum over 600 films of ChestX-ray14 is 43.3 and 45.3 dB). Raises UserError if ``encoding`` is
    unknown.
    """
    assert pixels.ndim == 2 and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
    check_encoding(encoding)
    buffer = io.BytesIO()
    if encoding == "npy":
        np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    elif encoding == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decode_jpeg(data: bytes | memoryview, size: int, out: np.ndarray) -> None:
    """Decodes with libjpeg-turbo directly: the same pixels as Pillow's, a third faster."""
    import simplejpeg  # here, since only JPEG sets need it

    if not data:
        raise UndecodableImage("empty")
    if data[:3] != b"\xff\xd8\xff":
        raise UndecodableImage(UNKNOWN)
    height, width, colours, _ = decoding(lambda: simplejpeg.decode_jpeg_header(data))
    check_grey(height, width, colours, "Gray", size)
    decoding(lambda: simplejpeg.decode_jpeg(data, "GRAY", buffer=out))


def check_grey(height: int, width: int, mode: str, grey: str, size: int) -> None:
    if height * width > MAX_PIXELS:
        raise UndecodableImage(TOO_LARGE)
    if mode != grey or (height, width) != (size, size):
        raise UndecodableImage(f"{height}x{width} {mode}, not {size}x{size} 8-bit grey")


@functools.cache
def npy_header(size: int) -> bytes:
    """The bytes that ``encode`` writes before the pixels of an npy of this size."""
    return encode(np.empty((size, size), np.uint8), "npy")[: -(size * size)]


def check_encoding(encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise UserError(f"unknown image encoding {encoding!r}{nearest(encoding, ENCODINGS)}")


def decoding(step: Callable[[], _T]) -> _T:
    """Runs a decoding step on untrusted bytes: a decoder may raise almost any exception on them."""
    try:
        return step()
    except (UndecodableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(UNKNOWN) from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage(TOO_LARGE) from error
    except Exception as error:
        raise UndecodableImage("truncated or damaged") from error


def open_image(data: bytes | memoryview, formats: tuple[str, ...]) -> Image.Image:
    if not data:
        raise UndecodableImage("empty")
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage(TOO_LARGE)
    return image


def whole_jpeg(data: bytes, colours: Literal["GRAY", "RGB"] = "GRAY") -> np.ndarray | None:
    """The pixels of a JPEG, [H, W] or [H, W, 3], or None if libjpeg warns of something that may be harmless.

    Raises UndecodableImage if a scan ends before its last pixel: Pillow fills up with grey, and says nothing. libjpeg
    tells its first warning alone, so a scan that ends after a harmless one is not found; nor are scans of a
    progressive JPEG that are missing as a whole.
    """
    import simplejpeg

    try:
        # Not at a smaller scale, which is faster: that of a lossless JPEG is ignored, so the buffer overflows.
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        # Bytes between two segments, for example, are no sign that pixels are missing.
        if "premature end" in str(error):
            raise UndecodableImage("truncated or damaged") from None
        return None
    return pixels[:, :, 0] if colours == "GRAY" else pixels


def decode_npy(data: bytes | memoryview, size: int | None) -> np.ndarray:
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
        raise UndecodableImage(TOO_LARGE)
    if len(data) - stream.tell() != math.prod(shape):
        raise UndecodableImage("truncated or damaged")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=stream.tell())
    return pixels.reshape(shape, order="F" if is_fortran else "C")
