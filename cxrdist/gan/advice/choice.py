"""Which options fit a training set and a machine: those of a preset, and the few that are changed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cxrdist.config.budget import budget_steps
from cxrdist.config.presets import PRESETS, preset_of
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import Quotas, quotas
from cxrdist.errors import UserError
from cxrdist.gan.advice.cost import Cost, cost_of
from cxrdist.gan.advice.machine import Machine
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import network_config
from cxrdist.gan.plan import unlabelled_quota

SMALL_PX, MEDIUM_PX, _ = PRESETS["gan"]
FEW_PRESET = "configs/gan/nih64.yaml"
"""Over the preset for small images, for radiographs with small classes."""

COPIED_BELOW = 40
"""Training images of a class below which near copies are to be expected: of 25 images, 42 to 63 % (docs/gans.md)."""
SOMETIMES_COPIED_BELOW = 60
"""Classes of 42 and 56 images: 0 to 29 % (docs/gans.md)."""
BALANCED_MIX, RARER_MIX = "balanced", "square-root"
FEWER_USES = 0.8
"""A mix is changed if an image of a small class is then seen at most so many times as often."""
LEAST_OF_CLASS, GOOD_OF_CLASS = 2, 4
"""Images of a class in a batch: minibatch standard deviation needs two; the presets were measured with four."""


@dataclass(frozen=True)
class TrainingSet:
    """What is known of a set before a training."""

    place: str
    """Where the set lies, or will lie."""
    image_size: int
    """Side of the images in pixels."""
    counts: Mapping[str, int]
    """``{class: images}`` of the train split."""
    unlabelled: int = 0
    is_phantom: bool = False

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def classes(self) -> list[str]:
        """The classes that have images."""
        return [name for name, images in self.counts.items() if images]

    def classes_of(self, least: int, below: int) -> dict[str, int]:
        """``{class: images}`` of the classes with at least ``least`` and fewer than ``below`` images."""
        return {name: images for name, images in self.counts.items() if least <= images < below}

    @property
    def copied(self) -> dict[str, int]:
        """The classes of which near copies are to be expected."""
        return self.classes_of(1, COPIED_BELOW)


@dataclass(frozen=True)
class Choice:
    """A preset, and the options that differ from it."""

    training: TrainingSet
    machine: Machine
    preset_files: tuple[str, ...]
    """The later ones override the earlier ones."""
    preset: GANConfig
    options: Mapping[str, Any]
    """Fields of GANConfig that are given on the command line."""

    @cached_property
    def config(self) -> GANConfig:
        return replace(self.preset, **self.options)

    @property
    def words(self) -> list[str]:
        """The options of train_gan.py."""
        files = [word for file in self.preset_files for word in ("--config", file)]
        return [
            *files,
            *(word for field, value in self.options.items() for word in option_words(field, value)),
        ]

    @property
    def command(self) -> str:
        return shlex.join(
            ["accelerate", "launch", *launch_words(self.machine), "launch/train_gan.py", *self.words]
        )

    @cached_property
    def cost(self) -> Cost:
        labels = len(self.training.classes) + self.config.use_unlabelled
        return cost_of(self.config, image_size=self.training.image_size, labels=labels)

    @cached_property
    def images(self) -> int:
        """Images that the budget trains on, repeated ones counted each time."""
        steps = budget_steps(self.config.budget, epoch_images=self.training.images, batch=self.config.batch)
        return steps * self.config.batch

    @property
    def images_per_class(self) -> float:
        """Images of a class that the budget trains on, on average over the classes; repeated ones counted each
        time."""
        labelled = sum(self.uses(name) * self.training.counts[name] for name in self.training.classes)
        return labelled / len(self.training.classes)

    def uses(self, class_name: str) -> float:
        """How often each image of a class is seen in the training."""
        return uses(self.config, self.training, self.images)[class_name]


def option_words(field: str, value: Any) -> list[str]:
    """A field of GANConfig as it is written on the command line."""
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", "null" if value is None else str(value)]


def presets_for(training: TrainingSet) -> tuple[str, ...]:
    """The config files that are advised for a set."""
    preset = preset_of("gan", training.image_size)
    has_few = training.copied and not training.is_phantom
    return (preset, FEW_PRESET) if has_few and training.image_size <= SMALL_PX else (preset,)


def choose(
    training: TrainingSet, machine: Machine, preset_files: tuple[str, ...], preset: GANConfig, run: str
) -> Choice:
    """Raises UserError for a set whose size or classes no GAN fits."""
    options: dict[str, Any] = {"shards": training.place, "run": run}
    if (batch := batch_for(preset.batch, len(training.classes), machine.processes)) != preset.batch:
        options["batch"] = batch
    if preset.use_unlabelled and not training.unlabelled:
        options |= {"use_unlabelled": False, "unlabelled_share": None}
    if training.copied and FEW_PRESET not in preset_files:
        rarer = replace(preset, mix=RARER_MIX)
        before, after = (uses(config, training, 1) for config in (preset, rarer))
        if any(after[name] <= FEWER_USES * before[name] for name in training.copied):
            options["mix"] = RARER_MIX
        if training.unlabelled:
            options["use_unlabelled"] = True
    choice = Choice(training, machine, preset_files, preset, options)
    try:
        network_config(choice.config, image_size=training.image_size, classes=len(training.classes))
    except UserError as error:
        raise UserError(f"{training.place}: {error}: choose one of these with --size") from None
    epoch(choice.config, training)
    return choice


def batch_for(preset_batch: int, classes: int, processes: int) -> int:
    """The preset's global batch size, or a larger one that holds enough images of each class and divides equally
    among the processes."""
    batch = preset_batch if preset_batch >= LEAST_OF_CLASS * classes else GOOD_OF_CLASS * classes
    return -(-batch // processes) * processes


def uses(config: GANConfig, training: TrainingSet, images: int) -> dict[str, float]:
    """How often each image of a class is seen when ``images`` are trained on."""
    of_classes = epoch(config, training)
    total = sum(origins.get("real", 0) for origins in of_classes.values())
    if config.use_unlabelled:
        total += unlabelled_quota(config, of_classes)
    return {
        name: images * of_classes[name].get("real", 0) / total / count
        for name, count in training.counts.items()
        if count
    }


def epoch(config: GANConfig, training: TrainingSet) -> Quotas:
    rule = named_rule(config.mix)
    return quotas(rule, {name: {"real": count} for name, count in training.counts.items()})


def launch_words(machine: Machine) -> list[str]:
    """The options of ``accelerate launch``."""
    if len(machine.gpus) > 1:
        return ["--config_file", "configs/accelerate/gpu.yaml", "--num_processes", str(len(machine.gpus))]
    return ["--num_processes", "1"]
