"""Random numbers as functions of (seed, position, column), computed on any device without state.

The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), in
int64 arithmetic, which is exact on every device. Drawing on the device needs no copy from the host, for which a GPU
would wait.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
MASK = 0xFFFFFFFF
MAX_PAIRS = 1 << 16
MAX_POSITION = 1 << 48


def positions_on(positions: range, device: torch.device) -> Tensor:
    """A range of positions as [n] int64, made on the device."""
    return torch.arange(positions.start, positions.stop, positions.step, device=device)


def threefry(key: tuple[int, int], first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of counters (first, second), int64 tensors of one shape with values in [0, 2^32), under a key
    of two such integers. Returns two tensors of random integers in [0, 2^32)."""
    keys = (key[0], key[1], PARITY ^ key[0] ^ key[1])
    x, y = (first + keys[0]) & MASK, (second + keys[1]) & MASK
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x = (x + y) & MASK
            y = (((y << rotation) | (y >> (32 - rotation))) & MASK) ^ x
        x = (x + keys[(block + 1) % 3]) & MASK
        y = (y + keys[(block + 2) % 3] + block + 1) & MASK
    return x, y


def bits(seed: int, positions: Tensor, width: int) -> Tensor:
    """[n] int64 positions in [0, 2^48) -> [n, width] int64 in [0, 2^32): row i is a function of (seed, positions[i]).

    ``seed``: an integer in [0, 2^64), usually of ``cxrdist.seeds.derive``. ``width``: even, at most 2^17.
    """
    if width % 2 or not 0 < width <= 2 * MAX_PAIRS:
        raise ValueError(f"width {width}: must be even, and from 2 to {2 * MAX_PAIRS}")
    pairs = torch.arange(width // 2, device=positions.device)
    low = positions & MASK
    high = (positions >> 32) << 16
    shape = (len(positions), width // 2)
    first = low[:, None].expand(shape)
    second = high[:, None] + pairs
    return torch.stack(threefry((seed & MASK, seed >> 32), first, second), dim=2).flatten(1)


def to_uniform(drawn: Tensor) -> Tensor:
    """Random integers in [0, 2^32) -> float32 uniform in [-1, 1), on a grid of 2^-23: equal bits on every device."""
    return (drawn >> 8).float() * 2.0**-23 - 1


def to_normal(drawn: Tensor) -> Tensor:
    """Random integers [n, 2 m] in [0, 2^32) -> float32 [n, 2 m] ~ N(0, 1), by Box and Muller (1958). The last bits of
    the logarithm and the cosine may differ between devices."""
    first, second = drawn.unflatten(1, (-1, 2)).unbind(2)
    radius = (-2 * (((first >> 8) + 1).float() * 2.0**-24).log()).sqrt()  # of a uniform number in (0, 1]
    angle = (second >> 8).float() * (2 * math.pi * 2.0**-24)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)


def uniform(seed: int, positions: Tensor, width: int) -> Tensor:
    """[n] int64 -> [n, width] float32 uniform in [-1, 1); see ``bits``."""
    return to_uniform(bits(seed, positions, width))


def normal(seed: int, positions: Tensor, width: int) -> Tensor:
    """[n] int64 -> [n, width] float32 ~ N(0, 1); see ``bits``."""
    return to_normal(bits(seed, positions, width))
