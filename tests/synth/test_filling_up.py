"""Filling up a set from which images were removed, and what a killed or an earlier job left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cxrdist.data.shards.index import read_table
from cxrdist.data.shards.manifest import Stratum, digest_of
from cxrdist.data.shards.removed import Reason
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import index_of
from cxrdist.data.shards.writing.rewrite import changing, remove_samples
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, read_json
from cxrdist.synth.gates import record
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import CopyGate
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.gates.thresholds import Thresholds
from cxrdist.synth.generators.sources import BLOCK
from cxrdist.synth.plan import ClassProgress
from cxrdist.synth.rounds import ClassShards, Written
from cxrdist.synth.synthetic_set import _figures
from tests.helpers.shard_sets import contents

Job = Callable[..., tuple[ShardSet, list[str]]]
COUNT = "Normal=100,Pneumothorax=70"


def keys_of(made: ShardSet, name: str) -> list[str]:
    reader = made.stratum("train", name, "synthetic")
    return [reader.key(number).decode() for number in range(reader.samples)]


def remove(made: ShardSet, name: str, keys: list[str]) -> ShardSet:
    reason = Reason(reason="motion", by="review", reviewer="a", time="2026-07-04T09:30:00Z")
    with changing(made.store) as manifest:
        of = {Stratum("train", name, "synthetic"): dict.fromkeys(keys, reason)}
        remove_samples(made.store, manifest, of, by="review")
    return ShardSet(made.store)


def test_rejected_images_of_a_set_that_is_filled_up_are_added(synthesize: Job, tmp_path: Path) -> None:
    made, _ = synthesize(count=COUNT, keep_rejected=3)
    first = keys_of(ShardSet(tmp_path / "made-rejected"), "Normal")
    remove(made, "Normal", keys_of(made, "Normal")[:20])
    filled, _ = synthesize(count=COUNT, keep_rejected=3)
    rejected = ShardSet(tmp_path / "made-rejected")
    added = keys_of(rejected, "Normal")
    next_block = made.manifest.provenance.json_value()["gates"]["classes"]["Normal"]["next_blocks"]
    assert added[: len(first)] == first and len(added) == len(first) + 3
    assert {index_of(key) // BLOCK for key in added[len(first) :]} == {*next_block.values()}
    assert verify(str(rejected)) == []
    summary = read_json(tmp_path / "run/summary.json")
    assert summary["shards"]["synthetic"] == filled.digest


def test_another_set_where_rejected_images_are_kept_is_named_first(synthesize: Job, tmp_path: Path) -> None:
    synthesize(count="Normal=30", keep_rejected=4)
    shutil.rmtree(tmp_path / "made")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=r"made-rejected already holds another set \(seed 0, now 1\)"):
        synthesize(count="Normal=30", keep_rejected=4, seed=1)
    assert not (tmp_path / "made").exists()


def test_more_removed_since_a_job_that_filled_the_set_up_was_killed(synthesize: Job, tmp_path: Path) -> None:
    """Its shards drew blocks that now belong to other shards."""
    made, _ = synthesize(count="Normal=200")
    keys = keys_of(made, "Normal")
    remove(made, "Normal", keys[:70])
    reviewed = contents(tmp_path / "made")
    synthesize(count="Normal=200")
    written = {n: data for n, data in contents(tmp_path / "made").items() if n not in reviewed}
    assert sum(name.endswith(".tar") for name in written) == 2
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "made").mkdir()
    for name, data in reviewed.items():
        (tmp_path / "made" / name).write_bytes(data)
    left = keys_of(remove(ShardSet(tmp_path / "made"), "Normal", keys[70:180]), "Normal")
    for name, data in written.items():
        if not name.endswith(".json"):
            (tmp_path / "made" / name).write_bytes(data)
    filled, _ = synthesize(count="Normal=200")
    after = keys_of(filled, "Normal")
    assert len({*after}) == len(after) == 200 and after[:20] == left
    assert verify(str(filled)) == []


def test_the_summary_is_that_of_the_set(synthesize: Job, tmp_path: Path) -> None:
    """Also if the job that filled it up was killed after the manifest."""
    made, _ = synthesize(count="Normal=100")
    old = (tmp_path / "run/summary.json").read_bytes()
    remove(made, "Normal", keys_of(made, "Normal")[:5])
    synthesize(count="Normal=100")
    (tmp_path / "run/summary.json").write_bytes(old)
    filled, _ = synthesize(count="Normal=100")
    assert read_json(tmp_path / "run/summary.json")["shards"]["synthetic"] == filled.digest != made.digest


def test_a_finished_set_of_another_real_set_is_refused(
    synthesize: Job, tmp_path: Path, tiny_set: Path
) -> None:
    synthesize(count="Normal=5")
    shutil.copytree(tiny_set, tmp_path / "other")
    manifest = json.loads((tmp_path / "other/manifest.json").read_bytes())
    manifest["provenance"]["release"] = "another one"
    manifest["digest"] = digest_of(manifest)
    (tmp_path / "other/manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(UserError, match=r"made already holds a set that was made for another real set"):
        synthesize(count="Normal=5", shards=str(tmp_path / "other"))


def test_the_copy_rate_of_a_set_that_is_filled_up_is_that_of_all_candidates(synthesize: Job) -> None:
    """It is that of the counts beside it."""
    made, _ = synthesize(count="Normal=100")
    gates = made.manifest.provenance.json_value()["gates"]
    gates["classes"]["Normal"] |= {"tried": 200, "passed": {"copy": 150}, "copy_rate": 0.25}
    before = made.manifest.model_copy(
        update={"provenance": made.manifest.provenance.updated({"gates": gates})}
    )
    limits = Thresholds(False, {"Normal": 0.5}, {"Normal": np.linspace(0, 1, 100)}, frozenset())
    judge = Judge(GatesConfig(name="own", copy=1), gates=[(CopyGate.__new__(CopyGate), limits)])
    rows = np.array([(0, True, 0.9), (1, False, 0.1)] * 50, record.dtype_of(judge))
    row = read_table(made.store, made.manifest.strata[0])[0]
    shard = Written("Normal", 9, "d", row, rows, [], np.zeros(0), [])
    of = ClassShards(150, ClassProgress(9, {}), shards=[shard])
    figures = _figures(judge, "Normal", of, None, before)
    assert (figures["tried"], figures["passed"], figures["copy_rate"]) == (300, {"copy": 200}, 0.333333)
