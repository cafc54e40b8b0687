"""Which images a reader sees, and in which order: functions of the seed, the readers and what is judged already.

    images of a task ──> one sequence, drawn by seed ──> | common to all | part of reader 0 | part of reader 1 | ...
    common + own part ──> the reader's order, drawn by seed and reader

Any run of neighbours in the sequence of the blinded task has the stated share of real images, and of both origins the
same classes: neither how often a class occurs nor how often the answer was `real` gives the next image away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cxrdist.seeds import derive, permutation


def curate_sequence(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Image numbers [n] in a random order."""
    return numbers[permutation(seed, "curate", length=len(numbers))]


def blinded_sequence(
    real: Sequence[np.ndarray], synthetic: Sequence[np.ndarray], share_real: float, seed: int
) -> np.ndarray:
    """Image numbers [n] of both origins mixed, from those of each class, ``real[c]`` and ``synthetic[c]``.

    Of each class as many as the share allows; a class that one origin lacks is left out.
    """
    chosen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, of_class in enumerate(zip(real, synthetic)):
        sizes = sizes_at_share(len(of_class[0]), len(of_class[1]), share_real)
        for origin, (numbers, size) in enumerate(zip(of_class, sizes)):
            drawn = permutation(seed, "blinded", number, origin, length=len(numbers))
            chosen[origin].append(numbers[drawn[:size]])
    return interleaved([interleaved(chosen[0]), interleaved(chosen[1])])


def sizes_at_share(real: int, synthetic: int, share_real: float) -> tuple[int, int]:
    """How many of ``real`` and ``synthetic`` images to take: nearly as many as the share allows, namely the number at
    which it comes out best (at 0.5 as many of one as of the other)."""
    most = int(min(real / share_real, synthetic / (1 - share_real))) + 1
    # At a share of 1 / k, every kth number of images comes out exactly.
    numbers = range(most, max(most - 2 * math.ceil(1 / min(share_real, 1 - share_real)), 0), -1)
    taken = [(round(n * share_real), n) for n in numbers]
    possible = [(ours, n) for ours, n in taken if 0 < ours <= real and 0 < n - ours <= synthetic]
    ours, n = min(possible, key=lambda each: round(abs(each[0] - each[1] * share_real), 9), default=(0, 0))
    return ours, n - ours


def interleaved(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several sequences as one, in which each is spread evenly and keeps its order."""
    places = [(np.arange(len(part)) + 0.5) / len(part) for part in parts if len(part)]
    if not places:
        return np.zeros(0, np.int64)
    return np.concatenate([part for part in parts if len(part)])[
        np.argsort(np.concatenate(places), kind="stable")
    ]


def dealt(
    sequence: np.ndarray,
    slot: int,
    slots: int,
    overlap: float,
    limit: int | None,
    *,
    mine: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """The images of the reader in ``slot`` of ``slots``: the common ones, then the reader's own part.

    ``limit``: images of one reader. ``overlap`` is a share of them, or else of the whole sequence. ``mine`` and
    ``others``: numbers of images that this reader, or somebody else, has judged. What one reader has judged stays
    with that reader when another joins or leaves; all other images are dealt anew.
    """
    whole = len(sequence) if limit is None else min(limit, len(sequence))
    common, rest = np.split(sequence, [round(overlap * whole)])
    size = len(rest) if limit is None else whole - len(common)
    if limit is not None and size * slots <= len(rest):
        own = rest[slot * size : (slot + 1) * size]
    else:
        own = np.array_split(rest, slots)[slot]
    was_mine = rest[np.isin(rest, mine)]
    new = own[~np.isin(own, mine) & ~np.isin(own, others)]
    return np.concatenate([common, was_mine, new[: max(size - len(was_mine), 0)]])


def at_share(
    numbers: np.ndarray, is_real: np.ndarray, is_judged: np.ndarray, share_real: float
) -> np.ndarray:
    """The images [n] that remain so that the share holds again, after some were left out; judged ones stay."""
    sizes = sizes_at_share(int(is_real.sum()), int((~is_real).sum()), share_real)
    keep = is_judged.copy()
    for of_origin, size in zip((is_real, ~is_real), sizes):
        first = np.flatnonzero(of_origin & ~is_judged)[: max(size - int((of_origin & is_judged).sum()), 0)]
        keep[first] = True
    return numbers[keep]


def in_order(numbers: np.ndarray, seed: int, task: str, reader_seed: int) -> np.ndarray:
    """The order in which a reader sees images: each has a rank, which does not depend on the others."""
    ranks = [derive(seed, "rank", task, reader_seed, number) for number in numbers.tolist()]
    return numbers[np.argsort(np.array(ranks, np.int64), kind="stable")]
