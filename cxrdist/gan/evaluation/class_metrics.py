"""Label agreement, near-copy rate and diversity of the generated images of a class, beside the same of real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cxrdist.features.distances import exact_distances
from cxrdist.features.embed import Features
from cxrdist.features.memorization import TrainImages, rounded
from cxrdist.features.spaces import CLASSIFIER, LOGITS, PIXEL_SIDE, PIXELS
from cxrdist.gan.diversity import MAX_REAL, nearest_distance
from cxrdist.gan.evaluation.bootstrap import Estimate, Resampled, mean_of, resamples, share
from cxrdist.gan.evaluation.metrics import Metrics, Sets, compare


@dataclass(frozen=True)
class ClassImages:
    """One class: features of its images in every space, those of ``train`` in random order."""

    label: int
    """Index of the class among the classifier's."""
    generated: Features
    train: Features
    real: Features
    """Held-out real images."""
    patients: np.ndarray
    """[n]: of the held-out images."""

    def sets(self, space: str) -> Sets:
        return Sets(self.generated[space], self.train[space], self.real[space])


@dataclass(frozen=True)
class ClassMetrics:
    """Shares of the generated and of the held-out images, and diversities over those of train; None if there are too
    few images or patients."""

    agreement: Estimate
    """Share of generated images that the classifier assigns to their class."""
    real_agreement: Estimate
    copies: Estimate | None
    """Share of generated images that are near copies of training images (memorization.TrainImages)."""
    real_copies: Estimate | None
    pairwise: float | None
    """Mean distance of two generated images in the classifier's space, over that of two training images."""
    nearest: float | None
    """Mean distance of a generated image to the nearest other one, over the same of train (gan/diversity.py)."""

    def results(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "agreement": {**self.agreement.results(), "real": self.real_agreement.results()},
            "near_copies": {
                **(self.copies.results() if self.copies else {"value": None, "interval": None}),
                "null": self.real_copies.results() if self.real_copies else None,
            },
            "diversity": {"pairwise": rounded(self.pairwise), "nearest": rounded(self.nearest)},
        }


def class_metrics(images: ClassImages, train: TrainImages, seed: int, name: str) -> ClassMetrics:
    """``seed``, ``name``: of the resampling."""
    count = len(images.generated[LOGITS])
    of_generated = resamples(np.arange(count), seed, name, "generated")
    of_real = resamples(images.patients, seed, name, "real")
    agree, real_agree = (
        features[LOGITS].argmax(1) == images.label for features in (images.generated, images.real)
    )
    copies = train.near_copies(images.generated[PIXELS])
    real_copies = train.near_copies(images.real[PIXELS])
    return ClassMetrics(
        agreement=share(agree, of_generated),
        real_agreement=share(real_agree, of_real),
        copies=_first_share(copies, np.arange(count), seed, name),
        real_copies=_first_share(real_copies, images.patients, seed, name),
        pairwise=_ratio(
            mean_pair_distance(images.generated[CLASSIFIER]), mean_pair_distance(images.train[CLASSIFIER])
        ),
        nearest=nearest_diversity(images.generated[PIXELS], images.train[PIXELS]),
    )


def _first_share(flags: Tensor | None, groups: np.ndarray, seed: int, name: str) -> Estimate | None:
    """The share of the first images [n] bool of some that are resampled by ``groups``."""
    return None if flags is None else share(flags, resamples(groups[: len(flags)], seed, name, "copies"))


def mean_over_classes(metrics: Sequence[ClassMetrics]) -> ClassMetrics:
    """The mean over classes of every metric, each class with the same weight."""
    agreement, real_agreement = (
        mean_of([getattr(one, field) for one in metrics]) for field in ("agreement", "real_agreement")
    )
    assert agreement is not None and real_agreement is not None  # there is at least one class
    return ClassMetrics(
        agreement=agreement,
        real_agreement=real_agreement,
        copies=mean_of([one.copies for one in metrics if one.copies is not None]),
        real_copies=mean_of([one.real_copies for one in metrics if one.real_copies is not None]),
        pairwise=_mean([one.pairwise for one in metrics]),
        nearest=_mean([one.nearest for one in metrics]),
    )


def compare_with_intervals(sets: Sets, patients: np.ndarray, k: int, seed: int, name: str) -> Metrics:
    """The metrics of ``metrics.compare``, with ``interval`` for KID, coverage and recall; None if it cannot be
    computed. ``patients`` [n]: of the held-out images; ``seed``, ``name``: of the resampling."""
    equal = min(len(sets.generated), len(sets.train))
    every = Resampled.of(sets.generated, sets.real, patients, seed, name)
    equally = Resampled.of(sets.generated[:equal], sets.real, patients, seed, name)
    replicates = {"kid": every.kid()} if every else {}
    replicates |= equally.overlap(k) if equally else {}
    found = {metric: dict(figures) for metric, figures in compare(sets, k).items()}
    for metric, (low, high) in {
        "kid": (-math.inf, math.inf),
        "coverage": (0.0, 1.0),
        "recall": (0.0, 1.0),
    }.items():
        value = found[metric]["value"]
        estimate = None if value is None else Estimate(value, replicates.get(metric))
        found[metric]["interval"] = None if estimate is None else estimate.interval(low, high)
    return found


def mean_pair_distance(features: Tensor) -> float | None:
    """[n, D] -> mean distance of two different rows; None for fewer than two."""
    n = len(features)
    return float(exact_distances(features, features).double().sum()) / (n * (n - 1)) if n > 1 else None


def nearest_diversity(generated: Tensor, train: Tensor) -> float | None:
    """Images [n, 1024] of the pixel space: the measure of gan/diversity.py, from as many images of both."""
    real = _as_images(train[:MAX_REAL])
    among = min(len(real), len(generated))
    return _ratio(nearest_distance(_as_images(generated), among), nearest_distance(real, among))


def _as_images(pixels: Tensor) -> np.ndarray:
    return pixels.view(-1, PIXEL_SIDE, PIXEL_SIDE).cpu().numpy()


def _ratio(value: float | None, of_train: float | None) -> float | None:
    return None if value is None or not of_train else value / of_train


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """``{class or "mean": ClassMetrics.results()}`` as lines for a terminal: each share with its interval, then the
    same of held-out real images."""
    rows = [["class", "agreement", "real", "near copies", "real", "diversity: pairwise", "nearest"]]
    for name, found in results.items():
        agreement, copies, diversity = found["agreement"], found["near_copies"], found["diversity"]
        row = [name, _shown(agreement), _shown(agreement["real"]), _shown(copies), _shown(copies["null"])]
        rows.append(
            [
                *row,
                *(
                    "-" if one is None else f"{one:.2f}"
                    for one in map(diversity.get, ("pairwise", "nearest"))
                ),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _shown(share: Mapping[str, Any] | None) -> str:
    if share is None or share["value"] is None:
        return "-"
    interval = share["interval"]
    return f"{share['value']:.1%}" + ("" if interval is None else f" [{interval[0]:.1%}, {interval[1]:.1%}]")
