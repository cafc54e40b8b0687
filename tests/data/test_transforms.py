"""Augmentation: what each amount does to an image, and that the amounts belong to the position alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from cxrdist import counter_rng
from cxrdist.cls.config import ClsConfig
from cxrdist.config.parser import parse
from cxrdist.config.yaml_files import load_yaml
from cxrdist.data.transforms import AugmentConfig, affine, augment, to_float, to_uint8
from cxrdist.errors import UserError
from tests.helpers.launching import CLONE

EVERYTHING = AugmentConfig(rotate_degrees=7, shift=0.1, zoom=0.1, brightness=0.1, contrast=0.2, flip=True)


def noise(count: int, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    """[count, 1, height, width] float32 in [-1, 1], every grey value among them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, height, width), np.uint8)
    return to_float(torch.from_numpy(pixels))


def moved(
    images: torch.Tensor, *, degrees: float = 0, right_px: float = 0, down_px: float = 0, scale: float = 1
) -> torch.Tensor:
    def each(value: float) -> torch.Tensor:
        return torch.full((len(images),), value, dtype=torch.float64)

    return affine(
        images, degrees=each(degrees), right_px=each(right_px), down_px=each(down_px), scale=each(scale)
    )


def drawn(positions: range, seed: int = 0) -> torch.Tensor:
    """[n, 8] in [-1, 1): rotation, right, down, zoom, contrast, brightness, flip, unused."""
    return counter_rng.uniform(seed, counter_rng.positions_on(positions, torch.device("cpu")), 8)


def amounts(positions: range, seed: int = 0) -> np.ndarray:
    return drawn(positions, seed).numpy()


# ---- off


def test_off_by_default_and_then_the_input_itself() -> None:
    images = noise(3)
    assert augment(images, AugmentConfig(), drawn(range(3), 0)) is images
    assert ClsConfig().augment == AugmentConfig()


def test_amounts_of_zero_are_bit_exact() -> None:
    """Flips alone, where none falls: nothing else has touched a bit."""
    (kept,) = np.flatnonzero(amounts(range(20))[:, 6] >= 0)[:1].tolist()
    images = noise(1, 15, 17)
    found = augment(images, AugmentConfig(flip=True), drawn(range(kept, kept + 1), 0))
    assert torch.equal(found, images)


# ---- geometry


def test_every_grey_value_outlives_the_resampling() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    images = to_float(pixels)
    assert torch.equal(moved(images), images)
    assert torch.equal(to_uint8(moved(images)), pixels)


def test_a_shift_by_whole_pixels_is_exact_and_what_enters_is_black() -> None:
    images = noise(2)
    expected = torch.full_like(images, -1)
    expected[:, :, 2:, :-3] = images[:, :, :-2, 3:]
    assert torch.equal(moved(images, right_px=-3, down_px=2), expected)


def test_a_reflection_fills_what_a_shift_brings_in() -> None:
    row = torch.tensor([[[[-0.75, -0.5, 0.0, 1.0]]]])
    found = affine(
        row,
        degrees=torch.zeros(1),
        right_px=torch.tensor([2.0]),
        down_px=torch.zeros(1),
        scale=torch.ones(1),
        fill="reflection",
    )
    assert found.tolist() == [[[[-0.5, -0.75, -0.75, -0.5]]]]


def test_a_shift_by_half_a_pixel_is_the_mean_of_two() -> None:
    row = torch.tensor([[[[-1.0, 0.0, 1.0, 0.5]]]])
    assert moved(row, right_px=0.5).tolist() == [[[[-1.0, -0.5, 0.5, 0.75]]]]


def test_a_quarter_turn_is_counter_clockwise() -> None:
    images = noise(2)
    found = moved(images, degrees=90)
    assert torch.allclose(found, torch.rot90(images, 1, (-2, -1)), atol=1e-5)


def test_a_rotation_is_pillows() -> None:
    """7 degrees counter-clockwise about the centre, bilinear, inside the circle that no black reaches."""
    images = noise(1, 32, 32)
    theirs = Image.fromarray(images[0, 0].numpy()).rotate(7, Image.Resampling.BILINEAR)
    y, x = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(x, y) < 15
    difference = np.abs(moved(images, degrees=7)[0, 0].numpy() - np.asarray(theirs))[inside]
    assert difference.max() < 1e-4
    assert np.abs(moved(images, degrees=-7)[0, 0].numpy() - np.asarray(theirs))[inside].max() > 0.5


