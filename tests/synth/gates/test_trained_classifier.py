"""The default gates with a classifier as users have it, trained by train_cls.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cxrdist.distributed.dist import Dist
from cxrdist.features.classifier import load_classifier
from cxrdist.phantom import CLASSES
from cxrdist.synth.gates.config import read_gates
from cxrdist.synth.gates.fit import fit
from cxrdist.synth.gates.judge import Judge
from tests.helpers.launching import launch
from tests.helpers.radiographs import by_class, phantoms, write_phantoms
from tests.helpers.tampering import DAMAGES
from tests.synth.gates.test_held_out import allowed

pytestmark = pytest.mark.slow

HELD_OUT = 300
"""Images of each class, one of each patient."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    work = tmp_path_factory.mktemp("trained")
    shards = write_phantoms(work / "set", {"train": by_class(160, 31), "val": by_class(100, 32, studies=1)})
    # One evaluation at the end: no weights are chosen on the images that the thresholds rest on.
    words = ["--mix", "DS1", "--shards", str(work / "set"), "--run", str(work / "cls"), "--config"]
    words += [
        "configs/cls/px64.yaml",
        "--budget",
        "6000 images",
        "--evaluations",
        "1",
        "--tracking.mode",
        "disabled",
    ]
    done = launch("train_cls.py", *words, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    with Dist(threads=1) as dist:
        classifier = load_classifier(work / "cls", shards)
        yield fit(read_gates("default"), shards, shards.classes, [classifier], dist)


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    return {name: phantoms(name, HELD_OUT, 33, studies=1) for name in CLASSES}


def test_each_gate_refuses_at_most_its_percentage(trained: Judge, held_out: dict[str, np.ndarray]) -> None:
    """With the margin of test_held_out; all gates together no more than their percentages and theirs."""
    judged = {name: trained.judge(name, images) for name, images in held_out.items()}
    counts = dict.fromkeys(CLASSES, HELD_OUT)
    most = 0
    for gate, limits in trained.gates:
        found = sum(int((~of.passed[gate.name]).sum()) for of in judged.values())
        assert found <= allowed(limits, counts), gate.name
        most += allowed(limits, counts)
    together = sum(int((~of.admitted).sum()) for of in judged.values())
    assert 0 < together <= most


@pytest.mark.parametrize("damage", ["black", "ramp down", "half black", "digits", "scrambled"])
def test_what_is_no_radiograph_is_refused_by_realism(
    damage: str, trained: Judge, held_out: dict[str, np.ndarray]
) -> None:
    passed = [
        trained.judge(name, DAMAGES[damage](of[:40])).passed["realism"] for name, of in held_out.items()
    ]
    assert np.mean(passed) <= 0.05


def test_another_class_passes_the_label_gate_less_often(
    trained: Judge, held_out: dict[str, np.ndarray]
) -> None:
    rate = {
        (shown, offered): trained.judge(offered, images[:60]).passed["label"].mean()
        for shown, images in held_out.items()
        for offered in CLASSES
    }
    for offered in CLASSES:
        others = np.mean([rate[shown, offered] for shown in CLASSES if shown != offered])
        # Three deviations of the difference between 60 images that pass in 95 % and 240 in about half.
        assert rate[offered, offered] - others > 0.13
