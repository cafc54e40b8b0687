"""The images of a stratum that an audit looks at: what the gates say of them, and their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxrdist.data.shards.stratum import StratumReader
from cxrdist.features.embed import BATCH, Embedder
from cxrdist.features.spaces import Space, classifier_space, random_space
from cxrdist.models import TrainedClassifier
from cxrdist.seeds import permutation
from cxrdist.synth.gates.judge import Judge, see
from cxrdist.synth.gates.label import PROBABILITIES


@dataclass(frozen=True)
class Look:
    """n images of a class, real or synthetic."""

    reader: StratumReader
    numbers: np.ndarray
    """[n] int64: which samples of the stratum, ascending."""
    scores: dict[str, np.ndarray]
    """``{gate: [n] float32}``."""
    passed: dict[str, np.ndarray]
    """``{gate: [n] bool}``."""
    coarse: np.ndarray
    """[n, 256] float16, for the search for duplicates."""
    features: dict[str, Tensor]
    """``{space: [n, D]}``."""
    probabilities: Tensor | None
    """[n, classes], the mean of the classifiers; None without any."""

    @property
    def refused(self) -> np.ndarray:
        """[n] bool: by any gate."""
        refused: np.ndarray = ~np.logical_and.reduce([*self.passed.values()])
        return refused

    def key(self, place: int) -> str:
        """Of the image at a place of ``numbers``."""
        return self.reader.key(int(self.numbers[place])).decode()


def spaces_of(classifiers: Sequence[TrainedClassifier], image_size: int, device: torch.device) -> list[Space]:
    """The spaces in which coverage and recall are measured: that of a random network, and each classifier's."""
    spaces = [random_space(image_size, device)]
    for number, classifier in enumerate(classifiers, 1):
        space = classifier_space(classifier, device)
        spaces.append(space if number == 1 else dataclasses.replace(space, name=f"{space.name} {number}"))
    return spaces


def random_order(reader: StratumReader) -> np.ndarray:
    """[samples] int64: the samples of a stratum in an order that depends on the stratum alone."""
    return permutation(0, f"audit {reader.entry.stratum.stem}", length=reader.samples)


def chosen(reader: StratumReader, images: int) -> np.ndarray:
    """[n] int64, ascending: the samples that are looked at, the first ``images`` of ``random_order``."""
    return np.sort(random_order(reader)[:images])


def look_at(
    reader: StratumReader, numbers: np.ndarray, class_name: str, judge: Judge, embedder: Embedder
) -> Look:
    """Read, judge and embed samples ``numbers`` [n] int64, n at least 1, as images of a class."""
    judged, seen = [], []
    for start in range(0, len(numbers), BATCH):
        here = numbers[start : start + BATCH]
        reader.prefetch(numbers[start : start + 2 * BATCH])
        images = np.stack([reader.pixels(int(number)) for number in here])
        judged.append(judge.judge(class_name, images))
        seen.append(see(_embedded(embedder, images)))
    features = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
    return Look(
        reader,
        numbers,
        {gate: np.concatenate([part.scores[gate] for part in judged]) for gate in judged[0].scores},
        {gate: np.concatenate([part.passed[gate] for part in judged]) for gate in judged[0].passed},
        np.concatenate([part.coarse for part in judged if part.coarse is not None]),
        features,
        features.pop(PROBABILITIES, None),
    )


def features_of(reader: StratumReader, numbers: np.ndarray, embedder: Embedder) -> dict[str, Tensor]:
    """``{space: [n, D]}`` of samples ``numbers`` [n] int64."""
    features = see(embedder.embed_real(reader, numbers))
    features.pop(PROBABILITIES, None)
    return features


def _embedded(embedder: Embedder, images: np.ndarray) -> dict[Space, Tensor]:
    return embedder.embed(len(images), lambda places: images[places.start : places.stop])
