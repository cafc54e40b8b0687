"""Colour images whose pixels are grey, as secondary captures and conversions of radiographs store them."""

from __future__ import annotations

import numpy as np

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.repairs import repaired

COLOUR = "colour, not grey"
GREY_IN_COLOUR = "colour image whose pixels are grey"
INTERPRETATIONS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
MOST_CHROMA = 4
"""Grey values that lossy compression may tell channels apart by."""
_NO_CHROMA = 128


def grey_of_channels(channels: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8, RGB or YCbCr, as [H, W] uint8: three equal channels, or a first one beside chroma of nothing.

    Raises UndecodableImage for any other: reports, dose sheets and coloured overlays are no radiographs.
    """
    first, *others = (channels[:, :, i].astype(np.int16) for i in range(3))
    for expected in (first, _NO_CHROMA):
        if all(np.abs(other - expected).max() <= MOST_CHROMA for other in others):
            repaired(GREY_IN_COLOUR)
            return channels[:, :, 0]
    raise UndecodableImage(COLOUR)
