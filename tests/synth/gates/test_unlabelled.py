"""Training images without a class: a GAN may have learned from them, too."""

from __future__ import annotations

from pathlib import Path

from cxrdist.data.shards.schema import UNLABELLED
from cxrdist.distributed.dist import Dist
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import CopyGate
from cxrdist.synth.gates.fit import fit
from tests.helpers.radiographs import by_class, phantoms, write_phantoms


def test_their_copies_are_refused(tmp_path: Path) -> None:
    classes, unlabelled = by_class(20, 41), phantoms("Normal", 40, 43)
    val = by_class(20, 42, studies=1)
    admitted = {}
    for name, more in (("with", {UNLABELLED: unlabelled}), ("without", {})):
        shards = write_phantoms(tmp_path / name, {"train": {**classes, **more}, "val": val})
        with Dist(threads=1) as dist:
            judge = fit(GatesConfig(name="copies", copy=1), shards, shards.classes, [], dist)
        ((gate, _),) = judge.gates
        assert isinstance(gate, CopyGate)
        assert len(gate.train.references) == 100 + sum(map(len, more.values()))
        admitted[name] = int(judge.judge("Normal", unlabelled).admitted.sum())
    assert admitted["with"] == 0 and admitted["without"] >= 38
