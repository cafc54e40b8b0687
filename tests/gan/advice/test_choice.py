"""The options that are advised, and that the printed command means them."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cxrdist.cli.advise import at_size, choice_for, training_set
from cxrdist.config.parser import parse
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.gan.advice.choice import TrainingSet, batch_for, choose, launch_words
from cxrdist.gan.advice.lines import headline, lines
from cxrdist.gan.advice.machine import GPU, Machine
from cxrdist.gan.config import GANConfig
from cxrdist.gan.plan import plan

TWO_CORES = Machine(cores=2, memory_bytes=24 * 2**30)
NIH = {"Cardiomegaly": 11, "Normal": 406, "Pleural Effusion": 50, "Pulmonary Edema": 53, "Pneumothorax": 25}
SMALL = TrainingSet("shards/nih", 64, NIH)
EQUAL = TrainingSet("shards/equal", 64, dict.fromkeys("abcde", 500))


def parsed(command: str) -> GANConfig:
    """The config of train_gan.py that a command gives."""
    words = shlex.split(command)
    return parse(GANConfig, words[words.index("launch/train_gan.py") + 1 :], prog="train_gan.py", example="")


@pytest.mark.parametrize(
    "training",
    [
        SMALL,
        EQUAL,
        replace(SMALL, unlabelled=300, place="s3://bucket/a set"),
        replace(SMALL, image_size=32),
        replace(SMALL, image_size=128),
        replace(SMALL, image_size=256),
        replace(SMALL, image_size=512),
        replace(EQUAL, counts={f"class {i}": 100 for i in range(14)}),
        replace(EQUAL, counts={"Normal": 100}),
    ],
    ids=lambda t: f"{t.image_size} px, {len(t.counts)} classes, {t.unlabelled} unlabelled",
)
def test_the_command_parses_into_the_preset_and_the_printed_options(training: TrainingSet) -> None:
    choice = choice_for(training)
    files = [word for file in choice.preset_files for word in ("--config", file)]
    preset = parse(GANConfig, files, prog="train_gan.py", example="")
    assert choice.preset == preset
    assert parsed(choice.command) == choice.config == replace(preset, **choice.options)


def test_the_preset_goes_by_size() -> None:
    files = {
        size: choice_for(replace(EQUAL, image_size=size)).preset_files for size in (32, 64, 128, 256, 512)
    }
    assert files == {
        32: ("configs/gan/demo.yaml",),
        64: ("configs/gan/demo.yaml",),
        128: ("configs/gan/px128.yaml",),
        256: ("configs/gan/modern.yaml",),
        512: ("configs/gan/modern.yaml",),
    }


def test_large_classes_take_the_preset_as_it_is() -> None:
    assert choice_for(EQUAL).options == {"shards": "shards/equal", "run": "runs/gan-equal"}


def test_small_classes_of_radiographs_at_64_px_take_the_preset_for_them() -> None:
    given = {"shards": "shards/nih", "run": "runs/gan-nih"}
    choice = choice_for(replace(SMALL, unlabelled=300))
    assert choice.preset_files == ("configs/gan/demo.yaml", "configs/gan/nih64.yaml")
    assert (choice.options, choice.config.mix, choice.config.use_unlabelled) == (given, "square-root", True)
    without = choice_for(SMALL)
    assert without.options == {**given, "use_unlabelled": False, "unlabelled_share": None}
    assert without.command.endswith(" --no-use-unlabelled --unlabelled-share null")


def test_small_classes_otherwise_take_the_square_root_mix_and_the_unlabelled_images() -> None:
    given = {"shards": "shards/nih", "run": "runs/gan-nih", "mix": "square-root"}
    assert choice_for(replace(SMALL, is_phantom=True)).options == given
    large = choice_for(replace(SMALL, image_size=256, unlabelled=300))
    assert large.preset_files == ("configs/gan/modern.yaml",)
    assert large.options == {**given, "use_unlabelled": True}


def test_a_mix_does_not_help_classes_of_one_size() -> None:
    assert "mix" not in choice_for(replace(EQUAL, counts={"a": 20, "b": 21}, is_phantom=True)).options


def test_a_small_class_of_many_is_seen_less_often() -> None:
    choice = choice_for(replace(SMALL, counts={"a": 400, "b": 25}))
    assert choice.images == 50_000
    assert choice.uses("b") == pytest.approx(50_000 / 5 / 25, rel=0.02)  # 20 of a for 5 of b
    assert choice.uses("a") == pytest.approx(50_000 * 4 / 5 / 400, rel=0.02)
    with_unlabelled = choice_for(replace(SMALL, counts={"a": 400, "b": 25}, unlabelled=9))
    assert with_unlabelled.config.unlabelled_share == 0.32
    assert with_unlabelled.uses("b") == pytest.approx(choice.uses("b") * (1 - 0.32), rel=0.02)


def test_the_uses_are_those_of_the_plan(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    choice = choice_for(training_set(str(tiny_set)))
    (model,) = plan(choice.config, shards)
    assert model.steps * choice.config.batch == choice.images
    total = sum(origins["real"] for origins in model.quotas.values())
    for name, origins in model.quotas.items():
        assert choice.uses(name) == choice.images * origins["real"] / total / shards.samples(
            "train", name, "real"
        )


@pytest.mark.parametrize(
    ("preset_batch", "classes", "processes", "expected"),
    [(20, 5, 2, 20), (20, 10, 2, 20), (20, 14, 2, 56), (20, 1, 1, 20), (64, 5, 3, 66), (64, 5, 8, 64)],
)
def test_batches_hold_images_of_each_class_and_divide(
    preset_batch: int, classes: int, processes: int, expected: int
) -> None:
    assert batch_for(preset_batch, classes, processes) == expected


def test_the_launch_fits_the_machine() -> None:
    gpu = GPU("a GPU", 80 * 2**30)
    for machine in (TWO_CORES, replace(TWO_CORES, cores=1), replace(TWO_CORES, gpus=(gpu,))):
        assert launch_words(machine) == ["--num_processes", "1"]
    several = ["--config_file", "configs/accelerate/gpu.yaml", "--num_processes", "4"]
    assert launch_words(replace(TWO_CORES, gpus=(gpu,) * 4)) == several


def test_a_size_that_no_network_has() -> None:
    with pytest.raises(
        UserError, match=r"^shards/equal: size is 96, but .* 512 pixels: choose one of these with --size$"
    ):
        choice_for(replace(EQUAL, image_size=96))


def test_a_class_without_training_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"weights: an epoch needs .* real images of b, and the set has none"):
        choice_for(replace(EQUAL, counts={"a": 200, "b": 0}))


def test_another_size() -> None:
    assert at_size(EQUAL, 64) == (EQUAL, [])
    smaller = replace(EQUAL, place="shards/equal-32", image_size=32)
    command = "cxrdist shards convert shards/equal --size 32 --out shards/equal-32"
    assert at_size(EQUAL, 32) == (smaller, [command])
    larger = replace(EQUAL, place="shards/equal-256", image_size=256)
    again = "# import the source again with --size 256 --out shards/equal-256, then:"
    assert at_size(EQUAL, 256) == (larger, [again])


# ---- the lines


def of_topic(training: TrainingSet, machine: Machine = TWO_CORES) -> dict[str, list[str]]:
    """The advice by topic; a line without a topic belongs to the one before."""
    chosen = choice_for(training)
    choice = choose(training, machine, chosen.preset_files, chosen.preset, chosen.config.run)
    found: dict[str, list[str]] = {}
    topic = ""
    for line in lines(choice):
        assert line.advice and line.reason
        topic = line.topic or topic
        found.setdefault(topic, []).append(line.advice)
    return found


def test_the_values_are_those_of_the_preset() -> None:
    advice = of_topic(EQUAL)
    preset = choice_for(EQUAL).preset
    assert advice["preset"] == ["configs/gan/demo.yaml: one conditional GAN of all classes"]
    assert advice["batch"] == [f"{preset.batch}: {preset.batch / 5:g} of each class on average"]
    assert advice["R1 weight"] == [f"{preset.r1_weight:g}, every {preset.r1_every} steps"]
    assert advice["budget"] == ["70,000 images, 14,000 for each class on average"]
    assert preset.budget == "70000 images"
    assert advice["time"] == ["about 2 min 55 s on 2 cores"]
    assert advice["memory"] == ["about 0.4 GiB in 1 process, of 24 GiB"]


def test_small_classes_and_what_to_do() -> None:
    advice = of_topic(replace(SMALL, unlabelled=300))
    copies = advice["copies"]
    assert advice["batch"] == ["20: 2.72 of each class on average"]  # 68 % of 20 are of the five classes
    assert advice["budget"] == ["50,000 images, 6,804 for each class on average"]  # 545 / (545 + 256) / 5
    assert copies[:2] == [
        "expect near copies of training images in Cardiomegaly (11 images), Pneumothorax (25)",
        "near copies are possible in Pleural Effusion (50 images), Pulmonary Edema (53)",
    ]
    assert [line.split(":")[0] for line in copies[2:]] == [
        "configs/gan/nih64.yaml makes them fewer",
        "mix square-root",
        "unlabelled images",
        "for crisper images, train the same networks on phantoms of this size first, and add --init RUN with the "
        "folder of that run",
    ]
    without = of_topic(SMALL)["copies"]
    assert copies[4] == "unlabelled images: the 300 of the set are used"
    assert without[4].startswith("unlabelled images: import the source again with --keep-unlabelled ")


def test_large_classes_need_no_remedy() -> None:
    (line,) = of_topic(EQUAL)["copies"]
    assert line == "none are expected beyond the rate of other real images: the smallest class has 500"
    phantoms = TrainingSet("shards/phantom", 64, {"Normal": 222, "Pneumothorax": 56}, is_phantom=True)
    assert of_topic(phantoms)["copies"] == [line.replace("500", "56")]
    possible = of_topic(replace(phantoms, is_phantom=False))["copies"]
    assert possible == ["near copies are possible in Pneumothorax (56 images)"]


def test_a_long_training_on_cpu_is_shorter_at_64_px() -> None:
    time = of_topic(replace(EQUAL, image_size=256))["time"]
    assert time == ["about 12 h on 2 cores", "without a GPU, consider smaller images: --size 64"]
    gpu = GPU("a GPU", 80 * 2**30)
    on_gpu = of_topic(replace(EQUAL, image_size=256), replace(TWO_CORES, gpus=(gpu,)))
    assert on_gpu["time"] == ["shown by the run after some seconds"]
    assert on_gpu["memory"] == ["about 2.8 GiB on the GPU, of 80 GiB"]


def test_too_little_memory() -> None:
    memory = of_topic(replace(EQUAL, image_size=256), replace(TWO_CORES, memory_bytes=2**30))["memory"]
    assert memory == ["about 3.2 GiB in 1 process, of 1.0 GiB: too little, so choose a smaller --size"]


def test_the_headline() -> None:
    assert headline(EQUAL) == "shards/equal: 2,500 training images of 5 classes, 64 px"
    one = TrainingSet("s", 64, {"Normal": 9}, unlabelled=1200)
    assert headline(one) == "s: 9 training images of 1 class and 1,200 unlabelled ones, 64 px"


def test_a_machine_in_words() -> None:
    assert str(TWO_CORES) == "2 cores, 24 GiB of memory, no GPU"
    with_gpu = Machine(1, 3 * 2**29, (GPU("NVIDIA X", 80 * 2**30),))
    assert str(with_gpu) == "1 core, 1.5 GiB of memory, NVIDIA X with 80 GiB"


def test_every_option_that_is_named_exists() -> None:
    known = {f"--{field.name.replace('_', '-')}" for field in fields(GANConfig)}
    known |= {"--config", "--keep-unlabelled", "--size"}
    for training in (SMALL, replace(SMALL, unlabelled=300, image_size=256), replace(EQUAL, image_size=512)):
        text = " ".join(advice for of_one in of_topic(training).values() for advice in of_one)
        assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known
