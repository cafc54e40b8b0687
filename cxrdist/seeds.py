"""Random numbers as a function of what they are for: of (seed, purpose, position), never of a rank or of what
was drawn before. So a resumed run is the run that was not interrupted, and two ranks are one."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *words: str | int) -> int:
    """A seed in [0, 2^63) of its own for each purpose."""
    return int.from_bytes(_hash(seed, words)[:8], "little") >> 1


def philox(seed: int, *words: str | int, counter: int = 0) -> np.random.Philox:
    """Random numbers as a function of what they are for (Philox4x64: counter-based, so any part of the stream
    can be had without the part before it)."""
    return np.random.Philox(key=np.frombuffer(_hash(seed, words), "<u8"), counter=counter)


def uniform(seed: int, purpose: str, start: int, stop: int, width: int) -> np.ndarray:
    """[stop - start, width] float32 in [-1, 1): row p depends on (seed, purpose, p) alone, whoever asks."""
    if width % 4:
        raise ValueError(f"width {width}: a multiple of 4 (Philox gives four numbers per count)")
    raw = philox(seed, purpose, counter=start * (width // 4)).random_raw((stop - start) * width)
    return ((raw >> np.uint64(40)) * 2.0**-23 - 1).astype(np.float32).reshape(stop - start, width)


def _hash(seed: int, words: tuple[str | int, ...]) -> bytes:
    text = "\0".join([str(seed), *map(str, words)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
