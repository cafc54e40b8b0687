"""Percentiles of grey values, from counts: exact, and cheaper than sorting the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (0.5, 99.5)
"""Of an image's pixels: they become black and white where nothing else says which grey values do."""


def percentile_bins(counts: np.ndarray, percents: Sequence[float] = PERCENTILES) -> list[int]:
    """The percentiles by nearest rank, as indexes into ``counts``.

    ``counts`` [values] holds how many pixels have each value, by ascending value; at least one is not 0. ``percents``
    are above 0 and below 100.
    """
    cumulative = np.cumsum(counts)
    # The first value that so many pixels do not exceed. A rank need not be whole: counts are, so it rounds up.
    return [int(np.searchsorted(cumulative, cumulative[-1] * percent / 100)) for percent in percents]
