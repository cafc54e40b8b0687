"""What draws the images of each class: generators of GAN runs, or one of the user's own.

Image i of a class is a function of (digest of the generator, seed, class, i). It is drawn in a fixed block of 64,
since the last bits of a convolution may depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import slug
from cxrdist.models import ALL_CLASSES, MODEL_FILE, TrainedGenerator, load_generator, mismatch_with

BLOCK = 64
"""Images that are always drawn together: those of indices 64 b to 64 b + 63."""
TRAIN_SPLIT, UNKNOWN = "train split", "unknown"


class ImageSource(Protocol):
    """Draws the images of one or several classes."""

    @property
    def kind(self) -> str:
        """Architecture, or the name of the user's generator."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the images."""
        ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def training_data(self) -> str:
        """``train split`` of the real set, or ``unknown``."""
        ...

    def block(self, class_name: str, seed: int, number: int) -> np.ndarray:
        """The images of indices ``BLOCK * number`` on, [BLOCK, H, W] uint8."""
        ...

    def to(self, device: torch.device) -> None:
        """Draw there from now on."""
        ...


@dataclass(frozen=True)
class GanSource:
    """A generator of a run of train_gan.py."""

    generator: TrainedGenerator
    training_data: str = TRAIN_SPLIT

    @property
    def kind(self) -> str:
        return self.generator.architecture

    @property
    def digest(self) -> str:
        return self.generator.weights_sha256

    @property
    def classes(self) -> Sequence[str]:
        return self.generator.classes

    @property
    def image_size(self) -> int:
        return self.generator.image_size

    def block(self, class_name: str, seed: int, number: int) -> np.ndarray:
        indices = range(number * BLOCK, (number + 1) * BLOCK)
        return self.generator.images(class_name, self.generator.z(seed, f"synthesis {class_name}", indices))

    def to(self, device: torch.device) -> None:
        self.generator.network.to(device)


def gan_sources(
    runs: Sequence[Path], classes: Iterable[str], shards: ShardSet
) -> dict[str, list[ImageSource]]:
    """``{class: a source of each run}``: the generator of that class alone, else the one of all classes (the same
    object for each of them).

    Raises UserError if one is missing, was changed, has another image size, or was trained on anything but the train
    split of ``shards`` or of a set of its family; and if two runs have the same generator.
    """
    found: dict[str, list[ImageSource]] = {}
    loaded: dict[Path, GanSource] = {}
    for name in classes:
        of_class: list[ImageSource] = []
        for run in runs:
            folder = _folder_of(run, name, shards)
            if folder not in loaded:
                loaded[folder] = GanSource(load_generator(folder))
                _check(loaded[folder].generator, folder, run, shards)
            source = loaded[folder]
            if name not in source.classes:
                raise UserError(
                    f"{folder}: the classes of this generator are {', '.join(source.classes)}, not {name}; train "
                    f"another with `{_training(run, shards)}-other`"
                )
            if source.digest in [other.digest for other in of_class]:
                raise UserError(f"{folder}: another run of --gan has the same generator; name each once")
            of_class.append(source)
        found[name] = of_class
    return found


def _folder_of(run: Path, class_name: str, shards: ShardSet) -> Path:
    for folder in (run / slug(class_name), run / slug(ALL_CLASSES)):
        if (folder / MODEL_FILE).exists():
            return folder
    raise UserError(
        f"{run} has no finished generator of {class_name}; train it with `{_training(run, shards)}`"
    )


def _check(generator: TrainedGenerator, folder: Path, run: Path, shards: ShardSet) -> None:
    problem = mismatch_with(generator, shards)
    if problem is None:
        return
    if problem.kind == "lineage":
        reason = (
            f"was trained on another set ({problem.model[:12]}) than the train split of {shards} "
            f"({problem.shards[:12]})"
        )
    else:
        reason = f"generates images of {problem.model} px, but {shards} has {problem.shards} px"
    raise UserError(
        f"{folder}: this generator {reason}; train one on this set with `{_training(run, shards)}-other`"
    )


def _training(run: Path, shards: ShardSet) -> str:
    return f"accelerate launch launch/train_gan.py --shards {shards} --run {run}"
