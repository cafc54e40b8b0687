"""The classifier's sigmoid decay of the learning rate (paper 2.2)."""

from __future__ import annotations

import math


def sigmoid_decay(
    epoch: float, epochs: float, base: float = 1e-3, k: float | None = None, e0: float | None = None
) -> float:
    """The learning rate base / (1 + exp(k (epoch - e0))) at a (fractional) epoch of a run of ``epochs``.

    ``e0``, the epoch at which the rate is half of ``base``, defaults to half the epochs; the steepness ``k`` defaults
    to 10 / epochs. Raises ValueError if ``epochs`` is not positive.
    """
    if not epochs > 0:
        raise ValueError(f"epochs {epochs}: must be positive")
    x = (10 / epochs if k is None else k) * (epoch - (epochs / 2 if e0 is None else e0))
    # The form with a negative exponent, since exp of a large positive one overflows.
    return base * math.exp(-x) / (1 + math.exp(-x)) if x > 0 else base / (1 + math.exp(x))
