"""From stored values to 8-bit grey: modality, VOI and presentation transformations, as one table.

There are at most 2**16 stored values, and many more pixels: every step is taken on the values, in float64,
and the pixels are looked up once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxrdist.data.imaging.errors import UndecodableImage

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
PERCENTILES = (0.5, 99.5)
"""Of the pixels that are not padding: black and white where the file gives no window."""


def grey_of_words(
    words: np.ndarray, bits: int, is_signed: bool, tags: Dataset, is_little_endian: bool
) -> np.ndarray:
    """[H, W] unsigned words of ``bits`` bits as [H, W] uint8.

    In the order of PS3.3: the modality LUT, else rescale slope and intercept (C.11.1); the first VOI LUT, else
    the first window, LINEAR, LINEAR_EXACT or SIGMOID (C.11.2), else percentiles; last, values are inverted
    where PresentationLUTShape is INVERSE or PhotometricInterpretation MONOCHROME1 (one says the other, so once).
    A window narrower than the standard admits counts as none. Padding (C.7.5.1.1.2) is black. Raises
    UndecodableImage for a table or a function that is not right.
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
    """[values] bool: the stored values that are no part of the image."""
    ends = [_first(tags.get(keyword)) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted(
        _signed_16(int(end), is_signed) for end in (ends[0], ends[0] if ends[1] is None else ends[1])
    )
    return (stored >= low) & (stored <= high)


def _signed_16(value: int, is_signed: bool) -> int:
    """A value of 16 bits with the pixels' own sign: explicit files may bear it under the other's VR."""
    value &= 0xFFFF
    return value - 0x10000 if is_signed and value >= 0x8000 else value


def _modality(stored: np.ndarray, tags: Dataset, is_signed: bool, is_little_endian: bool) -> np.ndarray:
    """[values] float64 in the modality's units."""
    if tags.get("ModalityLUTSequence"):
        first, _, entries = _lut(tags.ModalityLUTSequence[0], is_signed, is_little_endian)
        return entries[np.clip(stored - first, 0, len(entries) - 1)].astype(np.float64)
    slope, intercept = _first(tags.get("RescaleSlope")), _first(tags.get("RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise UndecodableImage("a rescale slope of zero, or no number")
    return stored * slope + intercept


def _voi(values: np.ndarray, tags: Dataset, is_little_endian: bool) -> np.ndarray | None:
    """[values] grey 0 to 255; None where the file gives neither table nor window."""
    if tags.get("VOILUTSequence"):
        item = tags.VOILUTSequence[0]
        first, bits, entries = _lut(item, bool(values.min() < 0), is_little_endian)
        if not 8 <= bits <= 16:
            raise UndecodableImage("a lookup table that is not right")
        index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
        return entries[index] * (255 / ((1 << bits) - 1))
    center, width = _first(tags.get("WindowCenter")), _first(tags.get("WindowWidth"))
    if center is None or width is None or not math.isfinite(center) or not math.isfinite(width):
        return None
    function = str(tags.get("VOILUTFunction") or "LINEAR").strip()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UndecodableImage("an unknown VOI LUT function")
    if width < 1 if function == "LINEAR" else width <= 0:
        return None
    if function == "SIGMOID":
        # Beyond +-50 the curve is flat to the last bit, and exp() overflows at 710.
        return 255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 255.0, 0.0)
    return ((values - center) / width + 0.5) * 255


def _between_percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[values] grey: linear between the PERCENTILES (nearest rank) of pixels that occur ``counts`` times."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = [max(1, math.ceil(cumulative[-1] * percent / 100)) for percent in PERCENTILES]
    last = len(order) - 1
    low, high = (values[order[min(last, np.searchsorted(cumulative, rank))]] for rank in ranks)
    if high <= low:
        return np.where(values > high, 255.0, 0.0)
    return (values - low) / (high - low) * 255


def _lut(item: Dataset, is_signed: bool, is_little_endian: bool) -> tuple[int, int, np.ndarray]:
    """A lookup table (PS3.3, C.11.1.1): first value mapped, bits per entry, entries."""
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
        raise UndecodableImage("a lookup table that is not right")
    return _signed_16(first, is_signed), bits, entries


def _first(value: object) -> float | None:
    """The first of what may be several numbers, in text or not; None where there is none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value is None or value == "" else float(str(value))
