"""Classify image files, folders, DICOM files or shard sets with trained classifiers.

places -> images (a name, pixels or why there are none) -> mean probabilities of the classifiers -> CSV
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cxrdist.console import Progress
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import load_grey
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError
from cxrdist.models import TrainedClassifier

BATCH = 64
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".npy", "")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image to classify."""

    name: str
    """Its path, or its key in a set."""
    pixels: np.ndarray | None
    """[H, W] uint8; None if it cannot be read."""
    error: str = ""
    """Why it cannot be read."""
    label: str = ""
    """Its class in the set; "" for a file."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Images in the order in which they were given, with the probabilities of those that could be read."""

    classes: tuple[str, ...]
    images: list[Image] = field(default_factory=list)
    """Without their pixels."""
    probabilities: list[np.ndarray | None] = field(default_factory=list)
    """[C] float32 of each image."""

    @property
    def unread(self) -> list[Image]:
        return [image for image in self.images if image.error]


def files_of(path: Path) -> list[Path]:
    """The image files at or below a path, in order. Raises UserError if there are none."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() in SUFFIXES
    )
    if not found:
        raise UserError(f"{path}: no PNG, JPEG, DICOM or npy image in this folder")
    return found


@dataclass(frozen=True)
class Source:
    """A place that was given: image files, or a shard set."""

    files: list[Path]
    shards: ShardSet | None
    splits: Sequence[str]
    """Of the shard set."""

    @property
    def strata(self) -> list[StratumEntry]:
        entries = self.shards.manifest.strata if self.shards is not None else []
        return [entry for entry in entries if entry.stratum.split in self.splits]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files) + sum(entry.samples for entry in self.strata)

    def images(self, classifier: TrainedClassifier) -> Iterator[Image]:
        """The images, made square as those that the classifier was trained on."""
        for file in self.files:
            yield _of_file(file, classifier)
        if self.shards is not None:
            yield from _of_set(self.shards, self.strata, classifier)


def open_source(place: str, splits: Sequence[str]) -> Source:
    """A file, a folder, or a shard set. Raises UserError for a place without images."""
    if "://" in place or (Path(place) / MANIFEST).is_file():
        return Source([], ShardSet(store_of(place)), splits)
    return Source(files_of(Path(place)), None, splits)


def _of_file(file: Path, classifier: TrainedClassifier) -> Image:
    try:
        pixels = load_grey(file, classifier.image_size, classifier.fit)
    except UndecodableImage as error:
        return Image(name=str(file), pixels=None, error=error.reason)
    return Image(name=str(file), pixels=pixels)


def _of_set(
    shards: ShardSet, strata: Sequence[StratumEntry], classifier: TrainedClassifier
) -> Iterator[Image]:
    if shards.image_size != classifier.image_size:
        raise UserError(
            f"{shards}: images of {shards.image_size} px, but the classifier was trained on "
            f"{classifier.image_size} px: make a set of that size with `cxrdist shards convert {shards} --size "
            f"{classifier.image_size}`"
        )
    for entry in strata:
        stratum = entry.stratum
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        label = stratum.class_name if stratum.class_name in shards.classes else ""
        for number in range(reader.samples):
            yield Image(name=reader.key(number).decode(), pixels=reader.pixels(number), label=label)


def predict(
    classifiers: Sequence[TrainedClassifier],
    sources: Sequence[Source],
    *,
    device: torch.device,
    explain: Callable[[Image, int], None] | None = None,
) -> Predicted:
    """The mean probabilities of the classifiers, which have the same classes.

    ``explain`` is called with each image that could be read and the index of its predicted class.
    """
    found = Predicted(classes=classifiers[0].classes)
    left = (image for source in sources for image in source.images(classifiers[0]))
    with Progress("predict", sum(map(len, sources))) as progress:
        while some := list(islice(left, BATCH)):
            readable = [image.pixels for image in some if image.pixels is not None]
            means: Sequence[np.ndarray] = []
            if readable:
                pixels = np.stack(readable)
                means = np.mean([c.probabilities(pixels, device=device) for c in classifiers], axis=0)
            rows = iter(means)
            for image in some:
                row = None if image.pixels is None else next(rows)
                if row is not None and explain is not None:
                    explain(image, int(row.argmax()))
                found.images.append(replace(image, pixels=None))
                found.probabilities.append(row)
            progress.advance(len(some))
    return found


def check_same(classifiers: Sequence[TrainedClassifier], runs: Sequence[str]) -> None:
    """Raises UserError if their probabilities cannot be averaged."""
    first = classifiers[0]
    for run, other in zip(runs, classifiers, strict=True):
        for what, ours, theirs in (
            ("classes", first.classes, other.classes),
            ("image size", first.image_size, other.image_size),
        ):
            if ours != theirs:
                raise UserError(
                    f"{runs[0]} and {run} differ in their {what} ({ours} and {theirs}): predict one by one"
                )
