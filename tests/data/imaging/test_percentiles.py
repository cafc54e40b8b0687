"""Percentiles from counts are numpy's, by nearest rank."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist.data.imaging.percentiles import percentile_bins


@pytest.mark.parametrize("pixels", [1, 2, 3, 199, 200, 201, 1000])
def test_percentiles_are_numpys_inverted_cdf(pixels: int) -> None:
    values = np.random.default_rng(pixels).integers(0, 4096, pixels)
    expected = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
    assert percentile_bins(np.bincount(values, minlength=65536)) == expected.tolist()


def test_values_that_do_not_occur_count_nothing() -> None:
    assert percentile_bins(np.array([0, 0, 3, 0, 5, 0])) == [2, 4]
    assert percentile_bins(np.array([0, 7, 0])) == [1, 1]
