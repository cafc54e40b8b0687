"""16-bit grey to 8-bit. Many detectors have 12 bits: scaled from the full range, their images are nearly black."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import numpy as np

from cxrdist.data.imaging.percentiles import percentile_bins
from cxrdist.data.imaging.radiograph import Tone
from cxrdist.errors import check_choice

Intensity = Literal["percentiles", "full"]
INTENSITIES = get_args(Intensity)


def check_intensity(intensity: str) -> None:
    """Raises OptionError for a way that is none of ``INTENSITIES``."""
    check_choice("intensity", intensity, INTENSITIES)


def tone_of(intensity: str, is_inverted: bool = False) -> Tone:
    """The ``tone`` of ``load_grey``; it can be pickled to worker processes."""
    return Tone(partial(eight_bit, intensity=intensity, is_inverted=is_inverted), is_inverted)


def eight_bit(pixels: np.ndarray, intensity: str, is_inverted: bool) -> np.ndarray:
    """[H, W] uint16 grey -> [H, W] uint8, black to white between two percentiles or over the full range."""
    low, high = (0, 65535) if intensity == "full" else _percentiles(pixels)
    values = np.arange(65536, dtype=np.float64)
    grey = (values - low) / max(high - low, 1) * 255
    table = np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)
    return (255 - table if is_inverted else table)[pixels]


def _percentiles(pixels: np.ndarray) -> list[int]:
    return percentile_bins(np.bincount(pixels.ravel(), minlength=65536))
