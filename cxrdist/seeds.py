"""Random numbers as functions of (seed, purpose, position), never of a rank or of earlier draws.

So a resumed run gives the same results as an uninterrupted one, and two ranks the same as one.
"""

from __future__ import annotations

import hashlib

import numpy as np

# Large enough that the setup of a Philox generator per block costs little, and small enough to generate few unused
# numbers if positions have a large step.
BLOCK_NUMBERS = 2**14


def derive(seed: int, *words: str | int) -> int:
    """The seed of a purpose, in [0, 2^63): a hash of (seed, words)."""
    return int.from_bytes(_hash(seed, words)[:8], "little") >> 1


def philox(seed: int, *words: str | int, counter: int = 0) -> np.random.Philox:
    """The generator of a purpose, keyed by a hash of (seed, words). Philox4x64 is counter-based: the stream can start
    at any ``counter`` (blocks of four uint64) without generating the numbers before it."""
    return np.random.Philox(key=np.frombuffer(_hash(seed, words), "<u8"), counter=counter)


def uniform(seed: int, purpose: str, positions: range, width: int) -> np.ndarray:
    """[len(positions), width] float32 in [-1, 1): the row of position p is a function of (seed, purpose, p) alone.

    ``width`` must be a multiple of 4. If positions have a step, the rows between them are generated too and dropped,
    a block at a time.
    """
    if width % 4:
        raise ValueError(f"width {width}: must be a multiple of 4 (Philox generates four numbers per count)")
    if positions.step < 1:
        raise ValueError(f"{positions}: the step must be 1 or more")
    rows = np.empty((len(positions), width), np.float32)
    block = max(1, BLOCK_NUMBERS // (positions.step * width))
    for first in range(0, len(positions), block):
        some = positions[first : first + block]
        count = some[-1] - some[0] + 1
        raw = philox(seed, purpose, counter=some[0] * (width // 4)).random_raw(count * width)
        wanted = raw.reshape(count, width)[:: some.step]
        rows[first : first + block] = (wanted >> np.uint64(40)) * 2.0**-23 - 1
    return rows


def permutation(seed: int, *words: str | int, length: int) -> np.ndarray:
    """[length] int64: a random order of 0 ... length - 1. NumPy may change the algorithm in a new version (NEP
    19)."""
    return np.random.Generator(philox(seed, *words)).permutation(length)


def _hash(seed: int, words: tuple[str | int, ...]) -> bytes:
    text = "\0".join([str(seed), *map(str, words)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
