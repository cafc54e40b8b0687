"""Maps stored DICOM values to 8-bit grey: modality, VOI and presentation transformations in one lookup table.

There are at most 2**16 distinct stored values but many more pixels. Every step runs on the values, in float64,
and one lookup then maps all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.percentiles import percentile_bins

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

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

    Padding (C.7.5.1.1.2) is black. Raises UndecodableImage if a lookup table, the rescale slope or intercept, or the
    VOI LUT function is invalid.
    """
    stored = np.arange(1 << bits, dtype=np.int64)
    if is_signed:
        stored[1 << (bits - 1) :] -= 1 << bits
    padding = _padding(stored, tags, is_signed)
    values = _modality(stored, tags, is_signed, is_little_endian)
    grey = _voi(values, tags, is_little_endian)
    if grey is None:
        counts = np.bincount(words.ravel(), minlength=1 << bits)
        grey = _between_percentiles(values, np.where(padding, 0, counts))
    table = np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)
    shape, interpretation = (
        str(tags.get(keyword) or "").strip()
        for keyword in ("PresentationLUTShape", "PhotometricInterpretation")
    )
    if shape == "INVERSE" or interpretation == "MONOCHROME1":
        table = 255 - table
    table[padding] = 0
    return table[words]


def _padding(stored: np.ndarray, tags: Dataset, is_signed: bool) -> np.ndarray:
    """[values] bool: True for stored values that are padding."""
    ends = [_first(tags.get(keyword)) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted(
        _signed_16(int(end), is_signed) for end in (ends[0], ends[0] if ends[1] is None else ends[1])
    )
    return (stored >= low) & (stored <= high)


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
        first, _, entries = _lut(tags.ModalityLUTSequence[0], is_signed, is_little_endian)
        return entries[np.clip(stored - first, 0, len(entries) - 1)].astype(np.float64)
    slope, intercept = _first(tags.get("RescaleSlope")), _first(tags.get("RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise UndecodableImage("invalid rescale slope or intercept")
    return stored * slope + intercept


def _voi(values: np.ndarray, tags: Dataset, is_little_endian: bool) -> np.ndarray | None:
    """Modality values [values] as grey, 0 to 255; None if the file has neither a VOI LUT nor a valid window."""
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_windowing

    if tags.get("VOILUTSequence"):
        item = tags.VOILUTSequence[0]
        first, bits, entries = _lut(item, bool(values.min() < 0), is_little_endian)
        if not 8 <= bits <= 16:
            raise UndecodableImage("invalid lookup table")
        index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
        return entries[index] * (255 / ((1 << bits) - 1))
    center, width = _first(tags.get("WindowCenter")), _first(tags.get("WindowWidth"))
    if center is None or width is None or not math.isfinite(center) or not math.isfinite(width):
        return None
    function = str(tags.get("VOILUTFunction") or "LINEAR").strip()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UndecodableImage("unknown VOI LUT function")
    if width < 1 if function == "LINEAR" else width <= 0:
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


def _lut(item: Dataset, is_signed: bool, is_little_endian: bool) -> tuple[int, int, np.ndarray]:
    """Reads a lookup table (PS3.3, C.11.1.1). Returns the first value mapped, bits per entry, and the entries."""
    length, first, bits = (int(number) for number in item.LUTDescriptor)
    length = length or 1 << 16
    data = item.LUTData
    order = "<" if is_little_endian else ">"
    if not isinstance(data, bytes):
        numbers = data if isinstance(data, Sequence) else [data]
        data = np.array(numbers, dtype=f"{order}u2").tobytes()
    if len(data) >= 2 * length:
        entries = np.frombuffer(data, f"{order}u2", length)
    elif bits == 8 and len(data) >= length:
        entries = np.frombuffer(data, np.uint8, length)
    else:
        raise UndecodableImage("invalid lookup table")
    return _signed_16(first, is_signed), bits, entries


def _first(value: object) -> float | None:
    """The first number of a single or multi-valued element, which may be text; None if it is empty."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value is None or value == "" else float(str(value))
