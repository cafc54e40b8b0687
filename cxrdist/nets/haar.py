"""The orthonormal Haar transform of one level: an image as four bands at half its resolution, and back.

Both nets of the conditional GAN begin or end in it, so that all wide layers work at half resolution, and the finest
details are a choice of G's last layer rather than the sum of a transposed convolution's overlapping windows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


def haar(images: Tensor) -> Tensor:
    """Images [B, 1, 2h, 2w] -> bands [B, 4, h, w]: mean (times 2), and horizontal, vertical and diagonal detail."""
    return _mixed(pixel_unshuffle(images, 2))


def inverse_haar(bands: Tensor) -> Tensor:
    """Bands [B, 4, h, w] -> images [B, 1, 2h, 2w]: the inverse, and the transpose, of ``haar``."""
    return pixel_shuffle(_mixed(bands), 2)


def _mixed(four: Tensor) -> Tensor:
    """[B, 4, h, w] times the 4x4 Hadamard matrix over 2, which is symmetric and its own inverse.

    By sums rather than a matrix product, which autocast would compute in bf16.
    """
    a, b, c, d = four.unbind(1)
    left, right, difference, other = a + b, c + d, a - b, c - d
    return torch.stack((left + right, difference + other, left - right, difference - other), dim=1) / 2
