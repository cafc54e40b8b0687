"""Which generator makes a class's images, and where those of one generator come to stand in a set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from cxrdist.models import TrainedGenerator, export_generator, load_generator
from cxrdist.nets import conditional, dcgan
from cxrdist.synth.gates import GreyGate, Range, scores_of
from cxrdist.synth.lineage import load_generators
from cxrdist.synth.plan import Source
from cxrdist.synth.synthesize import CandidateTask

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
        conditional.ConditionalConfig(size=32, classes=2, z_dim=4, widths=(8, 8, 4), d_widths=(8, 8, 4))
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


def candidates(
    class_name: str, generator: TrainedGenerator, gate: GreyGate, *, number: int, samples: int
) -> CandidateTask:
    return CandidateTask(
        store=LocalStore(Path("nowhere")),
        number=number,
        stratum=Stratum("train", class_name, "synthetic"),
        class_index=0,
        encoding="png",
        source=Source(class_name, samples, generator, gate),
        samples=samples,
        seed=0,
    )


def test_no_key_is_given_twice_where_one_generator_makes_two_classes(run: Path) -> None:
    generator = load_generator(run / "all-classes")
    samples = [
        sample
        for name in CLASSES[:2]
        for outcome in candidates(name, generator, ANY_GREY, number=3, samples=2).outcomes()
        if (sample := outcome.sample)
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
    task = candidates("Normal", generator, gate, number=5, samples=6)
    outcomes = [*task.outcomes()]
    admitted = [outcome.sample for outcome in outcomes if outcome.sample]
    assert [sample.meta["candidate"] for sample in admitted] == expected
    assert len(outcomes) == expected[-1] + 1 > 6
    row = ShardRow("a.tar", 99999, "0" * 64, "0" * 64, 6)
    taken_over = task.take_over(row, {sample.key: sample.meta for sample in admitted})
    assert taken_over is not None and taken_over.tried == len(outcomes)
    assert task.take_over(row, {"another-key-000005-00000000": {}}) is None
