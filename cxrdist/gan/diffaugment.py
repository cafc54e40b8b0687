"""DiffAugment (Zhao et al. 2020): real and generated images changed alike before D sees them, so that D cannot learn
a small training set by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxrdist.errors import UserError
from cxrdist.seeds import uniform

_LIMITS = {"translation": 0.5, "brightness": 0.5, "contrast": 0.5, "cutout": 0.75}


@dataclass(frozen=True, kw_only=True)
class DiffAugmentConfig:
    """How far every image is changed before D sees it, uniformly up to so much either way; 0 is off. There are no
    flips: the heart is on the left."""

    translation: float = 0.0
    """Shift along each axis as a fraction of the side, 0 to 0.5; black comes in."""
    brightness: float = 0.0
    """Add this fraction of the range from black to white, 0 to 0.5."""
    contrast: float = 0.0
    """Stretch grey values about mid-grey by this fraction, 0 to 0.5."""
    cutout: float = 0.0
    """Side of a black square as a fraction of the image's side, 0 to 0.75. Off in every preset: a black square over
    a lung is no radiograph."""

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise UserError(f"{name} {value}: from 0 to {limit}")


def diffaugment(images: Tensor, config: DiffAugmentConfig, *, seed: int, positions: range) -> Tensor:
    """[B, 1, H, W] float in about [-1, 1] -> the same, each image changed by random amounts, differentiably.

    Image i's amounts are a function of (seed, positions[i]) alone. Contrast and brightness come first, so that what
    a shift brings in is black in every image; shifts are whole pixels, so that nothing is blurred. Grey values
    are not clamped: G would get no gradient from the pixels beyond. With everything off the input is returned.
    """
    if config == DiffAugmentConfig():
        return images
    height, width = images.shape[-2:]
    drawn = uniform(seed, "diffaugment", positions, 8).astype(np.float64)
    contrast, brightness, right, down, centre_x, centre_y, _, _ = drawn.T  # each [B] in [-1, 1)
    if config.contrast or config.brightness:
        images = images * _per_image(1 + config.contrast * contrast, images, images.dtype)
        images = images + _per_image(2 * config.brightness * brightness, images, images.dtype)
    if config.translation:
        images = shift(
            images,
            right_px=np.rint(config.translation * width * right),
            down_px=np.rint(config.translation * height * down),
        )
    if config.cutout:
        side = round(config.cutout * height), round(config.cutout * width)
        images = cut_out(
            images,
            top_px=np.floor((centre_y + 1) / 2 * height) - side[0] // 2,
            left_px=np.floor((centre_x + 1) / 2 * width) - side[1] // 2,
            side_px=side,
        )
    return images


def shift(images: Tensor, *, right_px: np.ndarray, down_px: np.ndarray) -> Tensor:
    """[B, 1, H, W], each image moved by whole pixels [B]; black comes in."""
    height, width = images.shape[-2:]
    rows, columns = _coordinates(images)
    rows = rows - _per_image(down_px, images, torch.int64)  # [B, 1, H, 1], where each pixel comes from
    columns = columns - _per_image(right_px, images, torch.int64)  # [B, 1, 1, W]
    # Around the edges, so that each pixel goes to one place: the gradient then is a permutation, the same each time.
    source = (rows % height) * width + columns % width  # [B, 1, H, W]
    moved = images.flatten(2).gather(2, source.flatten(2)).view_as(images)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, moved, -1.0)


def cut_out(images: Tensor, *, top_px: np.ndarray, left_px: np.ndarray, side_px: tuple[int, int]) -> Tensor:
    """[B, 1, H, W], in each a black rectangle of ``side_px`` (rows, columns) from (top, left) [B] on, which may
    reach over the edges."""
    rows, columns = _coordinates(images)
    rows = rows - _per_image(top_px, images, torch.int64)
    columns = columns - _per_image(left_px, images, torch.int64)
    cut = (rows >= 0) & (rows < side_px[0]) & (columns >= 0) & (columns < side_px[1])
    return torch.where(cut, -1.0, images)


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row [H, 1] and column [W] numbers."""
    height, width = images.shape[-2:]
    return torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)


def _per_image(values: np.ndarray, images: Tensor, dtype: torch.dtype) -> Tensor:
    """[B] -> [B, 1, 1, 1] beside the images."""
    return torch.from_numpy(values)[:, None, None, None].to(images.device, dtype)