def test_a_scale_above_one_enlarges_about_the_centre() -> None:
    """A white square of 4 x 4 px: at twice the size its middle 6 x 6 are white, at half its size 2 x 2."""
    image = torch.full((1, 1, 16, 16), -1.0)
    image[..., 6:10, 6:10] = 1
    double, half = moved(image, scale=2)[0, 0], moved(image, scale=0.5)[0, 0]
    assert torch.equal((double == 1).nonzero(), (torch.ones(6, 6) == 1).nonzero() + 5)
    # Of the two columns that an edge falls between, (3 white + 1 black) / 4 and (1 white + 3 black) / 4.
    assert double[8, 3:13].tolist() == [-0.5, 0.5, 1, 1, 1, 1, 1, 1, 0.5, -0.5]
    assert half[8, 6:10].tolist() == [-1, 1, 1, -1]


def test_the_image_is_turned_before_it_is_moved() -> None:
    """A point 4 px right of the centre: a quarter turn takes it 4 px up, double size 8 px up, then 2 left, 3 down."""
    image = torch.full((1, 1, 33, 33), -1.0)
    image[..., 16, 20] = 1
    found = moved(image, degrees=90, scale=2, right_px=-2, down_px=3)[0, 0]
    assert divmod(int(found.argmax()), 33) == (16 - 8 + 3, 16 - 2)


def test_each_image_has_its_own_amounts_and_sides_may_differ() -> None:
    images = noise(2, 8, 16)
    none = torch.zeros(2)
    found = affine(images, degrees=none, right_px=torch.tensor([0.0, 5]), down_px=none, scale=torch.ones(2))
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1, :, :, 5:], images[1, :, :, :-5])


# ---- grey values


def test_brightness_and_contrast_are_a_window_about_mid_grey() -> None:
    value, positions = torch.full((64, 1, 2, 2), 0.25), range(64)
    numbers = drawn(positions)
    brighter = augment(value, AugmentConfig(brightness=0.1), drawn(positions, 0))
    assert torch.allclose(brighter[:, 0, 0, 0], 0.25 + 0.1 * 2 * numbers[:, 5], atol=1e-7)
    stretched = augment(value, AugmentConfig(contrast=0.4), drawn(positions, 0))
    assert torch.allclose(stretched[:, 0, 0, 0], 0.25 * (1 + 0.4 * numbers[:, 4]), atol=1e-7)
    both = augment(value, AugmentConfig(brightness=0.1, contrast=0.4), drawn(positions, 0))
    assert torch.allclose(both[:, 0, 0, 0], 0.25 * (1 + 0.4 * numbers[:, 4]) + 0.2 * numbers[:, 5], atol=1e-7)


def test_black_bars_and_the_black_around_a_film_stay_one_grey() -> None:
    images = torch.full((32, 1, 16, 16), -1.0)
    config = AugmentConfig(shift=0.3, brightness=0.5, contrast=0.5)
    found = augment(images, config, drawn(range(32), 0)).flatten(1)
    assert torch.equal(found.amin(1), found.amax(1))
    assert len(found[:, 0].unique()) > 10


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig(brightness=0.5, contrast=0.5)])
def test_never_outside_the_range(config: AugmentConfig) -> None:
    found = augment(noise(64), config, drawn(range(64), 1))
    assert found.min() == -1 and found.max() == 1


# ---- how much


def blob(count: int, right_px: float) -> torch.Tensor:
    """[count, 1, 64, 64]: a Gaussian spot, sigma 2 px, to the right of the centre."""
    y, x = np.mgrid[:64, :64] - 31.5
    spot = 2 * np.exp(-((x - right_px) ** 2 + y**2) / 8) - 1
    return torch.from_numpy(spot.astype(np.float32)).expand(count, 1, 64, 64)


