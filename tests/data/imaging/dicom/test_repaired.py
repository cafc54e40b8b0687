"""DICOM headers that contradict the pixels, or the standard: the film is read, and what was repaired is noted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.pixels import apply_windowing

from cxrdist.data.imaging.dicom import grey, grey_of_dicom, layout, numbers, pixels
from cxrdist.data.imaging.repairs import noting
from tests.helpers.dicom_files import dicom_file, lut

RAMP_12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)
WINDOW: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
RAMP_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read(data: bytes) -> tuple[np.ndarray, list[str]]:
    with noting() as noted:
        found = grey_of_dicom(data)
    return found, noted


def rounded(values: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


SIGMOID = np.rint(4095 / (1 + np.exp(-(np.arange(4096) - 2048) / 400))).astype(np.uint16)


@pytest.mark.parametrize(
    ("bits", "entries", "found_bits"),
    [
        (16, SIGMOID, 12),  # OpenI: 16 bits declared beside 12 that are used
        (12, np.arange(4096) * 16, 16),
        (8, np.arange(4096), 12),
        (12, np.arange(4096) // 4, 10),
    ],
)
def test_a_voi_lut_is_scaled_by_the_bits_that_its_entries_have(
    bits: int, entries: np.ndarray, found_bits: int
) -> None:
    words = entries.astype("<u2")
    table = lut([4096, 0, bits], words.tobytes())
    found, noted = read(dicom_file(RAMP_12, bits_stored=12, VOILUTSequence=[table]))
    expected = rounded(words.astype(float) * 255 / (2**found_bits - 1)).reshape(64, 64)
    assert np.array_equal(found, expected)
    assert found.min() <= 2 and found.max() >= 254
    assert noted == [grey.OTHER_BITS]


def test_the_sigmoid_of_12_bits_declared_as_16_has_a_mean_of_half() -> None:
    table = lut([4096, 0, 16], SIGMOID.astype("<u2").tobytes())
    found, _ = read(dicom_file(RAMP_12, bits_stored=12, VOILUTSequence=[table]))
    assert (found.min(), found.max()) == (1, 254) and 127 <= found.mean() <= 128


@pytest.mark.parametrize("most", [32768, 65535])
def test_a_voi_lut_that_uses_half_of_its_bits_keeps_its_scale(most: int) -> None:
    words = np.linspace(0, most, 4096).astype("<u2")
    table = lut([4096, 0, 16], words.tobytes())
    found, noted = read(dicom_file(RAMP_12, bits_stored=12, VOILUTSequence=[table]))
    assert np.array_equal(found.ravel(), rounded(words * (255 / 65535))) and noted == []


def test_a_window_outside_the_pixels_is_ignored() -> None:
    values = np.linspace(3000, 4000, 1000).astype(np.uint16).reshape(25, 40)
    wrong = dicom_file(values, bits_stored=12, WindowCenter=127, WindowWidth=255)
    without = dicom_file(values, bits_stored=12)
    found, noted = read(wrong)
    assert np.array_equal(found, grey_of_dicom(without)) and (found.min(), found.max()) == (0, 255)
    assert noted == [grey.BLANKED]
    padded = values.copy()
    padded[:, :10] = 0
    found, noted = read(
        dicom_file(padded, bits_stored=12, WindowCenter=127, WindowWidth=255, PixelPaddingValue=0)
    )
    assert noted == [grey.BLANKED] and found[:, 10:].max() == 255 and not found[:, :10].any()


def test_a_window_that_leaves_two_percent_visible_stays() -> None:
    values = np.full((10, 100), 3000, np.uint16)
    values[0, :20] = np.arange(20) * 10
    values[1:] += np.arange(100, dtype=np.uint16)
    data = dicom_file(values, bits_stored=12, WindowCenter=127, WindowWidth=255)
    found, noted = read(data)
    expected = apply_windowing(values, dcmread(DicomBytesIO(data)))  # 0 to 4095 of 12 bits
    assert np.abs(found - expected * (255 / 4095)).max() <= 0.5 and noted == []


@pytest.mark.parametrize(
    ("elements", "noted"),
    [
        ({"VOILUTFunction": "linear"}, grey.LOWER_CASE_FUNCTION),
        ({"VOILUTFunction": "CUBIC"}, grey.UNKNOWN_FUNCTION),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, grey.NO_RESCALE),
        ({"NumberOfFrames": 0}, layout.NO_FRAMES),
        ({"HighBit": 9}, layout.HIGH_BIT),
        ({"BitsStored": 9}, layout.BITS_STORED),
        ({"PixelRepresentation": 2}, layout.REPRESENTATION),
        ({"PixelRepresentation": None}, layout.REPRESENTATION),
        ({"ModalityLUTSequence": [lut([4, 0, 16], b"")]}, grey.NO_LUT),
        ({"VOILUTSequence": [lut([256, 0, 0], [1, 2])]}, grey.NO_LUT),
    ],
)
def test_a_header_with_a_fault_is_read_as_without(elements: dict[str, Any], noted: str) -> None:
    found, of_file = read(dicom_file(RAMP_8, **WINDOW, **elements))
    assert np.array_equal(found, RAMP_8) and of_file == [noted]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_decimal_comma(syntax: str) -> None:
    right = dicom_file(RAMP_12, syntax, bits_stored=12, WindowCenter="2047.5", WindowWidth="4096")
    wrong = right.replace(b"2047.5", b"2047,5")
    assert right != wrong
    found, noted = read(wrong)
    assert np.array_equal(found, grey_of_dicom(right)) and noted == [numbers.DECIMAL_COMMA]


def test_a_window_that_is_no_number_counts_as_none() -> None:
    right = dicom_file(RAMP_12, bits_stored=12, WindowCenter="2047.5", WindowWidth="4096")
    found, noted = read(right.replace(b"2047.5", b"middle"))
    assert np.array_equal(found, grey_of_dicom(dicom_file(RAMP_12, bits_stored=12)))
    assert noted == [numbers.NOT_A_NUMBER]


def test_a_lut_that_is_too_short_goes_on_with_its_last_entry() -> None:
    table = lut([9, 0, 8], [7, 250])
    found, noted = read(dicom_file(np.array([[0, 1, 2, 8]], np.uint8), VOILUTSequence=[table]))
    assert found.tolist() == [[7, 250, 250, 250]] and noted == [grey.SHORT_LUT]


def test_bits_above_the_stored_ones_are_ignored_and_noted() -> None:
    values = np.array([[0xF001, 0x0FFF, 0x0800]], np.uint16)
    found, noted = read(dicom_file(values, bits_stored=12))
    assert np.array_equal(found, grey_of_dicom(dicom_file(values & 0xFFF, bits_stored=12)))
    assert noted == [pixels.BITS_ABOVE]
    extended = np.array([[-1, -2048, 2047]], np.int16)
    assert read(dicom_file(extended, bits_stored=12))[1] == []


def test_nothing_is_noted_of_a_good_file() -> None:
    assert read(dicom_file(RAMP_8, **WINDOW))[1] == []
    assert read(dicom_file(RAMP_12, bits_stored=12))[1] == []
