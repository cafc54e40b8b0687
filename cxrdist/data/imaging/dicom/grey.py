"""Maps stored DICOM values to 8-bit grey: modality, VOI and presentation transformations in one lookup table.

There are at most 2**16 distinct stored values but many more pixels. Every step runs on the values, in float64,
and one lookup then maps all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxrdist.data.imaging.dicom.numbers import first_number
from cxrdist.data.imaging.percentiles import percentile_bins
from cxrdist.data.imaging.repairs import repaired

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
BLANK_SHARE = 0.99
"""Of the pixels that are not padding: so many of one grey value, where the file has several, are a wrong window."""
BLANK_SAMPLE = 250_000
"""Pixels, evenly spread, of which that is counted."""

BLANKED = "window or VOI LUT that makes nearly all pixels one grey value, which was ignored"
ALL_PADDING = "padding value or range that nearly all pixels have, which was ignored"
NO_RESCALE = "rescale slope of 0, or not a number, which was ignored"
NO_WINDOW = "window width that DICOM forbids, which was ignored"
NO_LUT = "lookup table without a valid description or entries, which was ignored"
SHORT_LUT = "lookup table with fewer entries than it declares"
OTHER_BITS = "VOI LUT whose entries have other bits than it declares"
LOWER_CASE_FUNCTION = "VOI LUT function in lower case"
UNKNOWN_FUNCTION = "unknown VOI LUT function, read as LINEAR"

GREY_TAGS = (
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
)


def grey_of_words(
    words: np.ndarray, bits: int, is_signed: bool, tags: Dataset, is_little_endian: bool
) -> np.ndarray:
    """Converts [H, W] unsigned words of ``bits`` bits to [H, W] uint8 grey.

    Steps, in the order of DICOM PS3.3:

    1. the modality LUT, or else rescale slope and intercept (C.11.1);
    2. the first VOI LUT, or else the first window, LINEAR, LINEAR_EXACT or SIGMOID (C.11.2), or else
       ``PERCENTILES`` of the pixels that are not padding; a window narrower than the standard allows is ignored;
    3. inversion, if PresentationLUTShape is INVERSE or PhotometricInterpretation is MONOCHROME1 (each implies the
       other, so values are inverted only once).

    Padding (C.7.5.1.1.2) is black. What is invalid, or contradicts the pixels, is repaired or ignored and noted
    (``repairs.noting``): a window or a VOI LUT, for example, that gives nearly all pixels one grey value, or a range
    of padding that covers them.
    """
    stored = np.arange(1 << bits, dtype=np.int64)
    if is_signed:
        stored[1 << (bits - 1) :] -= 1 << bits
    padding = _padding(stored, tags, is_signed)
    some = words.ravel()[:: 1 + words.size // BLANK_SAMPLE]
    if _hides(padding, some):
        repaired(ALL_PADDING)
        padding[:] = False
    values = _modality(stored, tags, is_signed, is_little_endian)
    grey = _voi(values, tags, is_little_endian)
    if grey is not None and _blanks(_rounded(grey), _counts(some, padding)):
        repaired(BLANKED)
        grey = None
    if grey is None:
        grey = _between_percentiles(values, _counts(words.ravel(), padding))
    table = _rounded(grey)
    shape, interpretation = (
        str(tags.get(keyword) or "").strip().upper()
        for keyword in ("PresentationLUTShape", "PhotometricInterpretation")
    )
    if shape == "INVERSE" or interpretation == "MONOCHROME1":
        table = 255 - table
    table[padding] = 0
    return table[words]


def _counts(words: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """[values]: the number of pixels with each stored value, padding aside."""
    return np.where(padding, 0, np.bincount(words, minlength=len(padding)))


def _rounded(grey: np.ndarray) -> np.ndarray:
    """[values] float64 -> [values] uint8, by rounding half up."""
    return np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)


def _blanks(table: np.ndarray, counts: np.ndarray) -> bool:
    """Whether ``table`` [values] uint8 gives nearly all pixels one grey value, though they differ.

    ``counts`` [values]: the number of pixels with each value.
    """
    of_grey = np.bincount(table, counts, minlength=256)
    return bool(of_grey.max() >= BLANK_SHARE * counts.sum() > counts.max())


def _padding(stored: np.ndarray, tags: Dataset, is_signed: bool) -> np.ndarray:
    """[values] bool: True for stored values that are padding."""
    ends = [first_number(tags, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted(
        _signed_16(int(end), is_signed) for end in (ends[0], ends[0] if ends[1] is None else ends[1])
    )
    return (stored >= low) & (stored <= high)


def _hides(padding: np.ndarray, words: np.ndarray) -> bool:
    """Whether nearly all of the pixels ``words`` are padding, though they differ."""
    counts = np.bincount(words, minlength=len(padding))[padding]
    return bool(counts.size and counts.sum() >= BLANK_SHARE * words.size > counts.max())


def _signed_16(value: int, is_signed: bool) -> int:
    """Reinterprets a 16-bit value with the pixels' signedness: some files store it with the wrong VR (US or SS)."""
    value &= 0xFFFF
    return value - 0x10000 if is_signed and value >= 0x8000 else value


