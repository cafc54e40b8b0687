"""How many images of each class a synthesis makes, from which generator, in which shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import samples_per_shard
from cxrdist.errors import OptionError, UserError, nearest
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.generators.sources import BLOCK, ImageSource

MIN_SHARDS_PER_CLASS = 8
MAX_IMAGES = 10**9
"""Of a class."""


@dataclass(frozen=True)
class Task:
    """One shard to write: the first images that are admitted, as many as ``samples``, of blocks ``first_block``,
    ``first_block + stride``, ``first_block + 2 stride`` ... of a generator."""

    class_name: str
    number: int
    samples: int
    source: ImageSource
    first_block: int
    stride: int


@dataclass
class ClassProgress:
    """Of one class, while its shards are written."""

    next_number: int
    """Of its next shard."""
    next_blocks: dict[str, int]
    """By the digest of each generator: the first block that no shard has drawn."""


def mix_rule(config: SynthConfig) -> MixRule:
    return named_rule(config.mix_name)


def images_to_make(config: SynthConfig, real: ShardSet) -> dict[str, int]:
    """``{class: images}``: what ``count`` says, else the synthetic images in one epoch of the mix. Raises UserError
    if the mix uses none."""
    if config.count is not None:
        return counted(config.count, real.classes)
    rule = mix_rule(config)
    if not rule.needs_synthetic:
        raise OptionError("mix", f"{rule.name} uses no synthetic images; choose a mix that does, such as DS3")
    quota = quotas(rule, train_counts(real, None))
    wanted = {name: q["synthetic"] for name, q in quota.items() if q.get("synthetic")}
    if not wanted:
        raise UserError(
            f"an epoch of {rule.name} on {real} contains no synthetic image: raise their quota in the rule"
        )
    return wanted


def counted(text: str, classes: Sequence[str]) -> dict[str, int]:
    """``{class: images}`` of '1000', for all classes, or of 'A=5000,B=2000'. Raises OptionError for anything else."""
    if "=" not in text:
        return dict.fromkeys(classes, _images(text, text))
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals:
            raise OptionError("count", f"{text!r}: {part.strip()!r} is not written as 'class=number'")
        if name not in classes:
            raise OptionError("count", f"{name!r} is no class of the set{nearest(name, classes)}")
        if name in found:
            raise OptionError("count", f"{text!r}: {name} is named twice")
        found[name] = _images(number, text)
    return {name: found[name] for name in classes if name in found}


def _images(number: str, text: str) -> int:
    digits = number.strip().replace("_", "")
    if not digits.isdecimal() or int(digits) < 1:
        raise OptionError(
            "count", f"{text!r}: must be a number of images of 1 or more, or 'class=number,...'"
        )
    if int(digits) > MAX_IMAGES:
        raise OptionError("count", f"{text!r}: at most {MAX_IMAGES:,} images of a class")
    return int(digits)


def plan_shards(
    wanted: Mapping[str, int],
    sources: Mapping[str, Sequence[ImageSource]],
    progress: Mapping[str, ClassProgress],
    image_size: int,
    encoding: str,
) -> list[Task]:
    """The shards for ``{class: images}``: a function of these numbers alone, not of the ranks that write them.

    Several generators of a class make equal shares of it. A shard holds an eighth of its generator's share, so that
    several ranks have work, but at least 64 images and at most ``samples_per_shard``.
    """
    tasks = []
    for name, images in wanted.items():
        number = progress[name].next_number
        of_class = sources[name]
        for place, source in enumerate(of_class):
            share = images * (place + 1) // len(of_class) - images * place // len(of_class)
            length = min(
                samples_per_shard(image_size, encoding), max(BLOCK, -(-share // MIN_SHARDS_PER_CLASS))
            )
            starts = range(0, share, length)
            first_block = progress[name].next_blocks.get(source.digest, 0)
            for shard, first in enumerate(starts):
                samples = min(length, share - first)
                tasks.append(Task(name, number, samples, source, first_block + shard, len(starts)))
                number += 1
    return tasks
