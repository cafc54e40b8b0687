"""How many bits the pixels of a DICOM file have, where the header and the pixels contradict each other."""

from __future__ import annotations

import numpy as np

LESS_ROUGH = 0.9
"""Of the roughness without the further bits: with them it has to be less, clearly."""
LEAST_VALUES = 16
"""With further bits. Marks, such as letters or a frame, have one value or two."""


def has_more_bits(words: np.ndarray, fewer: int, more: int, is_signed: bool) -> bool:
    """Whether the bits above the lower ``fewer`` of ``words`` [H, W] uint16 belong to the pixels, ``more`` in all.

    If they do, cutting them off makes values wrap, so that neighbours differ more. If they are something else, an
    overlay or left-overs, neighbours differ more with them.
    """
    if len(np.unique(words[words >> fewer > 0])) < LEAST_VALUES:
        return False
    return _roughness(words, more, is_signed) < LESS_ROUGH * _roughness(words, fewer, is_signed)


def _roughness(words: np.ndarray, bits: int, is_signed: bool) -> int:
    """The sum of differences between horizontal neighbours."""
    values = words.astype(np.int32) & ((1 << bits) - 1)
    if is_signed:
        values = np.where(values >> (bits - 1), values - (1 << bits), values)
    return int(np.abs(np.diff(values, axis=1)).sum(dtype=np.int64))
