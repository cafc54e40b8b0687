"""Near-duplicate films: one film saved twice, re-encoded, resized, re-windowed, shifted or slightly cropped.

Frontal radiographs look so similar that a 64-bit average, difference or DCT hash matches films of different
patients. Here a hash is a thumbnail of the film's middle, and two hashes are compared in two steps:

1. Candidates are all pairs whose low DCT coefficients have a cosine of at least 0.87: cheap, and computed exactly.
2. A candidate is a near-duplicate if its residual is at most 0.04. The residual is the share of one thumbnail's
   energy that remains after the best fit by the other under small shifts, stretches and changes of tone (tangent
   distance, Simard et al., 1998).

Measured on NIH ChestX-ray14, 1,236 films at 256 px and 1,000 at 64 px: the residual is below 0.004 for JPEG-75,
resizing and noise, below 0.02 for mild changes of tone and for 1 % cropped or padded on each side, below 0.03 for
2 % (one film: 0.05). The smallest residual between different patients, among 2.5 million pairs, is 0.067, the
second smallest 0.09. Few pairs of films of one patient are near-duplicates: 2 of 2,052 pairs at 256 px (0.00, one
film saved twice, and 0.029) and 12 of 8,331 at 64 px (0.025 or more).
Phantoms are more alike than patients: 23 of 44,700 pairs of different phantoms are near-duplicates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import xxhash
from PIL import Image

_SIDE = 32
_MARGIN = 0.1  # cut from each side: crops, bars and markers change the image most there
_MIN_PIXELS = 16
_DIGEST_BYTES = 8
HASH_BYTES = _SIDE * _SIDE + _DIGEST_BYTES

_MIN_CONTRAST = (
    2.0  # grey levels (standard deviation, low frequencies); below it, only rounding and noise remain
)
_MIN_COSINE = 0.87
_MAX_RESIDUAL = 0.04
_SCALE = 2048  # all products of two descriptors stay below 2^24: float32 sums of them are exact
_ROWS, _COLUMNS = 1024, 8192
_PAIRS_AT_ONCE = 2048


def _dct_rows(count: int) -> np.ndarray:
    """The first rows [count, _SIDE] of the orthonormal DCT-II."""
    frequency, x = np.arange(count)[:, None], np.arange(_SIDE)[None]
    rows = np.cos(np.pi * (x + 0.5) * frequency / _SIDE) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return rows


def _band(highest: int) -> np.ndarray:
    """[highest + 1, highest + 1] bool: True for coefficients within radius ``highest``, without the mean."""
    radius = _radius(highest)
    return (radius > 0) & (radius <= highest)


def _radius(highest: int) -> np.ndarray:
    return np.hypot(*np.indices((highest + 1, highest + 1)))


_COARSE, _COARSE_BAND = (
    _dct_rows(11),
    _band(10),
)  # float64: the same on every machine once rounded to integers
_FINE, _FINE_BAND = _dct_rows(13).astype(np.float32), _band(12)
# Radiographs have far more energy in low frequencies, which would dominate the residual if unweighted.
_FINE_WEIGHTS = _radius(12)[_FINE_BAND]


def perceptual_hash(pixels: np.ndarray) -> bytes:
    """Hashes a [H, W] uint8 radiograph, H and W at least 16, to the ``HASH_BYTES`` that ``near_pairs`` compares.

    The hash is a 32 x 32 thumbnail of the middle 80 % of each side, followed by the XXH3-64 of the pixels. Up to
    rounding, a film has the same thumbnail at 64 px and at 1024 px. The hash depends only on the pixels, not on the
    machine.
    """
    assert pixels.ndim == 2 and pixels.dtype == np.uint8, (pixels.shape, pixels.dtype)
    height, width = pixels.shape
    assert min(height, width) >= _MIN_PIXELS, pixels.shape
    middle = (_MARGIN * width, _MARGIN * height, (1 - _MARGIN) * width, (1 - _MARGIN) * height)
    # BILINEAR averages over each output pixel when it shrinks, so every input size gives the same thumbnail.
    image = Image.fromarray(np.ascontiguousarray(pixels))
    thumbnail = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=middle)
    return thumbnail.tobytes() + xxhash.xxh3_64_digest(f"{height}x{width}/".encode() + pixels.tobytes())


def near_groups(table: np.ndarray, on_progress: Callable[[int], None] = lambda done: None) -> list[int]:
    """Groups films that are connected by a chain of near-duplicate pairs.

    ``table`` [N, ``HASH_BYTES``] uint8 holds one hash per row and may be memory-mapped. Returns, for each row, the
    lowest index in its group. Memory grows by about 0.4 KB per film. Every pair is compared: 100,000 films take one
    to two minutes on one core, and the time grows with the square of the number of films. ``on_progress`` is called
    with the number of films compared so far.
    """
    digests = np.ascontiguousarray(table[:, -_DIGEST_BYTES:]).view("<u8")[:, 0]
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    # Exact copies are compared only once.
    films = np.sort(first)
    pairs = near_pairs(table, films, on_progress)
    copies = zip(first[which].tolist(), range(len(table)))
    return groups_of(len(table), itertools.chain(pairs, copies))


def near_pairs(
    table: np.ndarray, films: np.ndarray | None = None, on_progress: Callable[[int], None] = lambda done: None
) -> list[tuple[int, int]]:
    """Returns all pairs (i, j), i < j, of rows of ``table`` whose films are near-duplicates, sorted.

    ``films`` selects rows, in ascending order; all by default. k copies of one film give k (k - 1) / 2 pairs. A film
    without content in its middle (blank, or faint noise) matches only exact copies of itself. The result for a pair
    depends only on its two hashes, apart from rounding differences between machines at the threshold.
    """
    films = np.arange(len(table)) if films is None else films
    thumbnails = table[:, :-_DIGEST_BYTES].reshape(-1, _SIDE, _SIDE)  # [N, 32, 32] uint8
    descriptors = np.zeros((len(films), int(_COARSE_BAND.sum())), np.float32)
    for start in range(0, len(films), _COLUMNS):
        descriptors[start : start + _COLUMNS] = _descriptors(thumbnails[films[start : start + _COLUMNS]])
    blank: dict[bytes, list[int]] = {}
    for i in films[~descriptors.any(1)].tolist():
        blank.setdefault(table[i].tobytes(), []).append(i)
    pairs = [(i, j) for copies in blank.values() for k, i in enumerate(copies) for j in copies[k + 1 :]]
    for of_first, of_second in _candidates(descriptors, on_progress):
        first, second = films[of_first], films[of_second]
        distinct, place = np.unique(first, return_inverse=True)
        residuals = _residuals(_parts(thumbnails[distinct])[place], _parts(thumbnails[second]))
        is_near = residuals <= _MAX_RESIDUAL
        pairs += zip(first[is_near].tolist(), second[is_near].tolist())
    return sorted(pairs)


def groups_of(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Returns, for each of ``count`` images, the lowest index in its group; ``pairs`` connect images to groups."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(i) for i in range(count)]


def _descriptors(thumbnails: np.ndarray) -> np.ndarray:
    """Maps thumbnails [N, 32, 32] to descriptors [N, D]: integers as float32, norm about ``_SCALE``; 0 if blank.

    Descriptors are the signed square roots of the coefficients, so that a few strong ones (bars, collimation, the
    outline of the chest that all films share) do not dominate.
    """
    coefficients = (_COARSE @ thumbnails.astype(np.float64) @ _COARSE.T)[:, _COARSE_BAND]
    has_content = np.linalg.norm(coefficients, axis=1) / _SIDE >= _MIN_CONTRAST
    roots = np.sign(coefficients) * np.sqrt(np.abs(coefficients))
    lengths = np.linalg.norm(roots, axis=1)
    scales = np.divide(_SCALE, lengths, out=np.zeros_like(lengths), where=has_content)
    return np.rint(roots * scales[:, None]).astype(np.float32)


def _candidates(
    descriptors: np.ndarray, on_progress: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of pairs (i, j), i < j, with a cosine of at least ``_MIN_COSINE``, as two index arrays."""
    count, least = len(descriptors), np.float32(_MIN_COSINE * _SCALE**2)
    for top in range(0, count, _ROWS):
        on_progress(top)
        rows = descriptors[top : top + _ROWS]
        blocks = [
            np.argwhere(rows @ descriptors[left : left + _COLUMNS].T >= least) + np.array([top, left])
            for left in range(top, count, _COLUMNS)
        ]
        found = np.concatenate(blocks)
        found = found[found[:, 0] < found[:, 1]]
        # Sorting leaves few distinct films for ``first`` in a batch, and each is prepared only once.
        found = found[np.argsort(found[:, 0], kind="stable")]
        for start in range(0, len(found), _PAIRS_AT_ONCE):
            first, second = found[start : start + _PAIRS_AT_ONCE].T
            yield first, second


