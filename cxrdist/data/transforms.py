"""On the device: uint8 images to floats, and back; the classical augmentations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

from cxrdist.errors import OptionError
from cxrdist.seeds import uniform

_LIMITS = {"rotate_degrees": 45, "shift": 0.5, "zoom": 0.5, "brightness": 0.5, "contrast": 0.5}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far each training image may be moved and its grey values changed, uniformly up to so much either way.

    0 is off, and everything is off by default. configs/cls/augment.yaml holds mild values.
    """

    rotate_degrees: float = 0.0
    """Rotation about the centre, 0 to 45 degrees."""
    shift: float = 0.0
    """Shift along each axis as a fraction of the side, 0 to 0.5."""
    zoom: float = 0.0
    """Enlarge or shrink by this fraction, 0 to 0.5."""
    brightness: float = 0.0
    """Add this fraction of the range from black to white (window level), 0 to 0.5."""
    contrast: float = 0.0
    """Stretch grey values about mid-grey by this fraction (window width), 0 to 0.5."""
    flip: bool = False
    """Mirror half of the images. Leave it off: the heart is on the left, and mirrored it is dextrocardia."""

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise OptionError(name, f"must be from 0 to {limit}, not {value}")


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W] uint8 -> float32 in [-1, 1], the range of the generator's tanh."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W] float in [-1, 1] -> uint8, rounded to nearest."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def augment(images: torch.Tensor, config: AugmentConfig, *, seed: int, positions: range) -> torch.Tensor:
    """[B, 1, H, W] float32 in [-1, 1] -> the same, each image changed by random amounts, on its own device.

    Image i's amounts are a function of (seed, positions[i]) alone. A position of the endless order names its
    epoch too, so they are new ones each epoch, and the same ones on any number of ranks and after a resume.
    With everything off the input itself is returned.

    The geometry is that of torchvision's RandomAffine. Brightness and contrast are a window's level and width
    (DICOM PS3.3 C.11.2), about mid-grey and not, as in ColorJitter, about the mean, which black bars pull down.
    """
    if config == AugmentConfig():
        return images
    drawn = uniform(seed, "augment", positions, 8).astype(np.float64)
    turn, right, down, zoom, contrast, brightness, mirror, _ = drawn.T  # each [B] in [-1, 1)
    if config.flip:
        images = torch.where(_per_image(mirror < 0, images), images.flip(-1), images)
    if config.rotate_degrees or config.shift or config.zoom:
        height, width = images.shape[-2:]
        images = affine(
            images,
            degrees=config.rotate_degrees * turn,
            right_px=config.shift * width * right,
            down_px=config.shift * height * down,
            scale=1 + config.zoom * zoom,
        )
    # After the geometry, so that the bars a film came with and the black around it stay one grey.
    images = images * _per_image(1 + config.contrast * contrast, images)
    images = images + _per_image(2 * config.brightness * brightness, images)
    return images.clamp(-1, 1)


def affine(
    images: torch.Tensor, *, degrees: np.ndarray, right_px: np.ndarray, down_px: np.ndarray, scale: np.ndarray
) -> torch.Tensor:
    """[B, 1, H, W] float32 in [-1, 1], each image scaled and turned counter-clockwise about its centre, then
    moved; bilinear. Amounts are [B] float64."""
    height, width = images.shape[-2:]
    cosine, sine = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    c, s = _per_image(cosine, images)[:, 0], _per_image(sine, images)[:, 0]  # [B, 1, 1]
    x0 = _per_image(cosine * right_px - sine * down_px, images)[:, 0]
    y0 = _per_image(sine * right_px + cosine * down_px, images)[:, 0]
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # [W], pixels from the centre
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # [H, 1]
    # Not affine_grid: its matrix product is rounded to TF32 or bf16 where those are allowed.
    from_x = (c * x - x0) * (2 / width) - s * y * (2 / width)  # [B, H, W], where each output pixel comes from
    from_y = (s * x - y0) * (2 / height) + c * y * (2 / height)
    grid = torch.stack((from_x, from_y), dim=-1)
    # Zeros of images + 1 are black: what lies beyond the edge of a scanned film, or of its collimated field.
    # Repeating the border would draw tissue out into streaks, and reflecting it would show ribs that are not.
    return grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1


def _per_image(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, 1, 1] beside the images, bool or float32."""
    values = values if values.dtype == bool else values.astype(np.float32)
    return torch.from_numpy(values)[:, None, None, None].to(images.device)
