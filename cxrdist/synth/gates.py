"""The gate of the synthesis: which generated images are written to the set.

In the paper, radiologists removed inappropriate images. This gate removes only images that are blank, washed out or
saturated: those whose brightness (mean) or contrast (standard deviation) lies far outside the range of the class's
real training images. It does not look at anatomy and does not replace a reader.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.data.shards.shard_set import ShardSet

BRIGHTNESS_MARGIN = 64.0
CONTRAST_FACTORS = (0.25, 2.0)
MEASURED_IMAGES = 2000


@dataclass(frozen=True)
class Range:
    """Closed interval of a score."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def rounded(self) -> Range:
        return Range(round(float(self.low), 3), round(float(self.high), 3))


@dataclass(frozen=True)
class GreyGate:
    """Ranges of mean and standard deviation, in grey values 0..255."""

    brightness: Range
    contrast: Range

    @staticmethod
    def from_real(shards: ShardSet, class_name: str) -> GreyGate:
        """Ranges from the class's real train images (at most 2,000): brightness from 64 grey values below their
        lowest to 64 above their highest, contrast from a quarter of their lowest to twice their highest."""
        scores = np.array([scores_of(i) for i in shards.images("train", class_name, "real", MEASURED_IMAGES)])
        (brightness_low, contrast_low), (brightness_high, contrast_high) = scores.min(0), scores.max(0)
        factor_low, factor_high = CONTRAST_FACTORS
        return GreyGate(
            Range(brightness_low - BRIGHTNESS_MARGIN, brightness_high + BRIGHTNESS_MARGIN).rounded(),
            Range(contrast_low * factor_low, contrast_high * factor_high).rounded(),
        )

    def admits(self, brightness: float, contrast: float) -> bool:
        return self.brightness.holds(brightness) and self.contrast.holds(contrast)


def scores_of(image: np.ndarray) -> tuple[float, float]:
    """[H, W] uint8 -> mean and standard deviation, in grey values."""
    return round(float(image.mean()), 3), round(float(image.std()), 3)
