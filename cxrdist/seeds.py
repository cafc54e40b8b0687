"""Random numbers as a function of what they are for: of (seed, purpose, position), never of a rank or of what
was drawn before. So a resumed run is the run that was not interrupted, and two ranks are one."""

from __future__ import annotations

import hashlib

import numpy as np

# Many enough that keying Philox for each block costs little, few enough that a large step generates no waste.
BLOCK_NUMBERS = 2**14


def derive(seed: int, *words: str | int) -> int:
    """A seed in [0, 2^63) of its own for each purpose."""
    return int.from_bytes(_hash(seed, words)[:8], "little") >> 1


def philox(seed: int, *words: str | int, counter: int = 0) -> np.random.Philox:
    """Random numbers as a function of what they are for (Philox4x64: counter-based, so any part of the stream
    can be had without the part before it)."""
    return np.random.Philox(key=np.frombuffer(_hash(seed, words), "<u8"), counter=counter)


def uniform(seed: int, purpose: str, positions: range, width: int) -> np.ndarray:
    """[len(positions), width] float32 in [-1, 1): the row of position p depends on (seed, purpose, p) alone,
    whoever asks.

    Where positions have a step, the rows between them are generated too and dropped, a block at a time.
    """
    if width % 4:
        raise ValueError(f"width {width}: a multiple of 4 (Philox gives four numbers per count)")
    if positions.step < 1:
        raise ValueError(f"{positions}: a step of 1 or more")
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
    """[length] int64: a random order of 0 ... length - 1. numpy may change its algorithm with a version (NEP 19)."""
    return np.random.Generator(philox(seed, *words)).permutation(length)


def _hash(seed: int, words: tuple[str | int, ...]) -> bytes:
    text = "\0".join([str(seed), *map(str, words)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
