"""``cxrdist advise``: how to train a GAN on a set on this machine."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cxrdist.config.parser import parse
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import OptionError

if TYPE_CHECKING:
    from cxrdist.gan.advice.choice import Choice, TrainingSet

COLUMNS, TOPIC_COLUMNS = 110, 11


@dataclass(frozen=True, kw_only=True)
class Advise:
    """Advise how to train a GAN on a set on this machine: preset, options, time, memory, small classes.

    Each piece of advice is followed by the measurement that it rests on. The last line is the command.
    """

    set: str = DEFAULT_SET
    """Folder of the set, or its URL; the default phantom set need not exist."""
    size: int | None = None
    """Advise on the same images at another size, in pixels per side; null: that of the set."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise OptionError("size", f"must be 1 or more, not {self.size}")


def advise(argv: Sequence[str]) -> None:
    example = "cxrdist advise shards/phantom --size 64"
    options = parse(Advise, argv, prog="cxrdist advise", example=example, positional=("set",))
    from cxrdist.gan.advice.lines import headline, lines

    found = training_set(options.set)
    wanted, preparation = at_size(found, options.size or found.image_size)
    choice = choice_for(wanted)
    print(headline(wanted))
    print(f"this machine: {choice.machine}\n")
    for line in lines(choice):
        print_wrapped(line.topic, line.advice)
        print_wrapped("", f"basis: {line.reason}")
    print()
    for command in (*preparation, choice.command):
        print(command)


def training_set(place: str) -> TrainingSet:
    """What advice needs to know of a set. Raises UserError if there is none; the default set need not exist."""
    from cxrdist.data.ingest.default_set import default_counts
    from cxrdist.data.shards.open import open_finished_real
    from cxrdist.data.storage.store import store_of
    from cxrdist.gan.advice.choice import TrainingSet

    if place.rstrip("/") == DEFAULT_SET and not store_of(place).is_there():
        size, counts = default_counts()
        return TrainingSet(DEFAULT_SET, size, counts, is_phantom=True)
    shards = open_finished_real(place)
    return TrainingSet(
        place.rstrip("/"),
        shards.image_size,
        {name: shards.samples("train", name, "real") for name in shards.classes},
        unlabelled=shards.unlabelled_samples,
        is_phantom=bool(shards.manifest.provenance.is_phantom),
    )


def at_size(found: TrainingSet, size: int) -> tuple[TrainingSet, list[str]]:
    """The same images at another size, and the commands that make that set."""
    if size == found.image_size:
        return found, []
    wanted = replace(found, place=f"{found.place}-{size}", image_size=size)
    if size < found.image_size:
        words = ["cxrdist", "shards", "convert", found.place, "--size", str(size), "--out", wanted.place]
        return wanted, [shlex.join(words)]
    return wanted, [f"# import the source again with --size {size} --out {wanted.place}, then:"]


def choice_for(training: TrainingSet) -> Choice:
    """What to train with on this machine. Raises UserError for a set whose size or classes no preset fits."""
    from cxrdist.files import slug
    from cxrdist.gan.advice.choice import choose, presets_for
    from cxrdist.gan.advice.machine import this_machine
    from cxrdist.gan.config import GANConfig

    files = presets_for(training)
    words = [word for file in files for word in ("--config", file)]
    preset = parse(GANConfig, words, prog="cxrdist advise", example="")
    run = f"runs/gan-{slug(training.place.rpartition('/')[2])}"
    return choose(training, this_machine(), files, preset, run)


def print_wrapped(topic: str, text: str) -> None:
    """A line whose continuation is indented below the text."""
    indent = " " * TOPIC_COLUMNS
    first = topic.ljust(TOPIC_COLUMNS)
    print(
        textwrap.fill(text, COLUMNS, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    )