def centres(images: torch.Tensor) -> np.ndarray:
    """[B, 2] px right of and below the centre: where the light is."""
    light = (images[:, 0].double().numpy() + 1) / 2
    y, x = np.mgrid[:64, :64] - 31.5
    return np.stack([(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in (x, y)], 1)


def to_degrees(at: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(-at[:, 1], at[:, 0]))


MEASURES: dict[str, tuple[AugmentConfig, float, float, Callable[[np.ndarray], np.ndarray]]] = {
    "degrees": (AugmentConfig(rotate_degrees=7), 16, 7, to_degrees),
    "right": (AugmentConfig(shift=0.1), 0, 6.4, lambda at: at[:, 0]),
    "down": (AugmentConfig(shift=0.1), 0, 6.4, lambda at: at[:, 1]),
    "distance": (AugmentConfig(zoom=0.25), 16, 4, lambda at: np.hypot(*at.T) - 16),
}


@pytest.mark.parametrize("name", MEASURES)
def test_amounts_fill_their_bounds_evenly(name: str) -> None:
    """Seen in the images themselves, over 512 positions; the four drawn numbers do not move together."""
    config, right_px, bound, measure = MEASURES[name]
    count = 512
    found = measure(centres(augment(blob(count, right_px), config, drawn(range(count), 0))))
    column = list(MEASURES).index(name)
    assert np.abs(found).max() <= bound * 1.001
    assert found.min() < -0.98 * bound and found.max() > 0.98 * bound
    assert np.allclose(found, bound * amounts(range(count))[:, column], atol=0.01 * bound)
    counts = np.histogram(found, 4, (-bound, bound))[0]
    assert counts.min() > 100  # 128 expected


def test_flips_come_only_when_asked_and_then_to_half() -> None:
    images, positions = noise(1, 4, 4).expand(1000, 1, 4, 4), range(1000)
    found = augment(images, AugmentConfig(flip=True), drawn(positions, 0))
    mirrored = (found == images.flip(-1)).flatten(1).all(1)
    kept = (found == images).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    assert torch.equal(mirrored, torch.from_numpy(amounts(positions)[:, 6] < 0))
    assert abs(int(mirrored.sum()) - 500) < 60
    # A ramp from left to right stays one, however strong all the rest is.
    ramp = torch.linspace(-0.5, 0.5, 16).expand(1000, 1, 16, 16)
    strong = AugmentConfig(rotate_degrees=45, shift=0.1, zoom=0.5, brightness=0.2, contrast=0.5)
    inner = augment(ramp, strong, drawn(positions, 0))[:, 0, 6:10, 6:10]
    assert bool((inner[..., -1].mean(1) > inner[..., 0].mean(1)).all())


# ---- whose amounts


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("first", [0, 104])
def test_ranks_and_starts_change_nothing(world_size: int, first: int) -> None:
    """A batch of 8 at once; split in contiguous parts; split with a step, as ranks may share it."""
    images, seed = noise(8), 5
    whole = augment(images, EVERYTHING, drawn(range(first, first + 8), seed))
    size = 8 // world_size
    for rank in range(world_size):
        mine = slice(rank * size, (rank + 1) * size)
        positions = range(first + mine.start, first + mine.stop)
        assert torch.equal(augment(images[mine], EVERYTHING, drawn(positions, seed)), whole[mine])
        positions = range(first + rank, first + 8, world_size)
        found = augment(images[rank::world_size], EVERYTHING, drawn(positions, seed))
        assert torch.equal(found, whole[rank::world_size])


def test_epochs_positions_and_seeds_differ() -> None:
    one = noise(1)
    epoch_images = 20
    images = one.expand(epoch_images, 1, 16, 16)
    first = augment(images, EVERYTHING, drawn(range(epoch_images), 0))
    second = augment(images, EVERYTHING, drawn(range(epoch_images, 2 * epoch_images), 0))
    other = augment(images, EVERYTHING, drawn(range(epoch_images), 1))
    everything = torch.cat([first, second, other]).flatten(1)
    assert len(everything.unique(dim=0)) == 3 * epoch_images


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    images = noise(4, 64, 64)
    plain = augment(images, EVERYTHING, drawn(range(4), 0))
    with torch.autocast("cpu", dtype):
        under = augment(images, EVERYTHING, drawn(range(4), 0))
    assert under.dtype == torch.float32 and torch.equal(under, plain)


# ---- options


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--augment.rotate_degrees=46", "--augment.rotate-degrees: must be from 0 to 45, not 46.0"),
        ("--augment.shift=-0.1", "--augment.shift: must be from 0 to 0.5, not -0.1"),
        ("--augment.zoom=1", "--augment.zoom: must be from 0 to 0.5, not 1.0"),
        ("--augment.brightness=0.6", "--augment.brightness: must be from 0 to 0.5, not 0.6"),
        ("--augment.contrast=0.51", "--augment.contrast: must be from 0 to 0.5, not 0.51"),
    ],
)
def test_an_amount_out_of_bounds_is_refused(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(ClsConfig, [word], prog="train_cls.py", example="")
    assert str(caught.value) == message


def test_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"shift: must be from 0 to 0\.5, not nan"):
        AugmentConfig(shift=float("nan"))


def test_the_preset_is_mild_and_lies_over_another() -> None:
    files = ["--config", "configs/cls/px64.yaml", "--config", "configs/cls/augment.yaml"]
    config = parse(ClsConfig, [*files, "--augment.zoom", "0"], prog="train_cls.py", example="")
    assert config.widths == (16, 32, 64)
    values = load_yaml(CLONE / "configs/cls/augment.yaml")["augment"]
    assert config.augment == AugmentConfig(**values | {"zoom": 0})
    assert not config.augment.flip and config.augment.rotate_degrees <= 7
