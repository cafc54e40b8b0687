"""The gate of grey values and power spectrum.

27 statistics of an image of 64 px: mean and standard deviation; seven quantiles of the grey values (the histogram);
the clearest single line down and across; the power of each octave of the radial spectrum; and where streaks and
checkerboards show: the power along either axis of the spectrum over that of its whole octave, and at half and a
quarter of the sampling frequency, at which transposed convolutions leave a grid.

Of each statistic the range of the class's real training images is known, from the 0.5th to the 99.5th percentile. The
score is the distance from their median, in units of the distance of that end of the range, of the statistic that is
farthest out: up to 1 all of them are inside. An image has 27 chances to be outside one of them, so the threshold is
calibrated on validation images, and is not below 1: all ranges are widened by one factor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cxrdist.features.spaces import Space
from cxrdist.synth.gates.thresholds import MIN_IMAGES

NAME = "pixels"
STATISTICS = "statistics"
GREY_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
RANGE = (0.005, 0.995)
POWER_FLOOR = 1e-9
"""Of a mean power per frequency, in squared grey values of 0 to 1: a blank image has a logarithm, too."""


def statistics_space(image_size: int) -> Space:
    dims = statistics_of(torch.zeros(1, 1, image_size, image_size, dtype=torch.uint8)).shape[1]
    return Space(STATISTICS, "grey values and power spectrum", dims, None, statistics_of)


def statistics_of(images: Tensor) -> Tensor:
    """[B, 1, H, W] uint8 -> [B, statistics] float32."""
    pixels = images[:, 0].float() / 255
    flat = pixels.flatten(1)
    ordered = flat.sort(1).values
    places = [round(q * (flat.shape[1] - 1)) for q in GREY_QUANTILES]
    grey = torch.cat((flat.mean(1, keepdim=True), flat.std(1, keepdim=True), ordered[:, places]), 1)
    return torch.cat((grey, _lines(pixels), _spectrum(pixels)), 1)


def _lines(pixels: Tensor) -> Tensor:
    """[B, H, W] in [0, 1] -> [B, 2]: by how much the mean of a column, or row, differs from both neighbours, at most.
    At the edge of a collimated field only one of them differs."""
    found = []
    for profile in (pixels.mean(1), pixels.mean(2)):
        steps = profile.diff(dim=1)
        rise, fall = steps[:, :-1], -steps[:, 1:]
        bright, dark = torch.minimum(rise, fall), torch.minimum(-rise, -fall)
        found.append(torch.maximum(bright, dark).amax(1).clamp_min(0))
    return torch.stack(found, 1)


def _spectrum(pixels: Tensor) -> Tensor:
    """[B, H, W] in [0, 1] -> [B, D] logarithms to base 10 of powers, and of their ratios."""
    side = pixels.shape[-1]
    # Without the window the jump between opposite edges puts a cross of power on the axes of every image.
    window = torch.hann_window(side, periodic=False, device=pixels.device)
    centred = (pixels - pixels.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.fft2(centred).abs().square() / side**2  # [B, H, W]
    flat = power.flatten(1)
    rings, along, grids = _masks(side, pixels.device)
    octaves = flat @ rings + POWER_FLOOR
    lines = flat @ along + POWER_FLOOR
    return torch.cat(
        (
            octaves.log10(),
            (lines / octaves.repeat_interleave(2, 1)[:, -lines.shape[1] :]).log10(),
            (flat @ grids + POWER_FLOOR).log10(),
        ),
        1,
    )


@functools.cache
def _masks(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [H W, n] that average the power over the octaves; over the frequencies along the horizontal and along
    the vertical axis in each octave from 4 cycles per image on; and over the lines at a half and a quarter of the
    sampling frequency."""
    cycles = (torch.fft.fftfreq(side) * side).round()
    rows, columns = torch.meshgrid(cycles.abs(), cycles.abs(), indexing="ij")
    radius = (rows.square() + columns.square()).sqrt()
    octaves = [
        (radius >= 2**n) & (radius < 2 ** (n + 1))
        for n in range(max(1, math.ceil(math.log2(side / math.sqrt(2)))))
    ]
    axes = [octave & (across <= 1) for octave in octaves[2:] for across in (rows, columns)]
    grids = [(rows == line) | (columns == line) for line in (side // 2, side // 4)]

    def averaging(masks: list[Tensor]) -> Tensor:
        weights = torch.stack([mask.flatten() / mask.sum().clamp_min(1) for mask in masks], 1)
        return weights.float().to(device)

    return averaging(octaves), averaging(axes), averaging(grids)


@dataclass(frozen=True)
class Ranges:
    """Of the statistics [D] of the real training images of a class."""

    median: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(statistics: Tensor) -> Ranges:
        """From [m, D]."""
        low, median, high = torch.quantile(
            statistics.double(),
            torch.tensor([RANGE[0], 0.5, RANGE[1]], dtype=torch.float64).to(statistics.device),
            dim=0,
        )
        return Ranges(median, low, high)

    def score(self, statistics: Tensor) -> Tensor:
        """[n, D] -> [n] float32: 1 at the end of the range that is farthest exceeded."""
        away = statistics.double() - self.median
        room = torch.where(away > 0, self.high - self.median, self.median - self.low)
        # A statistic that all real images share, as black corners, has no range: any other value is far outside.
        return (away.abs() / room.clamp_min(1e-4)).amax(1).float()


class PixelGate:
    """See the module."""

    name = NAME
    refuses_high = True
    at_least = 1.0

    def __init__(self, train: Mapping[str, Tensor]) -> None:
        """``train``: the statistics [m, D] of each class's real training images. A class of fewer than 100 takes the
        ranges of all classes."""
        everything = torch.cat(list(train.values()))
        self.ranges = {
            name: Ranges.of(values if len(values) >= MIN_IMAGES else everything)
            for name, values in train.items()
        }

    def scores(self, class_name: str, seen: Mapping[str, Tensor]) -> Tensor:
        """Statistics [n, D] under ``STATISTICS`` -> [n] float32."""
        return self.ranges[class_name].score(seen[STATISTICS])
