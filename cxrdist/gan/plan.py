"""Which models a run trains (one per class, or one of all classes), and which process trains which.

config, shard set -> models with their training images, steps and learning rate -> a share for each process
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cxrdist.config.budget import budget_steps, evenly_spaced
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import Quotas, quotas
from cxrdist.data.shards.schema import UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AugmentConfig
from cxrdist.errors import OptionError, nearest
from cxrdist.files import slug
from cxrdist.gan.config import GANConfig
from cxrdist.models import ALL_CLASSES

MAX_RATE_FACTOR = 10.0
MAX_STRENGTH = 1.5
LOOKS = 10
LAST_RATE = 0.05
"""The learning rate at the end of a decay, as a fraction of the one before it."""


@dataclass(frozen=True)
class ModelPlan:
    """One G and D to train."""

    name: str
    """The class, or ``all classes``."""
    classes: tuple[str, ...]
    """The classes that it generates."""
    quotas: Quotas
    """``{class: {"real": images}}`` of one epoch; the last class may be ``UNLABELLED``."""
    train_images: int
    """Number of distinct training images."""
    steps: int
    learning_rate: float

    @property
    def labels(self) -> tuple[str, ...]:
        """The class of each label of the networks: ``classes``, then ``UNLABELLED`` if the model trains on such
        images."""
        return (*self.classes, *([UNLABELLED] if UNLABELLED in self.quotas else []))

    @property
    def folder(self) -> str:
        return slug(self.name)


def plan(config: GANConfig, shards: ShardSet) -> list[ModelPlan]:
    """The models of a run, in the set's order of classes. Raises UserError for an unknown class, or a mix that uses
    synthetic images."""
    classes = choose_classes(config.classes, shards)
    if config.architecture == "dcgan":
        return [
            _model(config, name, {name: {"real": _available(config, shards, name)}}, shards)
            for name in classes
        ]
    if 1 < len(classes) < len(shards.classes):
        raise OptionError(
            "classes",
            f"{','.join(classes)}: a conditional GAN trains on all classes of its set or on one of them; name one, "
            "remove this option, or set --architecture dcgan",
        )
    rule = named_rule(config.mix)
    if rule.needs_synthetic:
        raise OptionError(
            "mix", f"{config.mix}: a GAN trains on real images only; choose a mix without synthetic ones"
        )
    counts = train_counts(shards, None)
    of_epoch = quotas(rule, {name: counts[name] for name in classes})
    if config.use_unlabelled:
        if not shards.unlabelled_samples:
            raise OptionError(
                "use_unlabelled",
                f"{shards} has no unlabelled images; import it with --keep-unlabelled, or remove this option",
            )
        of_epoch = {**of_epoch, UNLABELLED: {"real": unlabelled_quota(config, of_epoch)}}
    is_of_one = len(classes) == 1 < len(shards.classes)
    return [_model(config, classes[0] if is_of_one else ALL_CLASSES, of_epoch, shards)]


def unlabelled_quota(config: GANConfig, of_classes: Quotas) -> int:
    """Number of unlabelled images in an epoch."""
    used = [origins["real"] for origins in of_classes.values() if origins.get("real")]
    if config.unlabelled_share is None:
        return max(1, round(sum(used) / len(used)))
    share = config.unlabelled_share
    return max(1, round(sum(used) * share / (1 - share)))


def choose_classes(asked: tuple[str, ...], shards: ShardSet) -> list[str]:
    """The classes to train, in the set's order. Raises UserError for an unknown class."""
    if asked == ("all",):
        return shards.classes
    for name in asked:
        if name not in shards.classes:
            raise OptionError(
                "classes", f"{name!r} is not a class of {shards}{nearest(name, shards.classes)}"
            )
    return [name for name in shards.classes if name in asked]


def learning_rate_of(config: GANConfig, train_images: int) -> float:
    """Adam's learning rate for a number of training images. With ``rate_images``, rate times steps per epoch is
    constant, up to ten times ``learning_rate`` (the paper: 2e-4 to 2e-3 by dataset size)."""
    if config.rate_images is None:
        return config.learning_rate
    return config.learning_rate * min(MAX_RATE_FACTOR, max(1.0, config.rate_images / train_images))


def augment_strengths(config: GANConfig, model: ModelPlan, shards: ShardSet) -> Tensor | None:
    """[labels] float32: the factor of the amounts of ``config.augment`` for each label; None if it is off."""
    if config.augment == AugmentConfig():
        return None
    if config.augment_images is None:
        return torch.ones(len(model.labels))
    counts = [
        shards.unlabelled_samples if name == UNLABELLED else _available(config, shards, name)
        for name in model.labels
    ]
    return torch.tensor([min(MAX_STRENGTH, config.augment_images / count) for count in counts])


def rate_factor(decay: float, step: int, steps: int) -> float:
    """The factor of the learning rate at a step: 1, and over the last part ``decay`` of the steps falling linearly to
    ``LAST_RATE``."""
    if not decay:
        return 1.0
    left = (steps - step) / (steps * decay)  # 1 where the decay begins, 0 at the end
    return min(1.0, LAST_RATE + (1 - LAST_RATE) * left)


def look_steps(steps: int, batch: int, every_images: int | None) -> set[int]:
    """The steps, counted from 1, after which to look: the first one at or past each multiple of ``every_images``, or
    ten evenly spaced ones; always the last one."""
    if every_images is None:
        return evenly_spaced(steps, LOOKS)
    wanted = range(every_images, steps * batch + 1, every_images)
    return {-(-images // batch) for images in wanted} | {steps}


def shares(models: Sequence[ModelPlan], processes: int) -> list[list[ModelPlan]]:
    """The models of each process, in order: each model, longest first, goes to the process with the fewest steps so
    far. Some processes get none if there are fewer models than processes."""
    dealt: list[list[ModelPlan]] = [[] for _ in range(processes)]
    for model in sorted(models, key=lambda m: -m.steps):
        min(dealt, key=lambda share: sum(m.steps for m in share)).append(model)
    return dealt


def _available(config: GANConfig, shards: ShardSet, class_name: str) -> int:
    available = shards.samples("train", class_name, "real")
    return min(available, config.images_per_class or available)


def _model(config: GANConfig, name: str, of_epoch: Quotas, shards: ShardSet) -> ModelPlan:
    used = [class_name for class_name, origins in of_epoch.items() if origins.get("real")]
    classes = tuple(class_name for class_name in used if class_name != UNLABELLED)
    train_images = sum(_available(config, shards, class_name) for class_name in classes)
    if UNLABELLED in used:
        train_images += shards.unlabelled_samples
    epoch_images = sum(of_epoch[class_name]["real"] for class_name in used)
    return ModelPlan(
        name,
        classes,
        of_epoch,
        train_images,
        budget_steps(config.budget, epoch_images=epoch_images, batch=config.batch),
        learning_rate_of(config, train_images),
    )