# Lookup tables and rescaling do not use pydicom's apply_modality_lut and apply_voi_lut, which
# - truncate fractional values before a VOI LUT, and wrap values above 65535 modulo 65536;
# - fail for modality LUTs of 10, 12 or 14 bits and for packed 8-bit entries;
# - read the first mapped value of a LUT with the sign of its VR, which some files get wrong;
# - ignore a slope without an intercept, and accept a slope that is zero or not finite.
def _modality(stored: np.ndarray, tags: Dataset, is_signed: bool, is_little_endian: bool) -> np.ndarray:
    """Stored values [values] int64 as float64 in modality units."""
    if tags.get("ModalityLUTSequence"):
        lut = _lut(tags.ModalityLUTSequence[0], is_signed, is_little_endian)
        if lut is not None:
            return lut.entries[np.clip(stored - lut.first, 0, len(lut.entries) - 1)].astype(np.float64)
    slope, intercept = first_number(tags, "RescaleSlope"), first_number(tags, "RescaleIntercept")
    if slope == 0 or not math.isfinite(slope or 0) or not math.isfinite(intercept or 0):
        repaired(NO_RESCALE)
        slope = intercept = None
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _voi(values: np.ndarray, tags: Dataset, is_little_endian: bool) -> np.ndarray | None:
    """Modality values [values] as grey, 0 to 255; None if the file has neither a VOI LUT nor a valid window."""
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_windowing

    if tags.get("VOILUTSequence"):
        lut = _lut(tags.VOILUTSequence[0], bool(values.min() < 0), is_little_endian)
        if lut is not None:
            index = np.clip(np.rint(values) - lut.first, 0, len(lut.entries) - 1).astype(np.int64)
            return lut.entries[index] * (255 / ((1 << _bits_of(lut)) - 1))
    center, width = first_number(tags, "WindowCenter"), first_number(tags, "WindowWidth")
    if center is None or width is None or not math.isfinite(center) or not math.isfinite(width):
        return None
    function = str(tags.get("VOILUTFunction") or "LINEAR").strip()
    if function not in VOI_FUNCTIONS:
        upper = function.upper()
        repaired(LOWER_CASE_FUNCTION if upper in VOI_FUNCTIONS else UNKNOWN_FUNCTION)
        function = upper if upper in VOI_FUNCTIONS else "LINEAR"
    if width < 1 if function == "LINEAR" else width <= 0:
        repaired(NO_WINDOW)
        return None
    window = Dataset()
    window.PhotometricInterpretation, window.PixelRepresentation = "MONOCHROME2", 0
    window.BitsStored = 8  # apply_windowing scales its output to the range of stored values: here 0 to 255
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
    return apply_windowing(values, window)


def _between_percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Modality values [values] as grey, linear between ``PERCENTILES`` (nearest rank).

    ``counts`` [values]: the number of pixels with each value.
    """
    if not counts.any():
        return np.zeros_like(values)  # all pixels are padding
    order = np.argsort(values, kind="stable")
    low, high = (values[order[bin]] for bin in percentile_bins(counts[order]))
    if high <= low:
        return np.where(values > high, 255.0, 0.0)
    return (values - low) / (high - low) * 255


class Lut(NamedTuple):
    """A lookup table (PS3.3, C.11.1.1)."""

    first: int
    """The value that the first entry is for."""
    bits: int
    """Bits of an entry, as declared."""
    entries: np.ndarray
    """[entries] uint8 or uint16, at least one."""


def _lut(item: Dataset, is_signed: bool, is_little_endian: bool) -> Lut | None:
    """Reads a lookup table; None if it is empty or its descriptor is invalid."""
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    try:
        length, first, bits = (int(number) for number in descriptor)
    except (TypeError, ValueError):
        repaired(NO_LUT)
        return None
    length = length or 1 << 16
    order = "<" if is_little_endian else ">"
    if data is not None and not isinstance(data, bytes):
        numbers = data if isinstance(data, Sequence) else [data]
        data = np.array(numbers, dtype=f"{order}u2").tobytes()
    if not data or not 1 <= bits <= 16:
        repaired(NO_LUT)
        return None
    is_packed = bits == 8 and length <= len(data) < 2 * length
    kind = np.dtype(np.uint8 if is_packed else f"{order}u2")
    entries = np.frombuffer(data, kind, min(length, len(data) // kind.itemsize))
    if not len(entries):
        repaired(NO_LUT)
        return None
    if len(entries) < length:
        repaired(SHORT_LUT)
    return Lut(_signed_16(first, is_signed), bits, entries)


def _bits_of(lut: Lut) -> int:
    """The bits of an entry of a VOI LUT: as declared, unless the entries exceed them or use less than a quarter."""
    found = int(lut.entries.max()).bit_length()
    if lut.bits - 2 < found <= lut.bits:
        return lut.bits
    repaired(OTHER_BITS)
    return max(found, 1)
