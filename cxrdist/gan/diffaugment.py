"""DiffAugment (Zhao et al. 2020): the same random augmentation of real and generated images before D sees them, so
that D does not memorize a small training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cxrdist.errors import OptionError

AMOUNTS = 8
"""Random numbers that the augmentation of an image takes."""
_LIMITS = {"translation": 0.5, "brightness": 0.5, "contrast": 0.5, "cutout": 0.75}


@dataclass(frozen=True, kw_only=True)
class DiffAugmentConfig:
    """Maximum amounts of the augmentation; each amount is drawn uniformly from minus to plus this value. 0: off.

    There are no flips, since the heart is on the left.
    """

    translation: float = 0.0
    """Shift along each axis, as a fraction of the side, 0 to 0.5; filled with black."""
    brightness: float = 0.0
    """Offset of the grey values, as a fraction of the range from black to white, 0 to 0.5."""
    contrast: float = 0.0
    """Relative change of the contrast about mid-grey, 0 to 0.5."""
    cutout: float = 0.0
    """Side of a black square, as a fraction of the image's side, 0 to 0.75. Off in every preset, since no radiograph
    has one."""
    probability: float = 1.0
    """Fraction of the images that are augmented, 0 to 1; D sees the others as they are."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise OptionError("probability", f"must be from 0 to 1, not {self.probability}")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise OptionError(name, f"must be from 0 to {limit}, not {value}")


def diffaugment(images: Tensor, config: DiffAugmentConfig, amounts: Tensor) -> Tensor:
    """[B, 1, H, W] float in about [-1, 1] -> the same shape, each image augmented by random amounts, differentiably.

    ``amounts``: [B, AMOUNTS] float32 uniform in [-1, 1), on the device of the images. Contrast and brightness come
    first, so that a shift fills with black in every image; shifts are whole pixels, so that they do not blur. Grey
    values are not clamped, since G would get no gradient from clamped pixels. Returns the input if everything is off.
    """
    if not (config.contrast or config.brightness or config.translation or config.cutout):
        return images
    height, width = images.shape[-2:]
    # each [B] in [-1, 1)
    contrast, brightness, right, down, centre_x, centre_y, chance, _ = amounts.unbind(1)
    originals = images
    if config.contrast or config.brightness:
        images = images * _per_image(1 + config.contrast * contrast, images.dtype)
        images = images + _per_image(2 * config.brightness * brightness, images.dtype)
    if config.translation:
        images = shift(
            images,
            right_px=(config.translation * width * right).round(),
            down_px=(config.translation * height * down).round(),
        )
    if config.cutout:
        side = round(config.cutout * height), round(config.cutout * width)
        images = cut_out(
            images,
            top_px=((centre_y + 1) / 2 * height).floor() - side[0] // 2,
            left_px=((centre_x + 1) / 2 * width).floor() - side[1] // 2,
            side_px=side,
        )
    if config.probability < 1:
        is_augmented = (chance + 1) / 2 < config.probability  # [B]
        images = torch.where(is_augmented[:, None, None, None], images, originals)
    return images


def shift(images: Tensor, *, right_px: Tensor, down_px: Tensor) -> Tensor:
    """Shift images [B, 1, H, W] by whole pixels [B]; filled with black."""
    height, width = images.shape[-2:]
    rows, columns = _coordinates(images)
    rows = rows - _per_image(down_px, torch.int64)  # [B, 1, H, 1], where each pixel comes from
    columns = columns - _per_image(right_px, torch.int64)  # [B, 1, 1, W]
    # Modulo, so that every pixel is read exactly once: the gradient is then a permutation, which is deterministic.
    source = (rows % height) * width + columns % width  # [B, 1, H, W]
    moved = images.flatten(2).gather(2, source.flatten(2)).view_as(images)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, moved, -1.0)


def cut_out(images: Tensor, *, top_px: Tensor, left_px: Tensor, side_px: tuple[int, int]) -> Tensor:
    """Blacken a rectangle of ``side_px`` (rows, columns) at (top, left) [B] in images [B, 1, H, W]; it may extend
    beyond the edges."""
    rows, columns = _coordinates(images)
    rows = rows - _per_image(top_px, torch.int64)
    columns = columns - _per_image(left_px, torch.int64)
    cut = (rows >= 0) & (rows < side_px[0]) & (columns >= 0) & (columns < side_px[1])
    return torch.where(cut, -1.0, images)


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row indices [H, 1] and column indices [W]."""
    height, width = images.shape[-2:]
    return torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)


def _per_image(values: Tensor, dtype: torch.dtype) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values[:, None, None, None].to(dtype)
