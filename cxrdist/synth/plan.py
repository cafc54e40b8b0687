"""What a synthesis writes: how many images of each class, from which generator, in which shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.manifest import Provenance, checked_provenance
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import samples_per_shard
from cxrdist.errors import OptionError, UserError, nearest
from cxrdist.models import TrainedGenerator
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates import GreyGate, scores_of

CANDIDATE_BATCH = 64
PROBED_CANDIDATES = 4 * CANDIDATE_BATCH
MIN_PASS_RATE = 0.05
MIN_SHARDS_PER_CLASS = 8


@dataclass(frozen=True)
class Source:
    """One class of the set: how many images of it, and what generates and filters them."""

    class_name: str
    images: int
    generator: TrainedGenerator
    gate: GreyGate


@dataclass(frozen=True)
class SynthTask:
    """One shard to write."""

    class_name: str
    number: int
    samples: int


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
    return int(digits)


def shard_tasks(sources: Sequence[Source], image_size: int, encoding: str) -> list[SynthTask]:
    """The shards of all classes, a function of the numbers of images alone.

    A shard holds an eighth of its class's images, so that several ranks have work, but at least 64 and at most
    ``samples_per_shard``.
    """
    tasks = []
    for source in sources:
        length = min(
            samples_per_shard(image_size, encoding),
            max(CANDIDATE_BATCH, -(-source.images // MIN_SHARDS_PER_CLASS)),
        )
        for number, first in enumerate(range(0, source.images, length)):
            tasks.append(SynthTask(source.class_name, number, min(length, source.images - first)))
    return tasks


def check_pass_rate(source: Source, config: SynthConfig) -> None:
    """Raises UserError, before anything is written, if under 5 % of a generator's images pass the gate."""
    name = source.class_name
    z = source.generator.z(config.seed, f"probe {name}", range(PROBED_CANDIDATES))
    images = source.generator.images(name, z)
    passed = sum(source.gate.admits(*scores_of(image)) for image in images)
    if passed < MIN_PASS_RATE * PROBED_CANDIDATES:
        raise UserError(
            f"only {passed} of {PROBED_CANDIDATES} generated images of {name} have the brightness and contrast of "
            f"real ones: look at the samples in {config.gan}, and train the generator longer (--budget)"
        )


def provenance_of(config: SynthConfig, sources: Sequence[Source]) -> Provenance:
    """The set's provenance, as far as it is known before the images are generated. Raises UserError for options that
    no manifest can hold."""
    provenance = {
        "importer": "synthesis",
        "release": "generated images",
        "is_phantom": False,
        "options": {
            "encoding": config.encoding,
            "seed": config.seed,
            "mix": mix_rule(config).name if config.count is None else None,
            "images": {source.class_name: source.images for source in sources},
            "label_rule": None,
        },
        "generators": {source.class_name: source.generator.weights_sha256 for source in sources},
        "grey_ranges": {
            source.class_name: {
                "brightness": [source.gate.brightness.low, source.gate.brightness.high],
                "contrast": [source.gate.contrast.low, source.gate.contrast.high],
            }
            for source in sources
        },
    }
    return checked_provenance(provenance, f"--out {config.out_place}")
