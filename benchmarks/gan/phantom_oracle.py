"""Judge of generated phantoms: an oracle, a classifier trained on many phantoms of other patients, and fresh phantoms
to compare with.

    train   10,000 phantoms, on which the oracle is trained
    val     2,500 others: their near-copy rate is the null rate, their figures are those of a perfect generator
    test    2,500 fresh ones, with which generated images are compared

All of other patients than the set that generators are trained on, the same number of each class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.common import CLONE
from benchmarks.gan.jobs import launch
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import to_float
from cxrdist.features.classifier import load_classifier
from cxrdist.features.distances import kernel_distance, manifolds, nearest
from cxrdist.nets.dcnn import DCNN
from cxrdist.phantom import CLASSES
from cxrdist.run.folder import SUMMARY

SEED = 777_001  # of the phantoms; a patient is a function of seed and number
K = 5
COPY_PERCENTILE = 1.0
COPY_SIDE = 32
BATCH = 250
MIN_DEVIATION = 0.1
"""Of a feature, over the median of all: less would let a feature that hardly varies dominate the kernel."""
FIGURES = ("agreement", "coverage", "recall", "precision", "kid_1000", "copies")

Images = Mapping[str, np.ndarray]
"""``{class: [n, H, W] uint8}``."""


@dataclass(frozen=True, kw_only=True)
class EqualPhantoms(Phantom):
    """Phantoms with one image per patient, the same number of each class."""

    train_per_class: int = 2000
    val_per_class: int = 500
    test_per_class: int = 500

    default_split = "official"

    def records(self) -> Iterator[Record]:
        first = 0
        counts = (self.train_per_class, self.val_per_class, self.test_per_class)
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            for number in range(count):
                for i, label in enumerate(CLASSES):
                    yield self._record(first + number * len(CLASSES) + i, 0, label, split)
            first += count * len(CLASSES)


def phantom_set(folder: Path, size: int, *, learned: int, fresh: int) -> ShardSet:
    """The judge's phantoms, ``learned`` of each class in train, ``fresh`` in val and test; computed by the first
    call."""
    options = IngestOptions(out=str(folder), size=size, encoding="npy", seed=SEED)
    phantoms = EqualPhantoms(seed=SEED, train_per_class=learned, val_per_class=fresh, test_per_class=fresh)
    ingest(phantoms, options)
    return ShardSet(folder)


def oracle(folder: Path, shards: ShardSet, budget: str, processes: int) -> DCNN:
    """The classifier of the run ``folder``; trained by the first call.

    Its width is twice that of the project's classifier for 64 px. One validation at the end: no weights are selected.
    """
    if not (folder / SUMMARY).exists():
        words = ["--mix", "DS1", "--shards", str(shards), "--run", str(folder)]
        for preset in ("px64.yaml", "augment.yaml"):
            words += ["--config", str(CLONE / "configs/cls" / preset)]
        words += ["--widths", "[32,64,128]", "--hidden", "256", "--batch", "64", "--learning-rate", "1e-3"]
        words += ["--budget", budget, "--evaluations", "1"]
        launch("train_cls.py", *words, processes=processes)
    network = load_classifier(folder, shards).network
    assert isinstance(network, DCNN)
    return network


@dataclass(frozen=True)
class Embedded:
    """Images of one class."""

    features: Tensor
    """[n, D]: means of the oracle's last feature maps."""
    predicted: Tensor
    """[n] int64: labels by the oracle."""
    pixels: Tensor
    """[n, 32 x 32]: the images averaged down."""


@torch.no_grad()
def embed(network: DCNN, images: np.ndarray) -> Embedded:
    """Images [n, H, W] uint8; those that are larger than the oracle's are averaged down."""
    size = network.cfg.size
    if images.shape[-1] % size:
        raise SystemExit(f"images of {images.shape[-1]} px do not average down to the oracle's {size} px")
    parts = []
    for some in torch.from_numpy(images)[:, None].split(BATCH):
        floats = avg_pool2d(to_float(some), images.shape[-1] // size)
        maps = network.stages(floats.contiguous(memory_format=torch.channels_last))
        predicted = network.mlp(maps.contiguous().flatten(1)).argmax(1)
        pixels = avg_pool2d(floats, floats.shape[-1] // COPY_SIDE).flatten(1)
        parts.append((maps.mean((2, 3)), predicted, pixels))
    return Embedded(*(torch.cat(some) for some in zip(*parts, strict=True)))


class Judge:
    """Compares images of every class with fresh phantoms, and with the images that a generator was trained on."""

    def __init__(self, network: DCNN, phantoms: ShardSet, train: ShardSet) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.classes = phantoms.classes
        self.fresh = {name: self._embedded(images) for name, images in all_images(phantoms, "test").items()}
        self.train = {name: self._embedded(images) for name, images in all_images(train, "train").items()}
        every = torch.cat([one.features for one in self.fresh.values()])
        deviation = every.std(0)
        self.mean, self.deviation = every.mean(0), deviation.clamp_min(MIN_DEVIATION * deviation.median())

    def _embedded(self, images: np.ndarray) -> Embedded:
        return embed(self.network, images)

    def figures(self, images: Images) -> dict[str, dict[str, float]]:
        """``{figure: {class: value}}`` of FIGURES.

        ``agreement``: share of images that the oracle assigns to their class. ``kid_1000``: KID x 1000 of features
        standardised on the fresh phantoms. ``copies``: share of images at most as far from a training image as the
        closest 1 % of the fresh phantoms are, in pixels.
        """
        by_class = {name: self._class_figures(name, images[name]) for name in self.classes}
        return {figure: {name: found[figure] for name, found in by_class.items()} for figure in FIGURES}

    def _class_figures(self, name: str, images: np.ndarray) -> dict[str, float]:
        made, fresh, train = self._embedded(images), self.fresh[name], self.train[name]
        kid = kernel_distance(self._standardised(made), self._standardised(fresh))
        overlap = manifolds(made.features, fresh.features, K)
        if kid is None or overlap is None:
            raise ValueError(
                f"{name}: {len(images)} images are too few to compare; at least {K + 1} are needed"
            )
        limit = torch.quantile(nearest(fresh.pixels, train.pixels)[0], COPY_PERCENTILE / 100)
        is_copy = nearest(made.pixels, train.pixels)[0] <= limit
        return {
            "agreement": float((made.predicted == self.classes.index(name)).double().mean()),
            "coverage": overlap.coverage,
            "recall": overlap.recall,
            "precision": overlap.precision,
            "kid_1000": 1000 * kid,
            "copies": float(is_copy.double().mean()),
        }

    def _standardised(self, images: Embedded) -> Tensor:
        return (images.features - self.mean) / self.deviation


def all_images(shards: ShardSet, split: str) -> dict[str, np.ndarray]:
    """The real images of each class."""
    return {
        name: shards.images(split, name, "real", shards.samples(split, name, "real"))
        for name in shards.classes
    }


def means(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """``{figure: mean over classes}``."""
    return {figure: mean(by_class.values()) for figure, by_class in figures.items()}