def _residuals(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns [N] residuals of pairs from the parts [N, 6, D] of both films: the larger of the two directions."""
    # The mean of both gradients is accurate to second order in the shift; one film's gradient only to first order.
    moves = (first[:, 2:] + second[:, 2:]) / 2
    return np.maximum(_unexplained(first, moves, second[:, 0]), _unexplained(second, moves, first[:, 0]))


def _parts(thumbnails: np.ndarray) -> np.ndarray:
    """Weighted DCT coefficients [N, 6, D] of each thumbnail, its square (for changes of tone), its two gradients (for
    shifts) and the gradients times x and y (for stretches)."""
    films = thumbnails.astype(np.float32)
    films -= films.mean((1, 2), keepdims=True)
    films /= films.std((1, 2), keepdims=True)
    down, across = np.gradient(films, axis=(1, 2))
    centred = np.linspace(-1, 1, _SIDE, dtype=np.float32)
    parts = np.stack([films, films**2, across, down, across * centred, down * centred[:, None]], 1)
    along_rows = np.ascontiguousarray((parts @ _FINE.T).swapaxes(-1, -2))  # [N, 6, 13, 32]
    coefficients = (along_rows @ _FINE.T).swapaxes(-1, -2)[..., _FINE_BAND]
    return coefficients * _FINE_WEIGHTS  # float64, for the normal equations


def _unexplained(parts: np.ndarray, moves: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fits ``target`` [N, D] by the film, its square and ``moves``; returns [N] shares of energy left over."""
    basis = np.concatenate([parts[:, :2], moves], 1)
    gram = basis @ basis.transpose(0, 2, 1)  # [N, 6, 6]
    # The ridge keeps the matrix regular for a film without, say, vertical structure, which equals its vertical shift.
    gram += 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(gram.shape[1])
    projected = basis @ target[..., None]  # [N, 6, 1]
    explained = (projected * np.linalg.solve(gram, projected)).sum((1, 2))
    return 1 - explained / (target**2).sum(1)
