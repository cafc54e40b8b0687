"""PNGs and JPEGs with a fault beside their pixels, and 16-bit PNGs of every kind: the right pixels, and a note."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging import mend, radiograph
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import grey_of
from cxrdist.data.imaging.repairs import noting
from cxrdist.data.importers.common.intensity import tone_of

RNG = np.random.default_rng(5)
NOISE = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
SMOOTH = (np.add.outer(np.arange(32), np.arange(32)) * 4).astype(np.uint8)


def read(data: bytes, intensity: str | None = None) -> tuple[np.ndarray, list[str]]:
    with noting() as noted:
        found = grey_of(data, 32, tone=tone_of(intensity) if intensity else None)
    return found, noted


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PNG = saved(Image.fromarray(NOISE), "PNG")
IHDR_END = 33


def with_chunk(bad: bytes) -> bytes:
    return PNG[:IHDR_END] + bad + PNG[IHDR_END:]


@pytest.mark.parametrize(
    ("data", "noted"),
    [
        (PNG, []),
        (with_chunk(chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0), crc=1)), [mend.WRONG_CHECKSUM]),
        (with_chunk(chunk(b"tRNS", b"\0\0", crc=1)), [mend.WRONG_CHECKSUM]),
        (with_chunk(chunk(b"teXt", b"unknown")), []),
        (PNG[:-12], [mend.NO_END_CHUNK]),
        (PNG[:-5], [mend.NO_END_CHUNK]),
    ],
)
def test_a_png_whose_pixels_are_whole_is_read(data: bytes, noted: list[str]) -> None:
    found, of_file = read(data)
    assert np.array_equal(found, NOISE) and of_file == noted


def packed(pixels: np.ndarray, spoil: bool) -> bytes:
    """A PNG whose pixels are packed into two chunks, with a wrong checksum of zlib if ``spoil``."""
    stream = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels)))
    if spoil:
        stream[-1] ^= 1
    header = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 0)
    parts = [chunk(b"IDAT", bytes(part)) for part in (stream[:100], stream[100:])]
    return b"".join([mend.PNG_MAGIC, chunk(b"IHDR", header), *parts, chunk(b"IEND", b"")])


def test_a_png_with_a_wrong_checksum_of_whole_pixels_is_read() -> None:
    found, noted = read(packed(NOISE, spoil=True))
    assert np.array_equal(found, NOISE) and noted == [mend.WRONG_SUM_OF_PIXELS]
    assert read(packed(NOISE, spoil=False))[1] == []
    for at in (60, 300, 600):  # in a chunk whose own checksum then is wrong
        data = bytearray(packed(NOISE, spoil=True))
        data[at] ^= 1
        with pytest.raises(UndecodableImage, match="truncated or damaged"):
            grey_of(bytes(data), 32)


def test_a_png_whose_pixels_are_not_whole_is_refused() -> None:
    bad_pixels = bytearray(PNG)
    bad_pixels[PNG.index(b"IDAT") + 40] ^= 1
    for data in (bytes(bad_pixels), PNG[:-13], PNG[: len(PNG) // 2]):
        with noting(), pytest.raises(UndecodableImage, match="truncated or damaged"):
            grey_of(data, 32)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(mode: str, cut: int) -> None:
    whole = saved(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("L"))
    found, noted = read(whole[:-cut])
    assert np.array_equal(found, expected) and noted == [mend.NO_END_MARKER]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_refused_wherever_it_was_cut(progressive: bool) -> None:
    whole = saved(Image.fromarray(NOISE), "JPEG", quality=90, progressive=progressive)
    for cut in range(3, len(whole) - 2):
        with pytest.raises(UndecodableImage):
            grey_of(whole[:-cut], 32)


def test_a_jpeg_with_an_orientation_that_cannot_be_read() -> None:
    whole = saved(Image.fromarray(SMOOTH), "JPEG", quality=95)
    bad = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\xff\xff\0\0"
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(bad) + 2) + bad + whole[2:]
    found, noted = read(data)
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(whole)))) and noted == []


# 16 bits.


def png_16(samples: np.ndarray, colour_type: int) -> bytes:
    """[H, W, channels] uint16 as a PNG, written by hand: Pillow writes no 16-bit colour."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"".join(
        [mend.PNG_MAGIC, chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
TWELVE = np.linspace(0, 4095, 1024).astype(np.uint16).reshape(32, 32)
SIXTEEN = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
OPAQUE = np.full((32, 32), 65535, np.uint16)


def channels(grey: np.ndarray, colour_type: int) -> np.ndarray:
    alpha = [OPAQUE] if colour_type in (GREY_ALPHA, RGBA) else []
    return np.dstack([grey] * (3 if colour_type in (RGB, RGBA) else 1) + alpha)


@pytest.mark.parametrize("colour_type", [RGB, GREY_ALPHA, RGBA])
@pytest.mark.parametrize("grey", [TWELVE, SIXTEEN], ids=["12 bits", "16 bits"])
@pytest.mark.parametrize("intensity", ["percentiles", "full", None])
def test_16_bit_colour_is_read_as_the_same_pixels_in_16_bit_grey(
    colour_type: int, grey: np.ndarray, intensity: str | None
) -> None:
    found, noted = read(png_16(channels(grey, colour_type), colour_type), intensity)
    expected, of_grey = read(png_16(grey[:, :, None], GREY), intensity)
    assert np.array_equal(found, expected) and noted == of_grey
    if intensity != "full":
        assert (found.min(), found.max()) == (0, 255)


def test_16_bit_colours_are_weighted_as_8_bit_ones() -> None:
    samples = RNG.integers(0, 65536, (32, 32, 3)).astype(np.uint16)
    found, _ = read(png_16(samples, RGB))
    red, green, blue = samples.astype(float).transpose(2, 0, 1)
    assert np.abs(found - (0.299 * red + 0.587 * green + 0.114 * blue) / 256).max() <= 1.01


def test_transparent_16_bit_pixels_are_black() -> None:
    samples = np.dstack([np.full((32, 32), 60000, np.uint16), OPAQUE])
    samples[:8, :, 1] = 0
    found, _ = read(png_16(samples, GREY_ALPHA), "full")
    assert not found[:8].any() and (found[8:] == np.floor(60000 * 255 / 65535 + 0.5)).all()


@pytest.mark.parametrize("bits", [6, 8, 10, 12, 14, 15, 16])
def test_16_bit_grey_without_a_tone_uses_the_bits_that_are_there(bits: int) -> None:
    grey = np.linspace(0, 2**bits - 1, 1024).astype(np.uint16).reshape(32, 32)
    found, noted = read(png_16(grey[:, :, None], GREY))
    shift = 8 if bits > 14 else max(bits - 8, 0)
    assert np.array_equal(found, grey >> shift)
    assert noted == ([radiograph.FEWER_BITS] if bits <= 14 else [])
