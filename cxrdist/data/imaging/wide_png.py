"""PNGs of 16 bits per sample with colour or transparency, which Pillow reads with the upper 8 bits alone."""

from __future__ import annotations

import numpy as np

from cxrdist.data.imaging.mend import PNG_MAGIC
from cxrdist.data.imaging.repairs import repaired

ALL_TRANSPARENT = "transparency that hides the whole picture, which was ignored"

_GREY_ALPHA, _RGB, _RGBA = 4, 2, 6
_CHANNELS = {_GREY_ALPHA: 2, _RGB: 3, _RGBA: 4}
# Weights of ITU-R 601-2 times 65536, as Pillow's: grey stays the same grey.
_RED, _GREEN, _BLUE = 19595, 38470, 7471


def is_16_bit_colour(data: bytes) -> bool:
    """True for a PNG of 16 bits with colour or transparency, by its header (PNG specification, 11.2.2)."""
    return data.startswith(PNG_MAGIC) and len(data) > 25 and data[24] == 16 and data[25] in _CHANNELS


def grey_of_16_bit_colour(data: bytes) -> np.ndarray:
    """The grey of such a PNG, [H, W] uint16; transparent pixels become black, unless all of them would."""
    import png  # here, since only such files need it

    width, height, rows, _ = png.Reader(bytes=data).read()
    samples = np.vstack([np.frombuffer(row, np.uint16) for row in rows])  # pypng: native byte order
    samples = samples.reshape(height, width, _CHANNELS[data[25]])
    if data[25] == _GREY_ALPHA:
        grey = samples[:, :, 0]
    else:
        red, green, blue = (samples[:, :, i].astype(np.uint32) for i in range(3))
        grey = ((red * _RED + green * _GREEN + blue * _BLUE + 0x8000) >> 16).astype(np.uint16)
    if data[25] == _RGB:
        return grey
    alpha = samples[:, :, -1].astype(np.uint32)
    shown = ((grey * alpha + 32767) // 65535).astype(np.uint16)
    if is_hidden(shown, grey):
        repaired(ALL_TRANSPARENT)
        return grey
    return shown


def is_hidden(shown: np.ndarray, opaque: np.ndarray) -> bool:
    """Whether transparency leaves one grey value of a picture that has several."""
    return bool(shown.min() == shown.max() and opaque.min() < opaque.max())
