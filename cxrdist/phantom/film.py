"""Turns path lengths into a film: attenuation, scatter, quantum noise, tone curve."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from cxrdist.phantom.project import Array
from cxrdist.phantom.technique import Technique

_COARSE = 32


@lru_cache(maxsize=32)
def _cells(size: int, coarse: int) -> tuple[Array, Array]:
    """For each of ``size`` pixels, the index of the cell before it and the weight of the next cell, float32."""
    at = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    low = np.minimum(at.astype(int), coarse - 2)
    return low, (at - low).astype(np.float32)


def _enlarge(cells: Array, size: int) -> Array:
    """Enlarges [coarse, coarse] to [size, size], linearly between the cells' centres."""
    low, share = _cells(size, cells.shape[0])
    rows = cells[low]
    rows += share[:, None] * (cells[low + 1] - rows)
    low_value = rows[:, low]
    low_value += share * (rows[:, low + 1] - low_value)
    return low_value


def _shrink(image: Array) -> Array:
    """Shrinks [size, size] to [32, 32] float32: means over each cell, fractions of pixels included."""
    size = image.shape[0]
    edges = np.linspace(0.0, size, _COARSE + 1)
    low = np.minimum(edges.astype(int), size - 1)
    share = edges - low
    mean = image.astype(np.float64)
    for _ in range(2):
        total = np.zeros((size + 1, mean.shape[1]))
        np.cumsum(mean, axis=0, out=total[1:])
        at_edge = total[low] + share[:, None] * (total[low + 1] - total[low])
        mean = (np.diff(at_edge, axis=0) * (_COARSE / size)).T
    return mean.astype(np.float32)


def wide_blur(image: Array, sigma: float) -> Array:
    """Gaussian blur on a 32x32 grid, edges repeated; ``sigma`` is a fraction of the field, at least 0.04."""
    reach = int(3.0 * sigma * _COARSE) + 1
    weight = [math.exp(-0.5 * (k / (sigma * _COARSE)) ** 2) for k in range(-reach, reach + 1)]
    cells = _shrink(image)
    for _ in range(2):
        padded = np.pad(cells, ((reach, reach), (0, 0)), mode="edge")
        blurred = np.zeros_like(cells)
        for k, w in enumerate(weight):
            blurred += np.float32(w / sum(weight)) * padded[k : k + _COARSE]
        cells = blurred.T
    return _enlarge(cells, image.shape[0])


def smooth_noise(draw: np.random.Generator, size: int, cells: int) -> Array:
    """Noise with ``cells`` independent values across the field, the same at every size."""
    return _enlarge(draw.standard_normal((cells, cells), dtype=np.float32), size)


def reduce(image: Array, factor: int) -> Array:
    """Means over ``factor`` x ``factor`` pixels."""
    if factor == 1:
        return image
    total = image[::factor, ::factor].copy()
    for k in range(1, factor * factor):
        total += image[k // factor :: factor, k % factor :: factor]
    return total / np.float32(factor * factor)


def expose(soft_cm: Array, bone_cm: Array, scatter: float) -> Array:
    """Log of the detector's signal; air is 0 and the densest part the most negative. [H, W] float32."""
    attenuation = np.float32(0.185) * soft_cm + np.float32(0.36) * bone_cm
    primary = np.exp(-attenuation)
    # Tissue scatters in proportion to what it absorbs of the beam; bare air beside the body does not.
    born = np.minimum(primary * attenuation, 0.12)
    return np.log(primary + np.float32(scatter) * wide_blur(born, 0.09))


def develop(log_signal: Array, draw: np.random.Generator, technique: Technique) -> Array:
    """Log signal to film, [H, W] float32 in 0..1: bright where little radiation came through, as on a real film."""
    size = log_signal.shape[0]
    grain = draw.standard_normal((size, size), dtype=np.float32)
    # Fewer quanta mean more noise, and smaller pixels receive fewer.
    strength = np.float32(technique.noise * 0.0022 * (size / 256) ** 0.5)
    density = -log_signal + grain * np.exp(np.float32(-0.5) * log_signal) * strength
    # Automatic exposure: the window spans the body from its most transparent to its densest parts.
    coarse = _shrink(density)
    body = coarse[coarse > 0.6]
    dark, light = np.quantile(body, [0.08, 0.96]) if body.size > 32 else (0.0, 3.0)
    span = max(float(light - dark), 0.5)
    tissue = np.maximum(density, np.float32(dark - 0.35 * span))
    density -= np.float32(technique.equalise) * (wide_blur(tissue, 0.11) - np.float32(dark + 0.5 * span))
    across = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    density += np.float32(technique.heel[0]) * across + (np.float32(technique.heel[1]) * across)[:, None]
    t = (density - np.float32(dark)) / np.float32(span)
    steep = np.float32(-3.6 * technique.contrast / (1.0 - 0.4 * technique.equalise))
    shown = 1.0 / (1.0 + np.exp(steep * (t - np.float32(0.4 - technique.brightness))))
    return shown * np.float32(technique.white - technique.black) + np.float32(technique.black)


def collimate(shown: Array, technique: Technique) -> Array:
    """Replaces the parts of the film that the beam did not reach by a border."""
    size = shown.shape[0]
    left, right, top, bottom = technique.collimated
    if not any(technique.collimated):
        return shown
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    turn = np.float32(technique.border_turn)
    x = at[None, :] + turn * (at[:, None] - np.float32(0.5))
    z = at[:, None] - turn * (at[None, :] - np.float32(0.5))
    soft = np.float32(max(0.006, 1.0 / size))  # the penumbra of the collimator's blades
    lit: Array | float = 1.0
    for border, inside in ((left, x), (right, 1.0 - x), (top, z), (bottom, 1.0 - z)):
        if border:
            lit = lit * np.clip((inside - np.float32(border)) / soft, 0.0, 1.0)
    edge = np.float32(0.985 if technique.border_white else 0.4 * technique.black)
    return edge + (shown - edge) * lit
