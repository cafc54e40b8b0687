"""Grey of DICOM pixels: every expected value is worked out by hand from PS3.3, in the comment beside it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom")

from cxrdist.data.imaging.dicom import grey_of_dicom, is_dicom
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import load_grey
from cxrdist.errors import UserError
from tests.helpers.dicom_files import SECRETS, dicom_file, item, lut

# LINEAR: (x - 127.5) / 255 + 0.5 of 255 is x itself.
AS_IT_IS: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def grey(values: list[int], dtype: type = np.uint16, **elements: Any) -> list[int]:
    """The grey of one row of stored values."""
    return grey_of_dicom(dicom_file(np.array([values], dtype=dtype), **elements))[0].tolist()


def reason(data: bytes) -> str:
    with pytest.raises(UndecodableImage) as caught:
        grey_of_dicom(data)
    assert caught.value.file == ""
    return caught.value.reason


def test_is_dicom_looks_at_the_magic_after_the_preamble() -> None:
    data = dicom_file(RAMP)
    assert is_dicom(data) and is_dicom(data[:132])
    assert not is_dicom(data[:131])
    assert not is_dicom(b"DICM" + bytes(200))


def test_linear_window() -> None:
    # center 5, width 11: (x - 4.5) / 10 + 0.5 of 255, so 25.5 x + 12.75.
    window: dict[str, Any] = {"WindowCenter": 5, "WindowWidth": 11}
    assert grey([0, 1, 4, 9, 10, 4000], **window) == [13, 38, 115, 242, 255, 255]
    # width 1 is a threshold at center - 0.5.
    assert grey([4, 5], WindowCenter=5, WindowWidth=1) == [0, 255]


def test_linear_exact_window() -> None:
    # (x - 5) / 10 + 0.5 of 255, so 25.5 x; 127.5 rounds to 128.
    window: dict[str, Any] = {"WindowCenter": 5, "WindowWidth": 10, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey([0, 2, 4, 5, 10, 11], **window) == [0, 51, 102, 128, 255, 255]
    assert grey([0, 1], WindowCenter=0.5, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT") == [0, 255]


def test_sigmoid_window() -> None:
    # 255 / (1 + exp(-(x - 4) / 2)): exp(2) = 7.389, so 30.40 at 0, 127.5 at 4, 224.60 at 8.
    window: dict[str, Any] = {"WindowCenter": 4, "WindowWidth": 8, "VOILUTFunction": "SIGMOID"}
    assert grey([0, 4, 8, 60000], **window) == [30, 128, 225, 255]


def test_first_of_several_windows() -> None:
    assert grey([7, 250], WindowCenter=[128, 40], WindowWidth=[256, 1]) == [7, 250]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [0, -200])
def test_a_window_that_the_standard_forbids_counts_as_none(function: str, width: int) -> None:
    # Percentiles of three pixels: ranks 1 and 3, so 100 to 300.
    elements: dict[str, Any] = {"WindowCenter": 100, "WindowWidth": width, "VOILUTFunction": function}
    assert grey([100, 150, 300], **elements) == [0, 64, 255]


def test_rescale_also_with_a_negative_slope() -> None:
    # 100 - 2 x is 100, 80, 0; LINEAR_EXACT 50 / 100 is 2.55 of each.
    window: dict[str, Any] = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey([0, 10, 50], RescaleSlope=-2, RescaleIntercept=100, **window) == [255, 204, 0]
    # Without a window too, more in the file is less in the image.
    assert grey([10, 20, 30], RescaleSlope=-1, RescaleIntercept=4095) == [255, 128, 0]


def test_modality_lut_comes_before_the_window_and_beats_rescale() -> None:
    # First value mapped 10: 9 and 10 give entry 0, 12 and all above the last.
    table = lut([3, 10, 12], [200, 100, 0])
    elements = {"ModalityLUTSequence": [table], "RescaleSlope": 9, "RescaleIntercept": 9, **AS_IT_IS}
    assert grey([9, 10, 11, 12, 4095], **elements) == [200, 200, 100, 0, 0]


def test_modality_lut_of_signed_values() -> None:
    table = lut([3, -1, 8], [10, 20, 30])
    assert grey([-5, -1, 0, 1, 5], np.int16, ModalityLUTSequence=[table], **AS_IT_IS) == [10, 10, 20, 30, 30]


@pytest.mark.parametrize(
    ("descriptor", "entries"),
    [
        ([4, 0, 8], bytes([9, 0, 8, 0, 7, 0, 6, 0])),  # 8-bit entries in 16-bit words
        ([4, 0, 8], bytes([9, 8, 7, 6])),  # packed
        ([4, 0, 16], bytes([9, 0, 8, 0, 7, 0, 6, 0])),
    ],
)
def test_lut_data_as_other_words(descriptor: list[int], entries: bytes) -> None:
    assert grey([0, 1, 2, 3], ModalityLUTSequence=[lut(descriptor, entries)], **AS_IT_IS) == [9, 8, 7, 6]


def test_lut_of_65536_entries_says_0() -> None:
    entries = (np.arange(65536) // 257).astype("<u2").tobytes()
    assert grey([0, 257, 65535], ModalityLUTSequence=[lut([0, 0, 16], entries)], **AS_IT_IS) == [0, 1, 255]


def test_voi_lut_beats_the_window() -> None:
    # 12 bits: 255 / 4095 of each entry; 2048 gives 127.53.
    table = lut([3, 100, 12], [0, 2048, 4095])
    assert grey([0, 100, 101, 102, 999], VOILUTSequence=[table], **AS_IT_IS) == [0, 0, 128, 255, 255]
    # 8 bits: the entries themselves.
    assert grey([0, 1, 2], VOILUTSequence=[lut([3, 0, 8], [0, 254, 255])]) == [0, 254, 255]


def test_voi_lut_maps_rescaled_values() -> None:
    # x - 1000 from -2 up; 7.4 bits off a whole value are rounded.
    table = lut([3, -2, 8], [50, 60, 70])
    elements: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1000.4, "VOILUTSequence": [table]}
    assert grey([900, 998, 999, 1000, 1001], **elements) == [50, 50, 60, 70, 70]
    # 2 x is 70,000 and 131,070: beyond the table's end, also if the excess is a multiple of 65,536.
    elements = {"RescaleSlope": 2, "RescaleIntercept": 0, "VOILUTSequence": [lut([3, 0, 8], [50, 60, 70])]}
    assert grey([0, 35000, 32768, 65535], **elements) == [50, 70, 70, 70]


def test_percentiles_where_no_window_is_given() -> None:
    # 1,000 pixels 0 .. 999: 0.5 % is the 5th, 4, and 99.5 % the 995th, 994; (499 - 4) / 990 of 255 is 127.5.
    values = list(range(1000))
    result = grey(values)
    assert [result[i] for i in (0, 4, 5, 499, 994, 999)] == [0, 0, 0, 128, 255, 255]
    # A thousand more that are padding change nothing, and are black themselves.
    padded = grey(values + [65535] * 1000, PixelPaddingValue=65535)
    assert padded == result + [0] * 1000
    ranged = grey(values + [60000, 60010] * 500, PixelPaddingValue=60010, PixelPaddingRangeLimit=60000)
    assert ranged == result + [0] * 1000


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_signed_padding(syntax: str) -> None:
    values = [-2000, -100, 0, 100]
    assert grey(values, np.int16, syntax=syntax, PixelPaddingValue=-2000) == [0, 0, 128, 255]


@pytest.mark.parametrize(("dtype", "padding", "right", "wrong"), [(np.int16, -2000, b"SS", b"US"),
                                                                  (np.uint16, 63536, b"US", b"SS")])  # fmt: skip
def test_padding_under_the_wrong_vr(dtype: type, padding: int, right: bytes, wrong: bytes) -> None:
    data = dicom_file(np.array([[padding, 100, 200, 300]], dtype=dtype), PixelPaddingValue=padding)
    tag = b"\x28\x00\x20\x01"
    assert tag + right in data
    assert grey_of_dicom(data.replace(tag + right, tag + wrong))[0].tolist() == [0, 0, 128, 255]


def test_monochrome1_is_inverted_last_and_once() -> None:
    # 100, 150, 300 between the percentiles is 0, 63.75, 255: inverted after rounding, 255 - 64.
    assert grey([100, 150, 300], PhotometricInterpretation="MONOCHROME1") == [255, 191, 0]
    assert grey([100, 150, 300], PresentationLUTShape="INVERSE") == [255, 191, 0]
    both: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert grey([100, 150, 300], **both) == [255, 191, 0]
    assert grey([100, 150, 300], PresentationLUTShape="IDENTITY") == [0, 64, 255]
    # The window applies to values as they are: inverted before it, 10 of 0 .. 65535 would be white.
    assert grey([10, 60000], PhotometricInterpretation="MONOCHROME1", **AS_IT_IS) == [245, 0]
    # Padding is black either way.
    padded: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    assert grey([0, 100, 300], **padded) == [0, 255, 0]


@pytest.mark.parametrize(
    ("dtype", "stored", "high_bit", "words", "values"),
    [
        (np.uint8, 8, 7, [0, 255], [0, 255]),
        (np.uint8, 6, 5, [0b11_000001, 63], [1, 63]),
        (np.uint16, 10, 9, [0b111111_0000000001, 1023], [1, 1023]),
        (np.uint16, 12, 11, [0xF001, 0x0FFF], [1, 4095]),
        (np.uint16, 12, 15, [0x001F, 0xFFFF], [1, 4095]),
        (np.uint16, 16, 15, [1, 65535], [1, 65535]),
        (np.int16, 12, 11, [0x0FFF, 0x0800, 0x17FF - 0x1000], [-1, -2048, 2047]),
        (np.int16, 16, 15, [-1, -32768, 32767], [-1, -32768, 32767]),
        (np.int8, 8, 7, [-1, -128, 127], [-1, -128, 127]),
    ],
)
def test_stored_bits(dtype: type, stored: int, high_bit: int, words: list[int], values: list[int]) -> None:
    # A window one value wide shows whether exactly this value, and not one less, is above it.
    for word, value in zip(words, values, strict=True):
        for center, expected in ((value, 255), (value + 1, 0)):
            pixels: np.ndarray = np.array([[word]]).astype(dtype)
            data = dicom_file(
                pixels, bits_stored=stored, HighBit=high_bit, WindowCenter=center, WindowWidth=1
            )
            assert grey_of_dicom(data).tolist() == [[expected]]


@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize(
    "elements", [{}, {"PixelPaddingValue": 7}, {"RescaleSlope": -1, "RescaleIntercept": 0}]
)
def test_a_constant_image_is_constant(value: int, elements: dict[str, Any]) -> None:
    assert grey([value] * 6, **elements) == [0] * 6


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"NumberOfFrames": 2}, "several frames, not one"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour, not grey"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour, not grey"),
        ({"PhotometricInterpretation": ""}, "no PhotometricInterpretation"),
        ({"BitsAllocated": 32}, "32 bits allocated per pixel, not 8 or 16"),
        ({"Rows": None}, "no Rows"),
        ({"Columns": 0}, "Columns is 0, not 1 to 65535"),
        ({"PixelData": None}, "no pixel data"),
        ({"Rows": 17}, "truncated or damaged"),
        ({"Rows": 10001, "Columns": 10000}, "more than 100 megapixels"),
    ],
)
def test_refused_with_a_reason(elements: dict[str, Any], expected: str) -> None:
    assert reason(dicom_file(RAMP, **elements)) == expected


def test_damaged_files_are_undecodable_whatever_is_damaged() -> None:
    data = dicom_file(
        RAMP.astype(np.uint16),
        ModalityLUTSequence=[lut([2, 0, 16], [1, 2])],
        ViewCodeSequence=[item(CodeValue="x")],
    )
    rng = np.random.default_rng(3)
    reasons = set()
    for at in rng.integers(132, len(data), 400):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
            try:
                assert grey_of_dicom(damaged).dtype == np.uint8
            except UndecodableImage as error:
                reasons.add(error.reason)
    assert {"truncated or damaged", "no pixel data"} <= reasons
    assert not any(secret in text for secret in SECRETS for text in reasons)


def test_load_grey_takes_dicom_by_its_bytes_not_its_name(tmp_path: Any) -> None:
    file = tmp_path / "radiograph.png"
    wide = np.zeros((8, 16), dtype=np.uint8)
    wide[:, 8:] = 200
    file.write_bytes(dicom_file(wide, **AS_IT_IS))
    expected = np.zeros((16, 16), dtype=np.uint8)
    expected[4:12, 8:] = 200
    assert np.array_equal(load_grey(file, 16), expected)
    Image.fromarray(wide).save(tmp_path / "same.png")
    assert np.array_equal(load_grey(tmp_path / "same.png", 16), expected)
    file.write_bytes(dicom_file(wide, NumberOfFrames=2))
    with pytest.raises(UndecodableImage) as caught:
        load_grey(file, 16)
    assert str(caught.value) == f"{file}: several frames, not one"


def test_without_pydicom_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom_file(RAMP)
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"pip install 'cxrdist\[dicom\]'$"):
        grey_of_dicom(data)


def test_nothing_imports_pydicom_before_a_dicom_file_is_read() -> None:
    modules = "from cxrdist.data.imaging import dicom, radiograph"
    code = f"import sys; {modules}; print({{'pydicom', 'pylibjpeg'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
