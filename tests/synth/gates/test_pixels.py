"""The statistics are those of an independent computation in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrdist.synth.gates.pixels import GREY_QUANTILES, PixelGate, Ranges, statistics_of, statistics_space


def drawn(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth, with noise."""
    draw = np.random.default_rng(seed)
    rough = draw.normal(size=(count, size + 8, size + 8)).cumsum(1).cumsum(2)[:, 8:, 8:]
    spread = rough - rough.mean((1, 2), keepdims=True)
    grey = 110 + 40 * spread / spread.std((1, 2), keepdims=True) + draw.normal(0, 5, rough.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def found(images: np.ndarray) -> np.ndarray:
    return statistics_of(torch.tensor(images)[:, None]).numpy()


def by_numpy(image: np.ndarray) -> list[float]:
    """Loops over pixels and frequencies, in float64."""
    x = image.astype(np.float64) / 255
    side = len(x)
    ordered = np.sort(x.ravel())
    values = [x.mean(), x.std(ddof=1), *(ordered[round(q * (x.size - 1))] for q in GREY_QUANTILES)]
    for profile in (x.mean(0), x.mean(1)):
        lines = [0.0]
        for left, here, right in zip(profile, profile[1:], profile[2:]):
            lines += [min(here - left, here - right), min(left - here, right - here)]
        values.append(max(lines))
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((x - x.mean()) * window[:, None] * window)) ** 2 / side**2
    octaves: dict[int, list[float]] = {}
    across: dict[tuple[int, int], list[float]] = {}
    grids: dict[int, list[float]] = {side // 2: [], side // 4: []}
    for i in range(side):
        for j in range(side):
            down, right = min(i, side - i), min(j, side - j)
            for line, of in grids.items():
                if line in (down, right):
                    of.append(power[i, j])
            radius = float(np.hypot(down, right))
            if radius:
                octave = int(np.floor(np.log2(radius)))
                octaves.setdefault(octave, []).append(power[i, j])
                for axis, other in enumerate((down, right)):
                    if other <= 1 and octave >= 2:
                        across.setdefault((octave, axis), []).append(power[i, j])
    floor = 1e-9
    means = {octave: np.mean(of) + floor for octave, of in octaves.items()}
    values += [np.log10(means[octave]) for octave in sorted(means)]
    for octave in sorted(means):
        for axis in (0, 1):
            if octave >= 2:
                along = np.mean(across.get((octave, axis), [0.0])) + floor
                values.append(np.log10(along / means[octave]))
    return [float(v) for v in [*values, *(np.log10(np.mean(of) + floor) for of in grids.values())]]


@pytest.mark.parametrize("size", [32, 50, 51, 64])
def test_statistics_are_those_of_a_double_loop_in_numpy(size: int) -> None:
    images = drawn(3, size)
    expected = np.array([by_numpy(image) for image in images])
    assert found(images).shape == expected.shape
    assert found(images) == pytest.approx(expected, abs=2e-4)


def test_an_image_of_64_px_has_27_statistics() -> None:
    """2 + 7 quantiles + 2 lines + 6 octaves + 4 octaves on two axes + 2 grids."""
    assert statistics_space(64).dims == 27


@pytest.mark.parametrize("size", [32, 50, 128, 256, 1024])
def test_images_of_every_size_have_finite_statistics(size: int) -> None:
    images = np.concatenate((drawn(1, size), np.full((1, size, size), 77, np.uint8)))
    values = found(images)
    assert values.shape == (2, statistics_space(size).dims)
    assert np.isfinite(values).all()
    assert values[1, :9] == pytest.approx([77 / 255, 0, *[77 / 255] * 7], abs=1e-5)


def test_a_line_counts_and_an_edge_does_not() -> None:
    image = np.full((1, 64, 64), 100, np.uint8)
    edge, line, dark = image.copy(), image.copy(), image.copy()
    edge[:, :, 40:] = 0
    line[:, :, 40] = 151
    dark[:, 40] = 49
    columns_and_rows = [found(x)[0, 9:11].tolist() for x in (image, edge, line, dark)]
    assert columns_and_rows == [pytest.approx(of, abs=1e-6) for of in ([0, 0], [0, 0], [0.2, 0], [0, 0.2])]


def test_ranges_and_the_score_by_hand() -> None:
    """201 values 0 to 200: 1 and 199 are the 0.5th and 99.5th percentile, 100 the median."""
    values = torch.arange(201.0)[:, None].repeat(1, 2)
    ranges = Ranges.of(values)
    assert (ranges.low[0], ranges.median[0], ranges.high[0]) == (1, 100, 199)
    scores = ranges.score(torch.tensor([[100.0, 100.0], [199, 100], [100, 1], [100, 397], [149.5, 298]]))
    assert scores.tolist() == [0, 1, 1, 3, 2]


def test_a_statistic_that_all_images_share_has_no_range() -> None:
    ranges = Ranges.of(torch.cat((torch.zeros(101, 1), torch.arange(101.0)[:, None]), 1))
    assert ranges.score(torch.tensor([[0.0, 50]])).tolist() == [0]
    assert ranges.score(torch.tensor([[0.01, 50]])).item() == pytest.approx(100)


def test_a_class_of_fewer_than_100_images_takes_the_ranges_of_all() -> None:
    train = {"A": torch.arange(100.0)[:, None], "B": torch.arange(99.0)[:, None] + 1000}
    gate = PixelGate(train)
    assert float(gate.ranges["A"].median) == 49.5
    everything = Ranges.of(torch.cat([*train.values()]))
    assert torch.equal(gate.ranges["B"].median, everything.median)
    assert gate.scores("A", {"statistics": torch.tensor([[49.5]])}).tolist() == [0]
