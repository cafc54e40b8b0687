"""Transforms on the device: uint8 images to floats and back, and the classical augmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import grid_sample

from cxrdist.errors import OptionError

Fill = Literal["black", "reflection"]
"""What a moved image shows where it has no pixels. ``black``, for classifiers: like the area outside a film or its
collimated field; a reflection would show ribs that do not exist. ``reflection``, for GANs: G would learn to draw the
black frame."""
AUGMENT_AMOUNTS = 8
"""Random numbers that the augmentation of an image takes."""
_LIMITS = {"rotate_degrees": 45, "shift": 0.5, "zoom": 0.5, "brightness": 0.5, "contrast": 0.5}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Limits of the random changes to each training image, drawn uniformly from both directions.

    0 turns a change off, and all are off by default. configs/cls/augment.yaml has mild values.
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
def augment(
    images: torch.Tensor, config: AugmentConfig, amounts: torch.Tensor, fill: Fill = "black"
) -> torch.Tensor:
    """[B, 1, H, W] float32 in [-1, 1] -> the same, each image changed by random amounts, on the images' device.

    ``amounts``: [B, AUGMENT_AMOUNTS] float32, uniform in [-1, 1), on the same device. Drawn as a function of (seed,
    position), they change with each epoch, and are the same on any number of ranks and after a resume. If everything
    is off, the input itself is returned.

    The geometry is that of torchvision's RandomAffine. Brightness and contrast are a window's level and width
    (DICOM PS3.3 C.11.2), about mid-grey rather than about the mean as in ColorJitter: black bars lower the mean.
    """
    if config == AugmentConfig():
        return images
    turn, right, down, zoom, contrast, brightness, mirror, _ = amounts.double().unbind(1)  # each [B]
    if config.flip:
        images = torch.where(_per_image(mirror < 0), images.flip(-1), images)
    if config.rotate_degrees or config.shift or config.zoom:
        height, width = images.shape[-2:]
        images = affine(
            images,
            degrees=config.rotate_degrees * turn,
            right_px=config.shift * width * right,
            down_px=config.shift * height * down,
            scale=1 + config.zoom * zoom,
            fill=fill,
        )
    # After the geometry, so that the image's own black bars and the black around it keep the same grey value.
    images = images * _per_image(1 + config.contrast * contrast)
    images = images + _per_image(2 * config.brightness * brightness)
    return images.clamp(-1, 1)


def affine(
    images: torch.Tensor,
    *,
    degrees: torch.Tensor,
    right_px: torch.Tensor,
    down_px: torch.Tensor,
    scale: torch.Tensor,
    fill: Fill = "black",
) -> torch.Tensor:
    """[B, 1, H, W] float32 in [-1, 1] -> the same, each image scaled and rotated counter-clockwise about its centre,
    then shifted, with bilinear interpolation. Amounts are [B] float64."""
    height, width = images.shape[-2:]
    radians = torch.deg2rad(degrees)
    cosine, sine = radians.cos() / scale, radians.sin() / scale
    c, s = _per_image(cosine)[:, 0], _per_image(sine)[:, 0]  # [B, 1, 1]
    x0 = _per_image(cosine * right_px - sine * down_px)[:, 0]
    y0 = _per_image(sine * right_px + cosine * down_px)[:, 0]
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # [W], pixels from the centre
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # [H, 1]
    # Not affine_grid: its matrix product is rounded to TF32 or bf16 where those are allowed.
    from_x = (c * x - x0) * (2 / width) - s * y * (2 / width)  # [B, H, W], source of each output pixel
    from_y = (s * x - y0) * (2 / height) + c * y * (2 / height)
    grid = torch.stack((from_x, from_y), dim=-1)
    # Zeros of images + 1 are black.
    padding = {"black": "zeros", "reflection": "reflection"}[fill]
    return grid_sample(images + 1, grid, mode="bilinear", padding_mode=padding, align_corners=False) - 1


def _per_image(values: torch.Tensor) -> torch.Tensor:
    """[B] float64 or bool -> [B, 1, 1, 1] float32 or bool."""
    return values[:, None, None, None].to(torch.bool if values.dtype == torch.bool else torch.float32)
