"""Choose a checkpoint from training images alone: a low KID against them, and few near copies of them.

    train = {name: TrainSide(features, TrainImages.of(pixels, patients, sample)) for name in classes}
    scores = [score(images, features, pixels, train) for each checkpoint]
    chosen = choose(scores, limit)

KID against train does not penalise memorisation: it is lowest for a generator that repeats the training images. So
only checkpoints whose near-copy rate is within a limit compete by KID. No held-out image takes part, since choosing
is a part of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cxrdist.features.distances import kernel_distance
from cxrdist.features.memorization import TrainImages, rounded


@dataclass(frozen=True)
class TrainSide:
    """Training images of one class."""

    features: Tensor
    """[m, D] in the space of KID; a random sample of a large class."""
    images: TrainImages


@dataclass(frozen=True)
class Score:
    """A checkpoint, judged by its generated images against train. A rate or KID that cannot be computed (a class of a
    single image or patient) is None, and is left out of the mean."""

    images: int | None
    """Images that had been trained on; None for the exported generator."""
    kids: dict[str, float | None]
    """By class."""
    copy_rates: dict[str, float | None]
    """By class."""

    @property
    def kid(self) -> float | None:
        """Mean over classes."""
        return _mean(self.kids)

    @property
    def copy_rate(self) -> float | None:
        """Mean over classes."""
        return _mean(self.copy_rates)

    def results(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "images": self.images,
            "kid_train": rounded(self.kid),
            "per_class": {name: rounded(kid) for name, kid in self.kids.items()},
            "copy_rate": rounded(self.copy_rate),
            "copy_rate_per_class": {name: rounded(rate) for name, rate in self.copy_rates.items()},
        }


@dataclass(frozen=True)
class Choice:
    """The chosen checkpoint."""

    index: int
    """Among the scores."""
    is_within_limit: bool
    """False: the near-copy rate of every checkpoint exceeds the limit, and this one has the lowest."""

    def results(self, limit: float) -> dict[str, Any]:
        """As JSON types."""
        by = "lowest kid_train within copy_limit" if self.is_within_limit else "lowest copy_rate"
        return {"by": by, "copy_limit": limit, "is_within_copy_limit": self.is_within_limit}


def score(
    images: int | None,
    features: Mapping[str, Tensor],
    pixels: Mapping[str, Tensor],
    train: Mapping[str, TrainSide],
) -> Score:
    """Judge generated images, by class: ``features`` [n, D] in the space of KID, ``pixels`` [n, 1024] in that of
    ``spaces.pixel_space``. Of each class the first 500 are searched for near copies."""
    rates = {}
    for name in features:
        found = train[name].images.near_copies(pixels[name])
        rates[name] = None if found is None else float(found.double().mean())
    kids = {name: kernel_distance(features[name], train[name].features) for name in features}
    return Score(images, kids, rates)


def choose(scores: Sequence[Score], limit: float) -> Choice:
    """Among the checkpoints, oldest first, whose near-copy rate is at most ``limit``, the one with the lowest KID; if
    there are none, the one with the lowest rate. The newest of equals.

    The choice among the first i checkpoints is the choice among all, or is not needed for it: a checkpoint that is
    not chosen when it is the newest is never chosen later.
    """

    def key(index: int) -> tuple[bool, float, int]:
        one = scores[index]
        is_over = not is_within(one, limit)
        value = one.copy_rate if is_over else one.kid
        return is_over, float("inf") if value is None else value, -index

    index = min(range(len(scores)), key=key)
    return Choice(index, is_within(scores[index], limit))


def is_within(one: Score, limit: float) -> bool:
    """True if the near-copy rate is at most ``limit``, or cannot be computed."""
    return one.copy_rate is None or one.copy_rate <= limit


def _mean(values: Mapping[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else None
