"""Fit the gates on the real train split, and calibrate their thresholds on the real validation split.

All ranks compute the features of a part of the real images and gather them, so all have the same gates. No image of
the test split is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cxrdist.console import Progress
from cxrdist.data.shards.manifest import UNLABELLED_STRATUM
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.features.embed import Embedder, patients_of
from cxrdist.features.spaces import PIXELS, Space, classifier_space, pixel_space, random_space
from cxrdist.models import TrainedClassifier
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import CopyGate, TrainImages, coarse
from cxrdist.synth.gates.duplicates import limit_of
from cxrdist.synth.gates.judge import Gate, Judge, see
from cxrdist.synth.gates.label import LabelGate
from cxrdist.synth.gates.pixels import STATISTICS, PixelGate, statistics_space
from cxrdist.synth.gates.realism import RealismGate
from cxrdist.synth.gates.thresholds import thresholds

FITTED_ON, CALIBRATED_ON = "train", "val"
MIN_CALIBRATION_IMAGES = 20

Seen = dict[str, dict[str, Tensor]]
"""``{class: {space: [n, D]}}``."""


def fit(
    config: GatesConfig,
    real: ShardSet,
    class_names: Sequence[str],
    classifiers: Sequence[TrainedClassifier],
    dist: Dist,
) -> Judge:
    """The gates for generated images of ``class_names``. All ranks call this.

    Raises UserError if the set has too few validation images to calibrate them.
    """
    if config.is_off:
        return Judge(config, device=dist.device)
    spaces = _spaces(config, classifiers, real.image_size, dist.device)
    check_calibration(real, class_names)
    train, val = _see_real(real, spaces, dist)
    gates: list[Gate] = []
    for name, percent in config.percents.items():
        if name == "pixels":
            gates.append(PixelGate({c: of[STATISTICS] for c, of in train.items()}))
        elif name == "realism":
            compared = [space.name for space in spaces if space.name not in (PIXELS, STATISTICS)]
            gates.append(RealismGate([compared[0], compared[-1]], train, val, percent))
        elif name == "label":
            gates.append(LabelGate(classifiers[0].classes))
        else:
            images, patients = _train_images(real, train, dist)
            gates.append(CopyGate(TrainImages.of(images, patients)))
    calibrated = []
    for gate in gates:
        # By class, so that each of a class's validation images is compared with that class.
        scores = {name: gate.scores(name, of).cpu().numpy() for name, of in val.items()}
        percent = config.percents[gate.name]
        limits = thresholds(scores, percent, refuses_high=gate.refuses_high, at_least=gate.at_least)
        calibrated.append((gate, limits))
    limit = None
    if config.duplicates is not None:
        limit = limit_of(
            {name: coarse(of[PIXELS]) for name, of in train.items()},
            {name: coarse(of[PIXELS]) for name, of in val.items()},
            config.duplicates,
        )
    space = spaces[0].name if config.coverage is not None else None
    return Judge(
        config,
        spaces,
        calibrated,
        [classifier.weights_sha256 for classifier in classifiers],
        limit,
        space,
        {name: train[name][space] for name in class_names} if space else {},
        dist.device,
    )


def check_calibration(real: ShardSet, class_names: Iterable[str]) -> None:
    """Raises UserError if the set has too few validation images, or no training images of one of these classes."""
    for name in class_names:
        if not real.samples(FITTED_ON, name, "real"):
            raise UserError(
                f"{real} has no training image of {name}, with which the gates compare: leave the class out "
                "(--count 'class=number'), or add --gates none"
            )
    count = sum(real.samples(CALIBRATED_ON, name, "real") for name in real.classes)
    if count < MIN_CALIBRATION_IMAGES:
        raise UserError(
            f"{real}: {count} images in its val split, and the gates are calibrated on at least "
            f"{MIN_CALIBRATION_IMAGES}: import the set with a larger --val, or add --gates none"
        )


def _spaces(
    config: GatesConfig, classifiers: Sequence[TrainedClassifier], image_size: int, device: torch.device
) -> list[Space]:
    """What the gates in use look at. The first one is that of the first classifier."""
    spaces = []
    for number, classifier in enumerate(classifiers, 1) if config.needs_classifier else ():
        space = classifier_space(classifier, device)
        spaces.append(space if number == 1 else dataclasses.replace(space, name=f"{space.name} {number}"))
    if config.pixels is not None:
        spaces.append(statistics_space(image_size))
    if config.copy is not None or config.duplicates is not None:
        spaces.append(pixel_space())
    if config.realism is not None:
        spaces.append(random_space(image_size, device))
    return spaces


def _see_real(real: ShardSet, spaces: Sequence[Space], dist: Dist) -> tuple[Seen, Seen]:
    """What the gates see of the real images of train and val."""
    found: dict[str, Seen] = {FITTED_ON: {}, CALIBRATED_ON: {}}
    total = sum(real.samples(split, name, "real") for split in found for name in real.classes)
    with Progress("gates: real images of train and val", total) as progress:
        embedder = Embedder(spaces, real.image_size, dist, progress)
        for split, seen in found.items():
            for name in real.classes:
                if not real.samples(split, name, "real"):
                    continue
                reader = real.stratum(split, name, "real")
                seen[name] = see(embedder.embed_real(reader, np.arange(reader.samples)))
    train, val = found[FITTED_ON], found[CALIBRATED_ON]
    return train, _with_all_classes(val, train)


def _train_images(real: ShardSet, train: Seen, dist: Dist) -> tuple[Tensor, Tensor]:
    """All training images under ``PIXELS`` [m, 1024], and their patients [m] int64, numbered: class by class, then
    those without a class, since a GAN may have learned from them, too."""
    pixels = [of[PIXELS] for of in train.values()]
    readers = [real.stratum(FITTED_ON, name, "real") for name in train]
    if real.unlabelled_samples:
        unlabelled = real.stratum(*dataclasses.astuple(UNLABELLED_STRATUM))
        readers.append(unlabelled)
        with Progress("gates: real images without a class", unlabelled.samples) as progress:
            embedder = Embedder([pixel_space()], real.image_size, dist, progress)
            pixels.append(see(embedder.embed_real(unlabelled, np.arange(unlabelled.samples)))[PIXELS])
    patients = np.concatenate([patients_of(reader, np.arange(reader.samples)) for reader in readers])
    groups = np.unique(patients, return_inverse=True)[1]
    return torch.cat(pixels), torch.from_numpy(groups).to(dist.device)


def _with_all_classes(val: Seen, train: Mapping[str, Mapping[str, Tensor]]) -> Seen:
    """A class without validation images has none of each, and takes the thresholds of all classes."""
    like = next(iter(val.values()))
    return {name: val.get(name) or {space: values[:0] for space, values in like.items()} for name in train}
