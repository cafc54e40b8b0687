"""DICOM files as old archives and careless software leave them: what the pixels are outweighs the header."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("pydicom")
pytest.importorskip("pylibjpeg")

from openjpeg.utils import encode_array
from pydicom import dcmread, dcmwrite

from cxrdist.data.imaging.dicom import (
    codestream,
    colour,
    grey,
    grey_of_dicom,
    is_dicom,
    pixels,
    read_header,
    reading,
)
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import grey_of
from cxrdist.data.imaging.repairs import noting
from tests.helpers.dicom_files import dicom_file, jpeg_lossless

IMPLICIT, EXPLICIT, JPEG, JPEG_LOSSLESS, JPEG_2000 = (
    f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".4.50", ".4.70", ".4.90")
)
GREY = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
TWELVE, SIXTEEN = GREY.astype(np.uint16) * 16, GREY.astype(np.uint16) * 257
WINDOW: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}


def read(data: bytes) -> tuple[np.ndarray, list[str]]:
    with noting() as noted:
        found = grey_of_dicom(data)
    return found, noted


def jpeg(image: np.ndarray, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=100, **how)
    return buffer.getvalue()


def decoded(code: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(code)).convert("L"))


def under(syntax: str, data: bytes) -> bytes:
    """The same data set, with another transfer syntax in the meta information."""
    dataset, buffer = dcmread(io.BytesIO(data)), io.BytesIO()
    old = str(dataset.file_meta.TransferSyntaxUID).encode()
    old += b"\0" * (len(old) % 2)
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = data.index(b"UI" + len(old).to_bytes(2, "little") + old)
    buffer.write(data[:at] + b"UI" + len(new).to_bytes(2, "little") + new + data[at + 4 + len(old) :])
    return buffer.getvalue()


# The beginning of a file.


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("begin", ["data set", "prefix", "meta information", "preamble"])
def test_a_file_without_its_preamble_is_read(syntax: str, begin: str) -> None:
    whole = dicom_file(GREY, syntax, **WINDOW, PatientAge="058Y")
    data = {
        "data set": whole[whole.index(b"\x08\0\x16\0") :],
        "prefix": whole[128:],
        "meta information": whole[132:],
        "preamble": whole[:128] + whole[132:],
    }[begin]
    assert is_dicom(data[: reading.HEAD_BYTES]) and read_header(io.BytesIO(data)).age == 58
    found, noted = read(data)
    assert np.array_equal(found, GREY)
    assert noted == [reading.NO_PREAMBLE, *([reading.NO_SYNTAX] if begin == "data set" else [])]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_missing_transfer_syntax_is_inferred(syntax: str) -> None:
    whole = dicom_file(GREY, syntax, **WINDOW)
    at = whole.index(b"\x02\0\x10\0UI")
    length = int.from_bytes(whole[at + 6 : at + 8], "little")
    found, noted = read(whole[:at] + whole[at + 8 + length :])
    assert np.array_equal(found, GREY) and noted == [reading.NO_SYNTAX]


@pytest.mark.parametrize(
    "data", [b"", b"\x08\0\x16", bytes(200), b"\x08\0\x16\0" + b"\xff" * 200, b"\x08\0\xff\0UI\2\0" * 30]
)
def test_what_only_looks_like_a_data_set_is_none(data: bytes) -> None:
    assert not is_dicom(data)


ELEMENTS = b"\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x08\0CS\x02\0A "
"""Of a data set."""


@pytest.mark.parametrize("prefix", [b"", b"DICM", b"DICM" + ELEMENTS[:8]])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "npy"])
def test_other_pictures_are_none_whatever_they_hold(form: str, prefix: bytes) -> None:
    text, buffer = prefix + (b"" if prefix else ELEMENTS), io.BytesIO()
    if form == "npy":
        pixels_with_it = np.zeros((64, 64), np.uint8)
        pixels_with_it.ravel()[: len(text)] = np.frombuffer(text, np.uint8)
        np.save(buffer, pixels_with_it)
        data = buffer.getvalue()
    else:
        Image.fromarray(GREY).save(buffer, form)
        data = buffer.getvalue()
        if form == "JPEG":
            data = (
                data[:2] + b"\xff\xfe" + (402).to_bytes(2, "big") + (b" " * 122 + text).ljust(400) + data[2:]
            )
        elif form == "PNG":
            chunk = b"abCd" + (b" " * (128 - 41) + text).ljust(400)
            data = (
                data[:33]
                + (400).to_bytes(4, "big")
                + chunk
                + zlib.crc32(chunk).to_bytes(4, "big")
                + data[33:]
            )
        else:
            data = data[:128] + text + data[128 + len(text) :]
    assert data[128 : 128 + len(text)] == text and not is_dicom(data)
    if form != "TIFF":
        assert grey_of(data, 64).shape == (64, 64)


def test_a_preamble_may_begin_as_a_tiff() -> None:
    whole = dicom_file(GREY, EXPLICIT, **WINDOW)
    assert np.array_equal(read(b"II*\0" + whole[4:])[0], GREY)


def test_one_element_alone_begins_no_data_set() -> None:
    assert is_dicom(ELEMENTS) and is_dicom(bytes(128) + ELEMENTS)
    for second in (b"\x08\0\x04\0CS\2\0", b"\x30\0\x04\0CS\2\0", b"\x08\0\x08\0\3\0\0\0", b"some text"):
        assert not is_dicom(ELEMENTS[:18] + second) and not is_dicom(bytes(128) + ELEMENTS[:18] + second)


# Pixels of another kind than the transfer syntax says.


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS, JPEG_2000, "1.2.840.10008.1.2.5"])
def test_native_pixels_under_a_compressed_syntax(syntax: str) -> None:
    found, noted = read(under(syntax, dicom_file(GREY, **WINDOW)))
    assert np.array_equal(found, GREY) and noted == [pixels.OTHER_SYNTAX]


@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_2000, "1.2.840.10008.1.2.4.103"])
def test_jpeg_under_another_syntax(syntax: str) -> None:
    code = jpeg(GREY)
    found, noted = read(under(syntax, dicom_file(GREY, JPEG, code, **WINDOW)))
    assert np.array_equal(found, decoded(code)) and noted == [pixels.OTHER_SYNTAX]


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS, EXPLICIT])
def test_jpeg_2000_under_another_syntax(syntax: str) -> None:
    found, noted = read(under(syntax, dicom_file(GREY, JPEG_2000, bytes(encode_array(GREY)), **WINDOW)))
    assert np.array_equal(found, GREY) and noted == [pixels.OTHER_SYNTAX]


@pytest.mark.parametrize("process", [52, 53, 55])
def test_retired_processes_of_jpeg(process: int) -> None:
    code = jpeg(GREY, progressive=process > 53)
    found, noted = read(dicom_file(GREY, f"1.2.840.10008.1.2.4.{process}", code, **WINDOW))
    assert np.array_equal(found, decoded(code)) and noted == []


def test_a_syntax_that_is_not_read_is_named() -> None:
    data = under("1.2.840.10008.1.2.4.100", dicom_file(GREY, JPEG, b"\0\0\1\xb3" * 9))
    with pytest.raises(
        UndecodableImage, match=r"^unsupported transfer syntax \(MPEG2 Main Profile / Main Level\)$"
    ):
        grey_of_dicom(data)


# Frames.


def encapsulated(offsets: list[int], *fragments: bytes) -> bytes:
    table = np.array(offsets, "<u4").tobytes()
    items = [f + b"\0" * (len(f) % 2) for f in (table, *fragments)]
    return b"".join(b"\xfe\xff\0\xe0" + len(f).to_bytes(4, "little") + f for f in items)


def with_pixels(value: bytes) -> bytes:
    dataset = dcmread(io.BytesIO(dicom_file(GREY, JPEG, jpeg(GREY), **WINDOW)))
    dataset.PixelData = value + b"\xfe\xff\xdd\xe0\0\0\0\0"
    dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("offsets", "noted"),
    [([], []), ([0], []), ([8], []), ([0, 99], [pixels.OFFSETS]), ([0, 508], [pixels.OFFSETS])],
)
def test_fragments_with_any_offsets(offsets: list[int], noted: list[str]) -> None:
    code = jpeg(GREY)
    fragments = [code[i : i + 500] for i in range(0, len(code), 500)]
    found, of_file = read(with_pixels(encapsulated(offsets, *fragments)))
    assert np.array_equal(found, decoded(code)) and of_file == noted


def test_of_several_frames_that_no_header_counts_the_first_is_read() -> None:
    code = jpeg(GREY)
    first = 8 + len(code) + len(code) % 2
    found, noted = read(with_pixels(encapsulated([0, first], code, jpeg(255 - GREY))))
    assert np.array_equal(found, decoded(code)) and noted == []


def test_bytes_after_the_end_of_a_codestream() -> None:
    code = jpeg(GREY)
    found, noted = read(dicom_file(GREY, JPEG, code + b"\1\2\3\4", **WINDOW))
    assert np.array_equal(found, decoded(code)) and noted == [codestream.AFTER_END]


def test_the_end_of_a_thumbnail_is_not_the_end() -> None:
    thumbnail = jpeg(GREY[:8, :8])
    code = jpeg(GREY)
    with_one = code[:2] + b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + code[2:]
    assert np.array_equal(read(dicom_file(GREY, JPEG, with_one, **WINDOW))[0], decoded(code))
    with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
        grey_of_dicom(dicom_file(GREY, JPEG, with_one[:-40], **WINDOW))


@pytest.mark.parametrize("how", [{}, {"progressive": True}])
@pytest.mark.parametrize("is_colour", [False, True])
def test_a_jpeg_that_ends_early_is_left_out(is_colour: bool, how: dict[str, Any]) -> None:
    noisy = GREY ^ np.random.default_rng(1).integers(0, 64, GREY.shape, dtype=np.uint8)
    code = jpeg(np.dstack([noisy] * 3) if is_colour else noisy, **how)
    for at in (len(code) // 2, len(code) * 3 // 4):
        cut = code[:at].rstrip(b"\xff") + codestream.END
        data = in_colour("RGB", RGB, code=cut) if is_colour else dicom_file(GREY, JPEG, cut, **WINDOW)
        with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
            grey_of_dicom(data)


# Bits and signs.


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_pixels_of_more_bits_than_are_stored(dtype: type) -> None:
    values = SIXTEEN.astype(np.int32) - (32768 if dtype is np.int16 else 0)
    window: dict[str, Any] = {"WindowCenter": 0 if dtype is np.int16 else 32768, "WindowWidth": 65536}
    found, noted = read(dicom_file(values.astype(dtype), bits_stored=12, **window))
    assert np.array_equal(found, GREY) and noted == [pixels.MORE_BITS]


def test_an_overlay_above_the_pixels_stays_outside() -> None:
    with_overlay = TWELVE.copy()
    with_overlay[20:40, 10:50] |= 0x1000
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    found, noted = read(dicom_file(with_overlay, bits_stored=12, **window))
    assert np.array_equal(found, grey_of_dicom(dicom_file(TWELVE, bits_stored=12, **window)))
    assert noted == [pixels.BITS_ABOVE]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("group", [0x6000, 0x601E])
def test_bits_that_an_overlay_names_are_its_own(syntax: str, group: int) -> None:
    # A wedge on which the overlay continues what 12 bits cut off: its bit makes the picture smoother.
    wrapped = (SIXTEEN >> 3) & 0x0FFF
    dataset = dcmread(io.BytesIO(dicom_file(SIXTEEN >> 3, syntax, bits_stored=12)))
    buffers = [io.BytesIO(), io.BytesIO()]
    dcmwrite(buffers[0], dataset)
    dataset.add_new((group, 0x0102), "US", 12)
    dcmwrite(buffers[1], dataset)
    plain = grey_of_dicom(dicom_file(wrapped, syntax, bits_stored=12))
    assert read(buffers[0].getvalue())[1] == [pixels.MORE_BITS]
    found, noted = read(buffers[1].getvalue())
    assert np.array_equal(found, plain) and noted == []


def test_dark_letters_with_a_bit_above_are_no_further_bits() -> None:
    bright = 3500 + TWELVE // 16
    bright[10:30:2, 10:50:3] = 0x1000
    found, noted = read(dicom_file(bright, bits_stored=12))
    assert np.array_equal(found, grey_of_dicom(dicom_file(bright & 0x0FFF, bits_stored=12)))
    assert noted == [pixels.BITS_ABOVE]


def test_a_picture_that_is_hardly_smoother_has_no_further_bits() -> None:
    noise = np.random.default_rng(3).integers(0, 2**12, (64, 64), dtype=np.uint16)
    for rows, noted in ((2, pixels.MORE_BITS), (32, pixels.BITS_ABOVE)):
        mixed = SIXTEEN >> 3
        mixed[:rows] = noise[:rows]
        assert (mixed > 0x0FFF).any() and read(dicom_file(mixed, bits_stored=12))[1] == [noted]


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_2000])
def test_compressed_pixels_of_more_bits_than_are_stored(syntax: str) -> None:
    code = jpeg_lossless(SIXTEEN, 16) if syntax == JPEG_LOSSLESS else bytes(encode_array(SIXTEEN))
    window: dict[str, Any] = {"WindowCenter": 32768, "WindowWidth": 65536}
    found, noted = read(dicom_file(SIXTEEN, syntax, code, bits_stored=12, **window))
    assert np.array_equal(found, GREY) and noted == [pixels.MORE_BITS]


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_2000])
def test_few_or_slight_overshoots_are_no_further_bits(syntax: str) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    share = int(pixels.MORE_BITS_SHARE * TWELVE.size)
    for count, value, noted in [
        (share, 60_000, []),
        (share + 1, 60_000, [pixels.MORE_BITS]),
        (TWELVE.size // 2, 4095 + 511, []),
        (TWELVE.size // 2, 4095 + 512, [pixels.MORE_BITS]),
    ]:
        values = TWELVE.copy()
        values.ravel()[:count] = value
        code = jpeg_lossless(values, 16) if syntax == JPEG_LOSSLESS else bytes(encode_array(values))
        found, of_file = read(dicom_file(values, syntax, code, bits_stored=12, **window))
        assert of_file == noted
        if not noted:
            clipped = dicom_file(np.minimum(values, 4095), bits_stored=12, **window)
            assert np.array_equal(found, grey_of_dicom(clipped))


def test_the_sign_of_a_jpeg_2000_codestream_outweighs_the_header() -> None:
    values = TWELVE.astype(np.int16) - 2048
    code = bytes(encode_array(values, bits_stored=12))
    window: dict[str, Any] = {"WindowCenter": 0, "WindowWidth": 4096}
    found, noted = read(dicom_file(TWELVE, JPEG_2000, code, bits_stored=12, **window))
    assert np.array_equal(found, grey_of_dicom(dicom_file(values, bits_stored=12, **window)))
    assert noted == [pixels.OTHER_SIGN]


def test_padding_that_covers_nearly_all_pixels_is_none() -> None:
    found, noted = read(dicom_file(TWELVE, bits_stored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=4095))
    assert np.array_equal(found, grey_of_dicom(dicom_file(TWELVE, bits_stored=12)))
    assert noted == [grey.ALL_PADDING]
    black = np.zeros((20, 20), np.uint16)
    assert read(dicom_file(black, bits_stored=12, PixelPaddingValue=0))[1] == []


# Grey in colour.


def in_colour(
    interpretation: str, channels: np.ndarray, planar: int = 0, code: bytes = b"", **values: Any
) -> bytes:
    syntax = JPEG if code else EXPLICIT
    whole = dicom_file(channels[:, :, 0].copy(), syntax, code or None, **WINDOW, **values)
    dataset = dcmread(io.BytesIO(whole))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, interpretation
    dataset.PlanarConfiguration = planar
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1  # left over from a grey image
    if not code:
        dataset.PixelData = (np.moveaxis(channels, -1, 0) if planar else channels).tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


RGB = np.dstack([GREY] * 3)
YBR = np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)])


@pytest.mark.parametrize(
    ("interpretation", "channels", "planar"),
    [("RGB", RGB, 0), ("RGB", RGB, 1), ("YBR_FULL", YBR, 0), ("YBR_FULL", YBR, 1)],
)
def test_grey_in_colour_is_read(interpretation: str, channels: np.ndarray, planar: int) -> None:
    found, noted = read(in_colour(interpretation, channels, planar))
    assert np.array_equal(found, GREY) and noted == [colour.GREY_IN_COLOUR]


def test_grey_in_compressed_colour_is_read() -> None:
    code = jpeg(RGB)
    for data in (in_colour("YBR_FULL_422", RGB, code=code), dicom_file(GREY, JPEG, code, **WINDOW)):
        found, noted = read(data)
        assert np.abs(found.astype(int) - GREY).max() <= 2 and noted == [colour.GREY_IN_COLOUR]


def test_colour_is_refused() -> None:
    red = RGB.copy()
    red[:3, :3] = (250, 0, 0)
    for data in (in_colour("RGB", red), in_colour("RGB", red, code=jpeg(red))):
        with pytest.raises(UndecodableImage, match=r"^colour, not grey$"):
            grey_of_dicom(data)


def test_chroma_of_nothing_is_that_of_ybr_alone() -> None:
    code = bytes(encode_array(YBR, photometric_interpretation=1, use_mct=False))
    for data in (in_colour("RGB", YBR), dicom_file(GREY, JPEG_2000, code, **WINDOW)):
        with pytest.raises(UndecodableImage, match=r"^colour, not grey$"):
            grey_of_dicom(data)


def report(letters: int, ground: int) -> np.ndarray:
    """A page of text, whose letters are smooth."""
    page = Image.new("L", (400, 300), ground)
    ImageDraw.Draw(page).text((20, 20), "DOSE REPORT  DOE JANE 1958-11-03\nDLP 12", letters, font_size=20)
    return np.asarray(page)


@pytest.mark.parametrize("how", ["native", "jpeg", "grey header"])
@pytest.mark.parametrize(("letters", "ground"), [(0, 255), (255, 0), (0, 200)])
def test_a_report_in_black_and_white_is_left_out(how: str, letters: int, ground: int) -> None:
    page = np.dstack([report(letters, ground)] * 3)
    code = b"" if how == "native" else jpeg(page)
    data = in_colour("RGB", page, code=code)
    if how == "grey header":
        data = dicom_file(page[:, :, 0], JPEG, code)
    with pytest.raises(UndecodableImage, match=f"^{colour.REPORT}$"):
        grey_of_dicom(data)


def test_few_grey_values_and_burned_in_text_are_no_film() -> None:
    few = np.dstack([GREY // 5 * 5] * 3)
    with pytest.raises(UndecodableImage, match=f"^{colour.REPORT}$"):
        grey_of_dicom(in_colour("RGB", few))
    for said in ("YES", "NO"):
        data = in_colour("RGB", RGB, BurnedInAnnotation=said)
        if said == "YES":
            with pytest.raises(UndecodableImage, match=f"^{colour.BURNED_IN}$"):
                grey_of_dicom(data)
        else:
            assert read(data)[1] == [colour.GREY_IN_COLOUR]
