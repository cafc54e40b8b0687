"""Every transfer syntax gives the pixels that were put in, and refuses what is not whole."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom")
pytest.importorskip("pylibjpeg")

from openjpeg.utils import encode_array
from pydicom.data import get_testdata_file
from rle.utils import encode_pixel_data

from cxrdist.data.imaging.dicom import grey_of_dicom, reading
from cxrdist.data.imaging.dicom.codestream import jpeg_frame
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.errors import UserError
from tests.helpers.dicom_files import dicom_file, jpeg_lossless

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE = (
    f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2", ".5")
)
BASELINE, EXTENDED, LOSSLESS, SV1, JPEG_LS, NEAR_LOSSLESS, JPEG2000, JPEG2000_LOSSY = (
    f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81, 90, 91)
)
# pylibjpeg decodes JPEG-LS and does not encode it. These two were made once with CharLS (pyjpegls 1.5.1) of
# ``steps()``, lossless, and ``slope()``, near-lossless with an error of at most 3.
JPEG_LS_OF_STEPS = base64.b64decode(
    "/9j/9wALEAAQAAwBAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAOB2+AEAAA2+AUAgdtgJATYAWALAHYBIBIBsAkBICAAGl8BIAA7h"
    "ASAD26AUALtkAoBQBZASAkBsBICQGYEQIgQNS+AoAe1QFAF2iAoAuzQFAUAuIEQIgXAiBEC4EQIgQ6l8BQBdkgKAXYoAgF2CAIAgIxAi"
    "BEC4EQRBcEQRBP/Z"
)
NEAR_LOSSLESS_OF_SLOPE = base64.b64decode(
    "/9j/9wALCAAQAAwBAREA/9oACAEBAAMAAPO+nVfiXf5X/S/vL39X/Rf7r79f/X/1/2v/V/8v/z/4/9k="
)


def steps() -> np.ndarray:
    """[16, 12] uint16, 0 to 54000."""
    row, column = np.mgrid[:16, :12]
    return ((row // 4 * 5 + column // 3) * 3000).astype(np.uint16)


def slope() -> np.ndarray:
    """[16, 12] uint8, 0 to 236."""
    row, column = np.mgrid[:16, :12]
    return (row * 15 + column).astype(np.uint8)


def noise(dtype: str, bits: int) -> np.ndarray:
    """[33, 35], an odd number of pixels, every one of ``bits`` bits."""
    rng = np.random.default_rng(bits)
    low = -(1 << (bits - 1)) if dtype.startswith("i") else 0
    return rng.integers(low, low + (1 << bits), (33, 35)).astype(dtype)


def all_values(pixels: np.ndarray, bits: int, **how: Any) -> dict[str, Any]:
    """A file whose window spans all values, and what that makes of them: 8 of the bits, by hand."""
    low = -(1 << (bits - 1)) if pixels.dtype.kind == "i" else 0
    expected = np.floor((pixels.astype(float) - low) / ((1 << bits) - 1) * 255 + 0.5).astype(np.uint8)
    window: dict[str, Any] = {"WindowCenter": low + (1 << (bits - 1)), "WindowWidth": 1 << bits}
    return {"data": dicom_file(pixels, bits_stored=bits, **window, **how), "expected": expected}


def rle(pixels: np.ndarray) -> bytes:
    layout = {"rows": pixels.shape[0], "columns": pixels.shape[1], "bits_allocated": pixels.itemsize * 8}
    return bytes(
        encode_pixel_data(pixels.tobytes(), **layout, samples_per_pixel=1, number_of_frames=1, byteorder="<")
    )


def jpeg2000(pixels: np.ndarray, bits: int, **how: Any) -> bytes:
    return bytes(encode_array(pixels, bits_stored=bits, **how))


@pytest.mark.parametrize(
    ("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16), ("i1", 8)]
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE, JPEG2000, SV1, LOSSLESS])
def test_lossless_syntaxes(syntax: str, dtype: str, bits: int) -> None:
    pixels = noise(dtype, bits)
    unsigned = pixels.view(f"u{pixels.itemsize}") & ((1 << bits) - 1)
    frames: dict[str, Callable[[], bytes]] = {
        RLE: lambda: rle(pixels),
        JPEG2000: lambda: jpeg2000(pixels, bits),
        SV1: lambda: jpeg_lossless(unsigned, bits),
        LOSSLESS: lambda: jpeg_lossless(unsigned, bits, predictor=2),
    }
    frame = frames[syntax]() if syntax in frames else None
    case = all_values(pixels, bits, syntax=syntax, frame=frame)
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_big_endian_bytes_that_are_no_words() -> None:
    case = all_values(noise("u1", 8), 8, syntax=BIG_ENDIAN, pixel_vr="OB")
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_a_lookup_table_of_big_endian_words() -> None:
    from tests.helpers.dicom_files import lut

    data = dicom_file(
        np.array([[0, 1, 2]], dtype=np.uint16),
        BIG_ENDIAN,
        VOILUTSequence=[lut([3, 0, 16], np.array([0, 32896, 65535], dtype=">u2").tobytes())],
    )
    assert grey_of_dicom(data)[0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_samples_of_8_bits_in_words_of_16(dtype: str) -> None:
    pixels = noise(dtype, 8)
    low = (pixels & 0xFF).astype(np.uint8)
    for syntax, frame in ((SV1, jpeg_lossless(low, 8)), (JPEG2000, jpeg2000(low, 8))):
        case = all_values(pixels, 8, syntax=syntax, frame=frame)
        assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_signed_pixels_that_were_compressed_as_unsigned() -> None:
    pixels = noise("i2", 12)
    case = all_values(pixels, 12, syntax=JPEG2000, frame=jpeg2000(pixels.view("u2") & 0xFFF, 12))
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_signed_samples_of_fewer_bits_than_are_stored() -> None:
    # -1 as the 0xFF of 8 bits, with a header of 12.
    pixels = noise("i2", 8)
    case = all_values(pixels, 12, syntax=JPEG2000, frame=jpeg2000(pixels.astype("i1"), 8))
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_samples_of_more_bits_than_are_stored_are_white() -> None:
    pixels = np.array([[0, 4095, 4096, 65535]], dtype=np.uint16)
    case = all_values(pixels, 12, syntax=SV1, frame=jpeg_lossless(pixels, 16))
    assert grey_of_dicom(case["data"])[0].tolist() == [0, 255, 255, 255]


def test_jpeg2000_in_a_jp2_file() -> None:
    pixels = noise("u2", 12)
    frame = jpeg2000(pixels, 12, codec_format=1)
    assert frame[4:8] == b"jP  "
    case = all_values(pixels, 12, syntax=JPEG2000, frame=frame)
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_fill_bytes_before_a_marker_and_after_the_end() -> None:
    pixels = noise("u2", 12)
    frame = jpeg_lossless(pixels, 12)
    case = all_values(pixels, 12, syntax=SV1, frame=frame[:2] + b"\xff\xff" + frame[2:] + b"\xff\0")
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_jpeg_ls() -> None:
    case = all_values(steps(), 16, syntax=JPEG_LS, frame=JPEG_LS_OF_STEPS)
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])
    # The same bits under a signed header.
    case = all_values(steps().view("i2"), 16, syntax=JPEG_LS, frame=JPEG_LS_OF_STEPS)
    assert np.array_equal(grey_of_dicom(case["data"]), case["expected"])


def test_near_lossless_jpeg_ls_keeps_its_bound() -> None:
    case = all_values(slope(), 8, syntax=NEAR_LOSSLESS, frame=NEAR_LOSSLESS_OF_SLOPE)
    error = np.abs(grey_of_dicom(case["data"]).astype(int) - slope())
    assert 0 < error.max() <= 3


def test_baseline_jpeg_is_what_pillow_decodes() -> None:
    buffer = io.BytesIO()
    Image.fromarray(slope()).save(buffer, "JPEG", quality=95)
    case = all_values(slope(), 8, syntax=BASELINE, frame=buffer.getvalue())
    result = grey_of_dicom(case["data"]).astype(int)
    assert np.abs(result - slope()).max() <= 3
    # Decoders may round the cosine transform differently, by one.
    assert np.abs(result - np.asarray(Image.open(buffer)).astype(int)).max() <= 1


def test_lossy_jpeg2000() -> None:
    row, column = np.mgrid[:64, :64]
    pixels = (row * 32 + column * 32).astype(np.uint16)
    frame = jpeg2000(pixels, 12, compression_ratios=[4])
    case = all_values(pixels, 12, syntax=JPEG2000_LOSSY, frame=frame)
    error = np.abs(grey_of_dicom(case["data"]).astype(int) - case["expected"])
    assert len(frame) < pixels.nbytes / 4 and error.max() <= 2


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
    ],
)
def test_files_of_other_writers(compressed: str, plain: str) -> None:
    one, other = (
        grey_of_dicom(Path(str(get_testdata_file(name, download=False))).read_bytes())
        for name in (compressed, plain)
    )
    assert one.shape == (64, 64) and np.unique(one).size > 50
    assert np.array_equal(one, other)


def test_extended_jpeg_of_12_bits() -> None:
    result = grey_of_dicom(Path(str(get_testdata_file("JPGExtended.dcm", download=False))).read_bytes())
    # 1024 x 256 of a nuclear whole body scan, most of it dark.
    assert result.shape == (1024, 256)
    assert (result.min(), result.max()) == (0, 255) and np.median(result) < 64


FRAMES = {
    RLE: lambda: rle(noise("u2", 12)),
    JPEG2000: lambda: jpeg2000(noise("u2", 12), 12),
    SV1: lambda: jpeg_lossless(noise("u2", 12), 12),
}


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED, RLE, JPEG2000, SV1])
def test_a_truncated_file_is_refused_wherever_it_ends(syntax: str) -> None:
    frame = FRAMES[syntax]() if syntax in FRAMES else None
    data = all_values(noise("u2", 12), 12, syntax=syntax, frame=frame)["data"]
    # The last 8 bytes of encapsulated pixels only say that they end.
    for cut in (9, 40, 300, len(data) // 2, len(data) - 140):
        with pytest.raises(UndecodableImage):
            grey_of_dicom(data[:-cut])


@pytest.mark.parametrize("syntax", [RLE, JPEG2000, SV1])
@pytest.mark.parametrize("cut", [3, 40, 600])
def test_a_truncated_frame_in_a_whole_file_is_refused(syntax: str, cut: int) -> None:
    frame = FRAMES[syntax]()[:-cut]
    data = all_values(noise("u2", 12), 12, syntax=syntax, frame=frame)["data"]
    with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
        grey_of_dicom(data)


@pytest.mark.parametrize("syntax", [JPEG2000, SV1])
def test_a_codestream_larger_than_its_header_is_not_decoded(syntax: str) -> None:
    at = {JPEG2000: 8, SV1: 7}[syntax]
    frame = bytearray(FRAMES[syntax]())
    frame[at : at + 2] = b"\x4e\x20"  # width in JPEG 2000, height in JPEG: a few gigabytes of zeros
    data = all_values(noise("u2", 12), 12, syntax=syntax, frame=bytes(frame))["data"]
    with pytest.raises(UndecodableImage, match=r"^compressed pixels of [0-9]+x[0-9]+ but a header of 33x35$"):
        grey_of_dicom(data)


def test_a_hierarchical_jpeg_is_refused_before_its_size_is_believed() -> None:
    frame = FRAMES[SV1]()
    larger = b"\xff\xde\0\x0b\x0c\x4e\x20\x4e\x20\x01\x01\x11\0"  # 20000 x 20000
    with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
        jpeg_frame(frame[:2] + larger + frame[2:])
    assert jpeg_frame(frame).rows == 33


def test_run_lengths_that_overrun_are_refused() -> None:
    # Two planes of 4x4, each one run: of 17 pixels, on which the decoder panics, and of 16.
    header = np.array([2, 64, 66, *[0] * 13], dtype="<u4").tobytes()
    data = {
        length: dicom_file(
            np.zeros((4, 4), np.uint16), RLE, frame=header + bytes([257 - length, 1]) * 2, bits_stored=12
        )
        for length in (16, 17)
    }
    assert grey_of_dicom(data[16]).tolist() == [[0] * 4] * 4
    with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
        grey_of_dicom(data[17])


def test_a_codestream_in_colour_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "JPEG")
    data = dicom_file(np.zeros((16, 16), np.uint8), BASELINE, frame=buffer.getvalue())
    with pytest.raises(UndecodableImage, match=r"^colour, not grey$"):
        grey_of_dicom(data)


def test_a_deflated_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_INFLATED_BYTES", 2**20)
    data = dicom_file(noise("u2", 12), DEFLATED)
    grey_of_dicom(data)
    bomb = zlib.compressobj(wbits=-15)
    end = data.index(DEFLATED.encode()) + 22
    with pytest.raises(UndecodableImage, match=r"^inflates to more than 1 MiB$"):
        grey_of_dicom(data[:end] + bomb.compress(bytes(2**22)) + bomb.flush())


def test_other_transfer_syntaxes_are_refused() -> None:
    data = dicom_file(noise("u1", 8), EXPLICIT).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    with pytest.raises(UndecodableImage, match=r"^unsupported transfer syntax$"):
        grey_of_dicom(data)


def test_without_a_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = all_values(noise("u2", 12), 12, syntax=RLE, frame=FRAMES[RLE]())["data"]
    monkeypatch.setattr("pylibjpeg.utils.get_pixel_data_decoders", lambda version: {})
    with pytest.raises(UserError, match=r"pip install 'cxrdist\[dicom\]'$"):
        grey_of_dicom(data)
