"""The advice as lines: what to do, and the measurement that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

from cxrdist.console import duration
from cxrdist.gan.advice.choice import (
    BALANCED_MIX,
    COPIED_BELOW,
    FEW_PRESET,
    GOOD_OF_CLASS,
    MEDIUM_PX,
    RARER_MIX,
    SMALL_PX,
    SOMETIMES_COPIED_BELOW,
    Choice,
    TrainingSet,
    uses,
)
from cxrdist.gan.advice.cost import PROCESS_BYTES
from cxrdist.gan.advice.machine import gibibytes

LONG_S = 3600
MEASURED_CORES = 2
NOT_ALONE = "the effect on copies was not measured on its own"
UNLABELLED_REASON = (
    "what all radiographs share is learned from more of them: with nih64.yaml, 11 to 18 % near copies of a class of "
    "25 radiographs instead of 20 to 22 % without them, three runs each"
)


class Line(NamedTuple):
    topic: str
    advice: str
    reason: str


def lines(choice: Choice) -> Iterator[Line]:
    """The advice on a choice, the most general first."""
    yield from networks(choice)
    yield from schedule(choice)
    yield from cost(choice)
    yield from copies(choice)
    yield classifier(choice)


def networks(choice: Choice) -> Iterator[Line]:
    training, config = choice.training, choice.config
    if training.image_size <= SMALL_PX:
        reason = (
            "three trainings of demo.yaml on 790 phantoms of 64 px, 3 min on two cores each: label agreement .82 (of "
            "real phantoms .90), coverage .91, recall .87; DCGANs of each class: agreement .27"
        )
    elif training.image_size <= MEDIUM_PX:
        reason = (
            "the networks of the 64 px preset with one more stage; one training on 790 phantoms of 128 px, 26 CPU "
            "minutes, judged at 64 px: label agreement .85, coverage .92, recall .90"
        )
    else:
        reason = (
            "the networks of the 64 px preset, wider and deeper; not trained to its end at this size yet, so look at "
            "the samples early"
        )
    yield Line("preset", f"{' and '.join(choice.preset_files)}: one conditional GAN of all classes", reason)
    per_class = config.batch * choice.images_per_class / choice.images
    of_classes = f"{config.batch}: {per_class:.3g} of each class on average"
    if "batch" not in choice.options:
        reason = (
            f"the preset's; D compares the images of a class with each other, measured with {GOOD_OF_CLASS}"
        )
    else:
        reason = (
            f"the preset's {choice.preset.batch} are changed so that "
            f"{counted(choice.machine.processes, 'process', 'processes')} can share them equally, and D can compare "
            f"images of each of {len(training.classes)} classes; measured with "
            f"{GOOD_OF_CLASS} of each"
        )
    yield Line("batch", of_classes, reason)


def schedule(choice: Choice) -> Iterator[Line]:
    config = choice.config
    weight = f"{config.r1_weight:g}, every {config.r1_every} steps"
    if choice.training.image_size <= SMALL_PX:
        reason = (
            "with it D was right about 67 to 80 % of the images, in three trainings; in an earlier experiment 0.05 "
            "showed ribs earlier, but recall was .06 instead of .34"
        )
    elif choice.training.image_size <= MEDIUM_PX:
        reason = "the only value tried at 128 px: D was right about 77 to 86 % of the images, most at the end"
    else:
        reason = "a start, not measured at this size: raise it if D is right about nearly all images"
    yield Line("R1 weight", weight, reason)
    yield Line(
        "budget",
        f"{choice.images:,} images, {choice.images_per_class:,.0f} for each class on average",
        "on 790 phantoms of 64 px, KID x 1000 was 2.2 after 12,000 images, 0.3 after 56,000, and 0.2 after 104,000 "
        "with a falling learning rate",
    )


def cost(choice: Choice) -> Iterator[Line]:
    machine, flops = choice.machine, choice.cost.flops_per_image
    work = f"{flops / 1e9:.2g} GFLOP an image, {flops * choice.images / 1e15:.2g} PFLOP in total"
    if machine.gpus:
        yield Line(
            "time",
            "shown by the run after some seconds",
            f"{work}; no training was timed on this kind of GPU",
        )
    else:
        yield from cpu_time(choice, work)
    yield memory(choice)


def cpu_time(choice: Choice, work: str) -> Iterator[Line]:
    cores, size = choice.machine.cores, choice.training.image_size
    seconds = choice.cost.cpu_seconds(choice.images, cores)
    reason = f"{work}; scaled from about 200 images a CPU second of one core, measured with the 64 px preset"
    if size > SMALL_PX:
        reason += "; wide networks in bf16 were up to 4 times as fast as this estimate"
    if cores > MEASURED_CORES:
        reason += f"; more than {MEASURED_CORES} cores were not measured"
    time = duration(seconds) if seconds < LONG_S else f"{seconds / 3600:.0f} h"
    yield Line("time", f"about {time} on {counted(cores, 'core')}", reason)
    if seconds > LONG_S and size > SMALL_PX:
        yield Line(
            "",
            f"without a GPU, consider smaller images: --size {SMALL_PX}",
            f"at {SMALL_PX} px a training takes minutes",
        )


def memory(choice: Choice) -> Line:
    machine, processes = choice.machine, choice.machine.processes
    of_process = choice.cost.memory_bytes(choice.config, processes)
    if machine.gpus:
        smallest = min(machine.gpus, key=lambda gpu: gpu.memory_bytes)
        needed, available = of_process, smallest.memory_bytes
        where = "on each GPU" if processes > 1 else "on the GPU"
    else:
        needed, available = processes * (of_process + PROCESS_BYTES), machine.memory_bytes
        where = f"in {counted(processes, 'process', 'processes')}"
    advice = f"about {gibibytes(needed)} {where}, of {gibibytes(available)}"
    if needed > available:
        advice += ": too little, so choose a smaller --size"
    parameters = (choice.cost.parameters_g + choice.cost.parameters_d) / 1e6
    return Line(
        "memory",
        advice,
        f"estimated from {parameters:.2g} million parameters with Adam, and activations in float32 of "
        f"{choice.cost.activation_bytes_per_image / 2**20:.2g} MiB an image"
        + ("" if machine.gpus else "; a process without them takes about 0.4 GiB"),
    )


def copies(choice: Choice) -> Iterator[Line]:
    training = choice.training
    likely = training.copied
    # Phantoms differ from each other more than the radiographs do that were measured.
    possible = {} if training.is_phantom else training.classes_of(COPIED_BELOW, SOMETIMES_COPIED_BELOW)
    if likely:
        yield Line(
            "copies",
            f"expect near copies of training images in {listed(likely)}",
            "of a class of 25 radiographs, 42 to 63 % of the generated images were near copies with a balanced mix, "
            "of one of 22 at most 29 %; on another split 74 % of 25, and 76 % of 11",
        )
    if possible:
        yield Line(
            "copies" if not likely else "",
            f"near copies are possible in {listed(possible)}",
            "of classes of 22, 42, 56 and 336 radiographs, 0 to 29 % were near copies",
        )
    if not likely and not possible:
        yield Line(
            "copies",
            f"none are expected beyond the rate of other real images: the smallest class has "
            f"{min(training.counts.values()):,}",
            "on 790 phantoms, 56 in the smallest class, 1.1 % were near copies, as many as among other phantoms",
        )
    if likely:
        yield from remedies(choice)
    yield Line(
        "check",
        f"`accelerate launch launch/evaluate_gan.py --run {choice.config.run} --shards {quote(training.place)}`",
        "it measures near copies, and nearest/ shows the closest training images",
    )


def remedies(choice: Choice) -> Iterator[Line]:
    training, config = choice.training, choice.config
    if FEW_PRESET in choice.preset_files:
        yield Line(
            "",
            f"{FEW_PRESET} makes them fewer: mix, unlabelled images, short class embedding, augmentation",
            "11 to 18 % near copies of a class of 25 radiographs in three runs, instead of 42 to 63 % with a "
            "balanced mix",
        )
    if config.mix == RARER_MIX:
        smallest = min(training.copied, key=lambda name: training.copied[name])
        balanced = replace(config, mix=BALANCED_MIX)
        yield Line(
            "",
            f"mix {RARER_MIX}: each image of {smallest} is seen {choice.uses(smallest):,.0f} times, not "
            f"{uses(balanced, training, choice.images)[smallest]:,.0f} as with {BALANCED_MIX}",
            f"D knows by heart what it sees most often; {NOT_ALONE}",
        )
    if config.use_unlabelled:
        yield Line(
            "", f"unlabelled images: the {training.unlabelled:,} of the set are used", UNLABELLED_REASON
        )
    elif not training.is_phantom:
        yield Line(
            "",
            "unlabelled images: import the source again with --keep-unlabelled if it has images of other classes, "
            "and ask for advice again",
            UNLABELLED_REASON,
        )
    if not training.is_phantom:
        yield Line(
            "",
            "for crisper images, train the same networks on phantoms of this size first, and add --init RUN with the "
            "folder of that run",
            "in three runs each with nih64.yaml, lungs had edges and ribs; KID x 1000 of four findings was 8.5 "
            "instead of 7.0, and near copies of a class of 25 were 17 % instead of 15 %",
        )


def classifier(choice: Choice) -> Line:
    """When not to synthesise."""
    place = quote(choice.training.place)
    return Line(
        "classifier",
        "train it on real images alone first, balanced and augmented: `accelerate launch launch/train_cls.py --mix "
        f"{BALANCED_MIX} --config configs/cls/augment.yaml --shards {place}`; do not add synthetic images unless a "
        "study of this set (`cxrdist study`) shows that they gain over it",
        "on 790 phantoms, three GANs, nine seeds: 84.2 % balanced accuracy; of 12 uses of synthetic images the best "
        "differs by -0.1 points (-1.3 to +1.0), DS3 with augmentation by -2.2; a perfect generator adds 4.6",
    )


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def listed(counts: Mapping[str, int]) -> str:
    """``Edema (53 images), Pneumothorax (25)``."""
    words = [
        f"{name} ({count}{' images' if first else ''})"
        for first, (name, count) in zip([True] + [False] * len(counts), counts.items(), strict=False)
    ]
    return ", ".join(words)


def headline(training: TrainingSet) -> str:
    """What the advice is about, in one line."""
    unlabelled = f" and {training.unlabelled:,} unlabelled ones" if training.unlabelled else ""
    classes = counted(len(training.classes), "class", "classes")
    return f"{training.place}: {training.images:,} training images of {classes}{unlabelled}, {training.image_size} px"
