"""Colour images whose pixels are grey, as secondary captures and conversions of radiographs store them."""

from __future__ import annotations

import numpy as np

from cxrdist.data.imaging.dicom.codestream import kind_of
from cxrdist.data.imaging.dicom.layout import COLOUR, Layout
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.repairs import repaired

REPORT = "grey stored as colour, as reports are, and no film by its grey values"
BURNED_IN = "grey stored as colour, with text burned into its pixels"
GREY_IN_COLOUR = "grey stored as colour, possibly a report: look at it"
MOST_CHROMA = 4
"""Grey values that lossy compression may tell channels apart by."""
LEAST_GREY_VALUES = 64
"""Of a film. Letters on a ground, even smooth ones, have fewer."""
MOST_OF_ONE_VALUE = 0.6
"""Of the pixels of a film: the ground of a report, give or take ``MOST_CHROMA``, is more."""
_NO_CHROMA = 128
_JFIF_AT = slice(6, 10)
_ADOBE, _TRANSFORM_AFTER = b"Adobe", 11


def grey_of_channels(channels: np.ndarray, layout: Layout, code: bytes | None) -> np.ndarray:
    """[H, W, 3] uint8 as [H, W] uint8: three equal channels, or, of YCbCr, a first one beside chroma of nothing.

    ``code``: the compressed frame; None for native pixels. Raises UndecodableImage for others: coloured overlays
    are no radiographs. Neither are reports and dose sheets, in black and white and with names in them: of grey images
    those are left out that have the few grey values of letters, or whose header says that text is burned in.
    """
    first, *others = (channels[:, :, i].astype(np.int16) for i in range(3))
    for expected in (first, _NO_CHROMA) if _is_ybr(layout, code) else (first,):
        if all(np.abs(other - expected).max() <= MOST_CHROMA for other in others):
            grey = channels[:, :, 0]
            if layout.is_burned_in:
                raise UndecodableImage(BURNED_IN)
            if not _is_like_a_film(grey):
                raise UndecodableImage(REPORT)
            repaired(GREY_IN_COLOUR)
            return grey
    raise UndecodableImage(COLOUR)


def _is_like_a_film(grey: np.ndarray) -> bool:
    counts = np.bincount(grey.ravel(), minlength=256)
    near_one_value = np.convolve(counts, np.ones(MOST_CHROMA + 1, np.int64))
    return bool(
        np.count_nonzero(counts) >= LEAST_GREY_VALUES
        and near_one_value.max() <= MOST_OF_ONE_VALUE * grey.size
    )


def _is_ybr(layout: Layout, code: bytes | None) -> bool:
    """Whether the channels are YCbCr: decoders leave those of JPEG as they are, and undo what JPEG 2000 does."""
    if code is not None and kind_of(code) == "jpeg":
        if code[_JFIF_AT] == b"JFIF":
            return True
        at = code.find(_ADOBE, 0, 2**12)
        if at >= 0:
            return code[at + _TRANSFORM_AFTER : at + _TRANSFORM_AFTER + 1] == b"\1"
    return layout.interpretation.startswith("YBR_FULL")
