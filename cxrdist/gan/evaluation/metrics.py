"""The metrics of a class, and of all classes together, from features: each with its floor and numbers of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from cxrdist.features.distances import frechet_distance, kernel_distance, manifolds
from cxrdist.features.memorization import rounded

METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")

Metrics = dict[str, dict[str, Any]]
"""``{metric: {value, floor, n_generated, n_real, n_floor, note if there is no value}}``."""


@dataclass(frozen=True)
class Sets:
    """Features of one class in one space, each [n, D] in random order, so that any prefix is a random sample."""

    generated: Tensor
    train: Tensor
    real: Tensor
    """Held-out real images."""


def compare(sets: Sets, k: int) -> Metrics:
    """Compare generated with held-out real images; the floor compares training images with the same ones. Training
    images are real and of other patients, so the floor is what a perfect generator would reach.

    KID is unbiased and uses all images. The other metrics depend on the number of images: they use equally many
    generated and training images, so that value and floor have the same bias.
    """
    equal = min(len(sets.generated), len(sets.train))
    generated, train = sets.generated[:equal], sets.train[:equal]
    found: Metrics = {
        "fid": _metric(
            frechet_distance(generated, sets.real), frechet_distance(train, sets.real), equal, sets, equal, 2
        ),
        "kid": _metric(
            kernel_distance(sets.generated, sets.real),
            kernel_distance(sets.train, sets.real),
            len(sets.generated),
            sets,
            len(sets.train),
            2,
        ),
    }
    values, floors = manifolds(generated, sets.real, k), manifolds(train, sets.real, k)
    for name in METRICS[2:]:
        value, floor = (None if one is None else getattr(one, name) for one in (values, floors))
        found[name] = _metric(value, floor, equal, sets, equal, k + 1)
    return found


def _metric(
    value: float | None, floor: float | None, generated: int, sets: Sets, train: int, least: int
) -> dict[str, Any]:
    metric: dict[str, Any] = {
        "value": rounded(value),
        "floor": rounded(floor),
        "n_generated": generated,
        "n_real": len(sets.real),
        "n_floor": train,
    }
    if value is None or floor is None:
        metric["note"] = f"needs {least} images or more of each kind"
    return metric


def together(per_class: Mapping[str, Sets]) -> Sets:
    """All classes as one set. Generated and training images have the class shares of the held-out ones, since FID and
    KID would measure a difference in shares; there are equally many of both."""
    equal = {name: min(len(sets.generated), len(sets.train)) for name, sets in per_class.items()}
    factor = min(Fraction(equal[name], len(sets.real)) for name, sets in per_class.items())
    counts = {name: max(1, int(factor * len(sets.real))) for name, sets in per_class.items()}
    return Sets(
        generated=torch.cat([sets.generated[: counts[name]] for name, sets in per_class.items()]),
        train=torch.cat([sets.train[: counts[name]] for name, sets in per_class.items()]),
        real=torch.cat([sets.real for sets in per_class.values()]),
    )


def brief(spaces: Mapping[str, Metrics]) -> dict[str, dict[str, float | None]]:
    """``{space: {metric: value}}``."""
    return {
        space: {name: metric["value"] for name, metric in metrics.items()}
        for space, metrics in spaces.items()
    }


def table(results: Mapping[str, Mapping[str, Metrics]]) -> Iterator[str]:
    """``{class or "overall": {space: metrics}}`` as lines for a terminal. ``n``: numbers of generated and held-out
    images; KID uses more images than the others."""
    rows = [["class", "space", "n KID", "KID x 1000 (floor)", "n", "FID (floor)", *METRICS[2:]]]
    for name, spaces in results.items():
        for space, metrics in spaces.items():
            row = [name, space, _numbers(metrics["kid"]), _shown(metrics["kid"], 4, 1000)]
            row += [_numbers(metrics["fid"]), _shown(metrics["fid"], 4)]
            rows.append([*row, *(_shown(metrics[metric], 2) for metric in METRICS[2:])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def _numbers(metric: dict[str, Any]) -> str:
    return f"{metric['n_generated']}:{metric['n_real']}"


def _shown(metric: dict[str, Any], digits: int, factor: float = 1.0) -> str:
    both = (metric["value"], metric["floor"])
    value, floor = ("-" if one is None else f"{one * factor:.{digits}g}" for one in both)
    return f"{value} ({floor})"
