"""Draw images from a generator, and save them as a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cxrdist.data.transforms import to_uint8
from cxrdist.files import atomic_writer

GRID_SIDE = 6
GAP_PX = 2


@torch.no_grad()
def generate(generator: nn.Module, z: torch.Tensor, label: int) -> np.ndarray:
    """z [n, z_dim] float32, on the generator's device -> images [n, H, W] uint8 of one class. ``label``: its index
    among the generator's classes.

    Uses the running statistics of BatchNorm, so that an image depends on its own z alone.
    """
    was_training = generator.training
    generator.eval()
    images = to_uint8(generator(z, torch.full((len(z),), label, device=z.device)))
    generator.train(was_training)
    return images[:, 0].cpu().numpy()


def save_grid(path: Path, images: np.ndarray, columns: int = GRID_SIDE) -> None:
    """Save images [n, H, W] uint8 as one PNG with ``columns`` images per row."""
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP_PX), i % columns * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = image
    with atomic_writer(path) as file:
        Image.fromarray(sheet).save(file, "PNG")
