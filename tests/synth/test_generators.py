"""Which generator makes a class's images, and where those of one generator come to stand in a set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.models import export_generator, load_generator
from cxrdist.nets import conditional, dcgan
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates import GreyGate, Range, scores_of
from cxrdist.synth.lineage import load_generators
from cxrdist.synth.plan import SynthTask
from cxrdist.synth.synthesize import AdmittedSamples

CLASSES = ["Normal", "Pleural Effusion", "Pneumothorax"]
ANY_GREY = GreyGate(Range(0, 255), Range(0, 255))


def export(folder: Path, generator: nn.Module, classes: list[str], real: ShardSet) -> str:
    return export_generator(
        folder,
        generator,
        preset="demo",
        classes=classes,
        lineage=made_from(real),
        metrics={},
    )


@pytest.fixture
def run(tmp_path: Path, tiny_set: Path) -> Path:
    """A run with one generator of two classes, and of one of them another of its own."""
    real = ShardSet(tiny_set)
    of_all = conditional.ConditionalGenerator(
        conditional.ConditionalConfig(size=32, classes=2, z_dim=4, maps=8)
    )
    conditional.init_weights(of_all, 1)
    export(tmp_path / "all-classes", of_all, CLASSES[:2], real)
    own = dcgan.Generator(dcgan.DCGANConfig(size=32, z_dim=4, maps=8))
    dcgan.init_weights(own, 2)
    export(tmp_path / "normal", own, ["Normal"], real)
    return tmp_path


def test_a_class_has_its_own_generator_or_that_of_all_classes(run: Path, tiny_set: Path) -> None:
    found = load_generators(run, CLASSES[:2], ShardSet(tiny_set))
    assert {name: g.architecture for name, g in found.items()} == {
        "Normal": "dcgan",
        "Pleural Effusion": "conditional",
    }
    (run / "normal/model.json").unlink()
    both = load_generators(run, CLASSES[:2], ShardSet(tiny_set))
    assert both["Normal"] is both["Pleural Effusion"]
    with pytest.raises(
        UserError,
        match=r"all-classes: the classes of this generator are Normal, Pleural Effusion, not Pneumo",
    ):
        load_generators(run, CLASSES, ShardSet(tiny_set))
    (run / "all-classes/model.json").unlink()
    with pytest.raises(
        UserError, match=r"has no finished generator of Normal; train it with `accelerate launch"
    ):
        load_generators(run, CLASSES, ShardSet(tiny_set))


def test_a_generator_of_several_classes_makes_other_images_of_each(run: Path) -> None:
    generator = load_generator(run / "all-classes")
    z = generator.z(0, "test", range(3))
    one, other = (generator.images(name, z) for name in CLASSES[:2])
    assert not np.array_equal(one, other)


def test_no_key_is_given_twice_where_one_generator_makes_two_classes(run: Path) -> None:
    generator = load_generator(run / "all-classes")
    samples = [
        sample
        for name in CLASSES[:2]
        for sample in AdmittedSamples(SynthTask(name, 3, 2), generator, ANY_GREY, SynthConfig())
    ]
    normal, effusion = (
        hashlib.sha256(f'[\n "{generator.weights_sha256}",\n 0,\n "{name}"\n]\n'.encode()).hexdigest()[:16]
        for name in CLASSES[:2]
    )
    assert normal != effusion
    assert [sample.key for sample in samples] == [
        f"{normal}-000003-00000000",
        f"{normal}-000003-00000001",
        f"{effusion}-000003-00000000",
        f"{effusion}-000003-00000001",
    ]
    assert {sample.meta["source"] for sample in samples} == {"conditional"}


def test_tried_counts_the_candidates_up_to_the_last_admitted_one(run: Path) -> None:
    generator = load_generator(run / "normal")
    images = generator.images("Normal", generator.z(0, "synthesis Normal 5", range(64)))
    brightness = [scores_of(image)[0] for image in images]
    gate = GreyGate(Range(sorted(brightness)[40], 255), Range(0, 255))
    expected = [number for number, value in enumerate(brightness) if gate.brightness.holds(value)][:6]
    admitted = AdmittedSamples(SynthTask("Normal", 5, 6), generator, gate, SynthConfig())
    assert [sample.meta["candidate"] for sample in admitted] == expected
    assert admitted.tried == expected[-1] + 1 > 6
