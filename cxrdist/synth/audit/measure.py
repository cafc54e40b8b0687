"""What is measured of the images of one class: near copies, duplicates, coverage, labels, today's gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxrdist.data.shards.manifest import UNLABELLED_STRATUM
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.features.distances import manifolds
from cxrdist.features.embed import BATCH, Embedder
from cxrdist.features.memorization import rounded
from cxrdist.features.spaces import pixel_space
from cxrdist.synth.audit.chance import Calibrated, expected_coverage, interval, most_by_chance
from cxrdist.synth.audit.look import Look, features_of, look_at
from cxrdist.synth.audit.sets import Sets
from cxrdist.synth.gates import copies
from cxrdist.synth.gates.copies import CopyGate
from cxrdist.synth.gates.duplicates import duplicates
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.gates.realism import NEIGHBOURS
from cxrdist.synth.gates.thresholds import Thresholds, quantiles

PAIRS = 8
VERY_CLOSE = 0.5
"""An image at this fraction of the threshold of near copies is very close: no chance explains it."""


@dataclass(frozen=True)
class Pair:
    """A synthetic image and the one that it is compared with."""

    place: int
    """In ``Look.numbers``."""
    reader: StratumReader
    """Of the other image."""
    number: int
    distance: float


@dataclass(frozen=True)
class ClassAudit:
    """What was measured of one class."""

    name: str
    look: Look
    """At the synthetic images."""
    val: Look | None
    """At the real validation images."""
    closest: Sequence[Pair]
    """Synthetic images beside their nearest training image, the closest first."""
    twins: Sequence[Pair]
    """Duplicates beside the earlier image that they are too similar to, the closest first."""
    figures: dict[str, Any]
    """As JSON."""


def measure_class(
    name: str,
    sets: Sets,
    readers: tuple[StratumReader, StratumReader, StratumReader | None],
    numbers: Sequence[np.ndarray | None],
    judge: Judge,
    embedder: Embedder,
) -> ClassAudit:
    """``readers``, ``numbers``: of synthetic, train and val images, and which of them are looked at."""
    of_synthetic, of_train, of_val = numbers
    assert of_synthetic is not None and of_train is not None
    look = look_at(readers[0], of_synthetic, name, judge, embedder)
    train = features_of(readers[1], of_train, embedder)
    val = None
    if readers[2] is not None and of_val is not None:
        val = look_at(readers[2], of_val, name, judge, embedder)
    closest = _closest(look, sets, judge)
    twins = _twins(look, judge)
    figures = {
        "images": readers[0].samples,
        "looked_at": len(look.numbers),
        "copies": _copies(name, look, closest, sets, judge),
        "duplicates": {
            "count": len(twins),
            "rate": rounded(len(twins) / len(look.numbers)),
            "limit": rounded(judge.duplicate_limit),
            "pairs": [
                {
                    "key": look.key(twin.place),
                    "of": twin.reader.key(twin.number).decode(),
                    "distance": rounded(twin.distance),
                }
                for twin in twins
            ],
        },
        "overlap": {space: _overlap(look, val, train, space) for space in train},
        "labels": _labels(name, look, val, sets.real.classes),
        "gates": _gates(name, look, val, judge),
    }
    return ClassAudit(name, look, val, closest[:PAIRS], twins, figures)


def copy_gate(judge: Judge) -> tuple[CopyGate, Thresholds]:
    """The gate of copies, which the default gates always have."""
    for gate, limits in judge.gates:
        if isinstance(gate, CopyGate):
            return gate, limits
    raise AssertionError("the default gates have a gate of copies")


def _closest(look: Look, sets: Sets, judge: Judge) -> list[Pair]:
    """The closest images, the closest first: all near copies, or ``PAIRS`` images if there are fewer."""
    gate, _ = copy_gate(judge)
    scores = look.scores[copies.NAME]
    near = int((~look.passed[copies.NAME]).sum())
    places = np.argsort(scores, kind="stable")[: max(near, PAIRS)]
    pairs = []
    for start in range(0, len(places), BATCH):
        here = places[start : start + BATCH].tolist()
        images = np.stack([look.reader.pixels(int(look.numbers[place])) for place in here])
        pixels = pixel_space().embed(torch.from_numpy(images[:, None]).to(judge.device))
        _, where = gate.train.relative_distances(pixels)
        for place, index in zip(here, where.tolist()):
            reader, number = _train_image(sets, index)
            pairs.append(Pair(place, reader, number, float(scores[place])))
    return pairs


def _train_image(sets: Sets, index: int) -> tuple[StratumReader, int]:
    """The training image of an index of ``CopyGate.train``, which holds all of them class by class, those without a
    class last."""
    for name in sets.real.classes:
        count = sets.real.samples("train", name, "real")
        if index < count:
            return sets.real.stratum("train", name, "real"), index
        index -= count
    return sets.real.stratum(*dataclasses.astuple(UNLABELLED_STRATUM)), index


def _copies(name: str, look: Look, closest: Sequence[Pair], sets: Sets, judge: Judge) -> dict[str, Any]:
    _, limits = copy_gate(judge)
    scores, n = look.scores[copies.NAME], len(look.numbers)
    count = int((~look.passed[copies.NAME]).sum())
    threshold, calibrated_on = limits.of_class[name], len(limits.real[name])
    null_rate = limits.expected_refusals(name)
    rank = round(null_rate * (calibrated_on + 1))
    low, high = interval(count, n)
    return {
        "count": count,
        "rate": rounded(count / n),
        "interval": [rounded(low), rounded(high)],
        "null_rate": rounded(null_rate),
        "most_by_chance": most_by_chance(
            [Calibrated(n, rank, calibrated_on)], comparisons=len(sets.classes) + 1
        ),
        "rank": rank,
        "calibrated_on": calibrated_on,
        "pooled": name in limits.pooled,
        "threshold": rounded(threshold),
        "very_close": int((scores <= np.float32(VERY_CLOSE * threshold)).sum()),
        "closest": [
            {
                "key": look.key(pair.place),
                "distance": rounded(pair.distance),
                "train_class": pair.reader.entry.class_name,
                "train_number": pair.number,
            }
            for pair in closest
        ],
    }


def _twins(look: Look, judge: Judge) -> list[Pair]:
    assert judge.duplicate_limit is not None  # the default gates have it
    coarse = torch.from_numpy(look.coarse)
    is_duplicate = duplicates(coarse.to(judge.device), judge.duplicate_limit)
    stays = np.flatnonzero(~is_duplicate)
    wide = coarse.float()
    pairs = []
    for place in np.flatnonzero(is_duplicate).tolist():
        earlier = stays[stays < place]
        distances = (2 - 2 * wide[earlier] @ wide[place]).clamp_min(0).sqrt()
        nearest = int(distances.argmin())
        of = int(look.numbers[earlier[nearest]])
        pairs.append(Pair(place, look.reader, of, float(distances[nearest])))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.place))


def _overlap(look: Look, val: Look | None, train: Mapping[str, Tensor], space: str) -> dict[str, Any]:
    """Coverage and recall of real images by the synthetic ones; and of train by val, as a measure of what is good."""
    generated = look.features[space]
    return {
        "train": _covered(generated, train[space]),
        "val": None if val is None else _covered(generated, val.features[space]),
        "train_by_val": None if val is None else _covered(val.features[space], train[space]),
    }


def _covered(generated: Tensor, real: Tensor) -> dict[str, Any] | None:
    """None for fewer than six images."""
    found = manifolds(generated, real, NEIGHBOURS)
    if found is None:
        return None
    return {
        "coverage": rounded(found.coverage),
        "expected_coverage": rounded(expected_coverage(len(generated), len(real), NEIGHBOURS)),
        "recall": rounded(found.recall),
        "covered": round(found.coverage * len(real)),
        "real": len(real),
        "covering": len(generated),
    }


def _labels(name: str, look: Look, val: Look | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """How many images the classifiers find to be of their class; None without classifiers."""
    if look.probabilities is None:
        return None
    index = classes.index(name)

    def agreeing(probabilities: Tensor) -> dict[str, Any]:
        count = int((probabilities.argmax(1) == index).sum())
        return {"count": count, "of": len(probabilities), "rate": rounded(count / len(probabilities))}

    of_val = None if val is None or val.probabilities is None else agreeing(val.probabilities)
    return {"synthetic": agreeing(look.probabilities), "val": of_val}


def _gates(name: str, look: Look, val: Look | None, judge: Judge) -> dict[str, Any]:
    """What today's gates would refuse."""
    by_gate = {}
    for gate, limits in judge.gates:
        by_gate[gate.name] = {
            "refused": int((~look.passed[gate.name]).sum()),
            "expected_rate": rounded(limits.expected_refusals(name)),
            "threshold": rounded(limits.of_class[name]),
            "synthetic": quantiles(look.scores[gate.name]),
            "real": quantiles(limits.real[name]),
        }
    of_val = None if val is None else {"refused": _at_or_beyond(name, val, judge), "of": len(val.numbers)}
    return {"refused": int(look.refused.sum()), "of": len(look.numbers), "val": of_val, "by_gate": by_gate}


def _at_or_beyond(name: str, val: Look, judge: Judge) -> int:
    """Validation images at the threshold of a gate or beyond: the image that is the threshold itself passes the gate,
    but another one in its place would be refused as often as not."""
    found = np.zeros(len(val.numbers), bool)
    for gate, limits in judge.gates:
        limit = np.float32(limits.of_class[name])
        found |= val.scores[gate.name] >= limit if gate.refuses_high else val.scores[gate.name] <= limit
    return int(found.sum())
