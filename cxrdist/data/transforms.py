"""On the device: uint8 images to floats, and back."""

from __future__ import annotations

import torch


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W] uint8 -> float32 in [-1, 1], the range of the generator's tanh."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W] float in [-1, 1] -> uint8, rounded to nearest."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
