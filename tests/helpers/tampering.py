"""Images [n, H, W] uint8, tampered with: copies that should still count as copies, and damages of each kind."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Change = Callable[[np.ndarray], np.ndarray]


def grey(values: np.ndarray) -> np.ndarray:
    """Rounded to uint8."""
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


# ---- copies


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """The edge is repeated."""
    wide = np.pad(images, ((0, 0), (8, 8), (8, 8)), mode="edge")
    return np.roll(wide, (down, right), (1, 2))[:, 8:-8, 8:-8]


def zoomed(images: np.ndarray, factor: float) -> np.ndarray:
    size = images.shape[1]
    margin = size // 8
    side = size / factor
    start = margin + (size - side) / 2
    box = (start, start, start + side, start + side)
    wide = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    return np.stack(
        [
            np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))
            for image in wide
        ]
    )


def brightened(images: np.ndarray) -> np.ndarray:
    return grey(images.astype(float) + 20)


def gamma(images: np.ndarray) -> np.ndarray:
    return grey(255 * (images / 255) ** 0.8)


def contrasted(images: np.ndarray) -> np.ndarray:
    mean = images.mean((1, 2), keepdims=True)
    return grey(mean + 1.2 * (images - mean))


def jpeg(images: np.ndarray, quality: int = 60) -> np.ndarray:
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        found.append(np.array(Image.open(file)))
    return np.stack(found)


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


COPIES: Mapping[str, Change] = {
    "exact": lambda images: images,
    **{
        f"shifted by {down}, {right} px": partial(shifted, down=down, right=right)
        for down in (-3, 0, 3)
        for right in (-3, 0, 3)
        if down or right
    },
    "brightened": brightened,
    "gamma 0.8": gamma,
    "contrast 1.2": contrasted,
    "JPEG 60": jpeg,
    "zoomed in": lambda images: zoomed(images, 1.05),
    "zoomed out": lambda images: zoomed(images, 1 / 1.05),
    "shifted, brightened, JPEG 60": lambda images: jpeg(brightened(shifted(images, 2, -2))),
    "mirrored": mirrored,
    "mirrored, shifted, JPEG 60": lambda images: jpeg(shifted(mirrored(images), -2, 2)),
}

# ---- damages


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return grey(gaussian_filter(images.astype(float), (0, sigma, sigma)))


def streaked(images: np.ndarray, axis: int) -> np.ndarray:
    """Lines of 8 grey values more, and between them of 8 less, each every 4 px."""
    wave = np.tile([8, 0, -8, 0], images.shape[1] // 4)
    return grey(images + (wave[:, None] if axis == 1 else wave))


def checkered(images: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(images.shape[1:])
    return grey(images + np.where((rows + columns) % 2, 6, -6))


def noisy(images: np.ndarray) -> np.ndarray:
    return grey(images + np.random.default_rng(0).normal(0, 12, images.shape))


def peppered(images: np.ndarray) -> np.ndarray:
    """1 % of the pixels white and 1 % black."""
    draw = np.random.default_rng(0).random(images.shape)
    return np.where(draw < 0.01, 0, np.where(draw > 0.99, 255, images)).astype(np.uint8)


def flat(images: np.ndarray, value: int) -> np.ndarray:
    return np.full_like(images, value)


def ramp(images: np.ndarray, axis: int) -> np.ndarray:
    values = grey(np.linspace(0, 255, images.shape[1]))
    return np.broadcast_to(values[:, None] if axis == 1 else values, images.shape)


def half_black(images: np.ndarray) -> np.ndarray:
    found = images.copy()
    found[:, :, images.shape[2] // 2 :] = 0
    return found


def lined(images: np.ndarray) -> np.ndarray:
    """A white column, at another place in each image."""
    found = images.copy()
    found[np.arange(len(images)), :, 4 + np.arange(len(images)) * 7 % (images.shape[2] - 8)] = 255
    return found


def digits(images: np.ndarray) -> np.ndarray:
    draw = np.random.default_rng(0)
    found = []
    for image in images:
        page = Image.new("L", image.shape[::-1], int(draw.integers(0, 80)))
        for top in range(0, image.shape[0], 12):
            ImageDraw.Draw(page).text((2, top), "".join(draw.choice([*"0123456789"], 10)), fill=230)
        found.append(np.array(page))
    return np.stack(found)


def scrambled(images: np.ndarray) -> np.ndarray:
    """Noise with each image's own histogram."""
    pixels = images.reshape(len(images), -1)
    return np.random.default_rng(0).permuted(pixels, axis=1).reshape(images.shape)


def averaged(images: np.ndarray) -> np.ndarray:
    """Each with the next one but one: of another patient."""
    return grey((images.astype(float) + np.roll(images, 2, 0)) / 2)


DAMAGES: Mapping[str, Change] = {
    "blurred 1.5 px": lambda images: blurred(images, 1.5),
    "blurred 3 px": lambda images: blurred(images, 3),
    "streaks across": lambda images: streaked(images, 1),
    "streaks down": lambda images: streaked(images, 2),
    "checkerboard": checkered,
    "noise": noisy,
    "salt and pepper": peppered,
    "black": lambda images: flat(images, 0),
    "grey": lambda images: flat(images, 128),
    "white": lambda images: flat(images, 255),
    "ramp down": lambda images: ramp(images, 1),
    "ramp across": lambda images: ramp(images, 2),
    "half black": half_black,
    "white column": lined,
    "digits": digits,
    "scrambled": scrambled,
}
