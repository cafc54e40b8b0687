"""The job as a whole: which candidates are written, what the manifest says of them, and filling a set up."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.removed import Reason, read_removed
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import index_of
from cxrdist.data.shards.writing.rewrite import changing, remove_samples
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.synth.generators.own import load_own
from cxrdist.synth.generators.sources import BLOCK
from cxrdist.synth.review.apply import top_up_command
from cxrdist.synth.show import show
from tests.helpers.shard_sets import contents

Job = Callable[..., tuple[ShardSet, list[str]]]
COUNT = "Normal=100,Pneumothorax=70"
OWN = "tests.synth.conftest:noise"


def keys_of(made: ShardSet, name: str) -> list[str]:
    reader = made.stratum("train", name, "synthetic")
    return [reader.key(number).decode() for number in range(reader.samples)]


def drawn(name: str, blocks: int) -> np.ndarray:
    source = load_own(OWN)
    return np.concatenate([source.block(name, 0, block) for block in range(blocks)])


def test_the_first_candidates_that_are_admitted_are_written(synthesize: Job) -> None:
    made, _ = synthesize(limit=120, count=COUNT)
    assert made.manifest.counts == {
        "train": {"Normal": {"synthetic": 100}, "Pneumothorax": {"synthetic": 70}}
    }
    gates = made.manifest.provenance.json_value()["gates"]
    for name, images in (("Normal", 100), ("Pneumothorax", 70)):
        reader = made.stratum("train", name, "synthetic")
        candidates = drawn(name, 8)
        is_dark = candidates.mean((1, 2)) <= 120
        # Two shards take the even and the odd blocks, each until it is full.
        shards = len(reader.shards)
        expected = []
        tried = 0
        for shard in range(shards):
            mine = [i for i in range(len(candidates)) if (i // BLOCK) % shards == shard]
            length = min(BLOCK, images - shard * BLOCK)
            found = [i for i in mine if is_dark[i]][:length]
            tried += mine.index(found[-1]) + 1
            expected += found
        assert [index_of(key) for key in keys_of(made, name)] == expected
        for number, index in enumerate(expected):
            assert np.array_equal(reader.pixels(number), candidates[index])
        of = gates["classes"][name]
        assert (of["tried"], of["admitted"], of["duplicates"]) == (tried, images, 0)
        assert of["passed"] == {"bright": images} and of["thresholds"] == {"bright": 120}
        assert of["next_blocks"] == {load_own(OWN).digest: max(expected) // BLOCK + 1}
        scores = of["scores"]["bright"]
        assert scores["real"] == [12.75, 63.75, 127.5, 191.25, 242.25]
        assert scores["synthetic"] == sorted(scores["synthetic"])
    assert verify(str(made)) == []


def test_scores_of_every_candidate_lie_in_the_run(synthesize: Job, tmp_path: Path) -> None:
    made, _ = synthesize(count="Normal=30")
    rows = np.load(tmp_path / "run/candidates/train-normal-synthetic-000000.npy")
    assert rows.dtype.names == ("index", "admitted", "bright")
    assert np.array_equal(rows["index"], np.arange(len(rows)))
    expected = drawn("Normal", 2)[: len(rows)].mean((1, 2)).astype(np.float32)
    assert np.array_equal(rows["bright"], expected)
    assert (
        np.array_equal(rows["admitted"], expected <= 120)
        and rows["admitted"].sum() == 30
        and rows["admitted"][-1]
    )
    sample = next(made.stratum("train", "Normal", "synthetic").all_samples())
    first = int(np.flatnonzero(rows["admitted"])[0])
    assert sample.meta["index"] == first and sample.meta["scores"] == {
        "bright": float(f"{expected[first]:.6g}")
    }


def test_a_killed_job_takes_over_shards_that_have_their_scores(
    synthesize: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard without them is written again; either way the set is the same."""
    made, _ = synthesize(count=COUNT)
    whole = contents(tmp_path / "made")
    written: list[str] = []
    from cxrdist.data.shards.writing import write_job, write_pool

    write = write_pool.write_shard
    monkeypatch.setattr(
        write_pool, "write_shard", lambda tar, s: (written.append(tar.name), write(tar, s))[1]
    )
    provenance = made.manifest.provenance.json_value()
    job = {name: value for name, value in provenance.items() if name != "gates"}

    def kill() -> None:
        from cxrdist.files import canonical_json

        (tmp_path / "made/manifest.json").unlink()
        (tmp_path / "made" / write_job.JOB_FILE).write_bytes(canonical_json(job))

    kill()
    (tmp_path / "run/candidates/train-normal-synthetic-000001.npy").unlink()
    synthesize(count=COUNT)
    assert written == ["train-normal-synthetic-000001.tar"] and contents(tmp_path / "made") == whole
    kill()
    written.clear()
    synthesize(count=COUNT)
    assert written == [] and contents(tmp_path / "made") == whole
    # Scores of other gates are no scores of these.
    kill()
    path = tmp_path / "run/candidates/train-pneumothorax-synthetic-000000.npy"
    np.save(path, np.load(path)[["index", "admitted"]])
    synthesize(count=COUNT)
    assert written == ["train-pneumothorax-synthetic-000000.tar"] and contents(tmp_path / "made") == whole


def test_duplicates_are_left_out_and_replaced(synthesize: Job, tmp_path: Path) -> None:
    """Of a generator of 40 images 30 different ones are written, and of one of three no more than three."""
    with pytest.raises(UserError, match=r"Normal: 27 of 30 admitted images are duplicates of earlier ones"):
        synthesize(255, 0.05, count="Normal=30", generator="tests.synth.conftest:few", least_pass_rate=0.2)
    again = {"out": str(tmp_path / "three"), "run": str(tmp_path / "run3")}
    made, said = synthesize(255, 0.05, count="Normal=30", generator="tests.synth.conftest:forty", **again)
    reader = made.stratum("train", "Normal", "synthetic")
    images = {reader.pixels(number).tobytes() for number in range(30)}
    assert reader.samples == len(images) == 30
    (entry,) = made.manifest.strata
    removed = read_removed(made.store, entry)
    of = made.manifest.provenance.json_value()["gates"]["classes"]["Normal"]
    assert of["duplicates"] == len(removed) > 0 and of["admitted"] == 30
    assert {(one.by, one.reason) for one in removed} == {
        ("duplicates gate", "too similar to an earlier image")
    }
    assert any(line.startswith("round 2, images in place of duplicates: ") for line in said)
    assert verify(str(made)) == []


def test_a_set_is_filled_up_with_images_that_were_never_drawn(
    synthesize: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = synthesize(count=COUNT)
    before = {name: keys_of(made, name) for name in ("Normal", "Pneumothorax")}
    highest = max(index_of(key) for key in before["Normal"])
    gone = before["Normal"][3:8]
    reason = Reason(reason="motion", by="review", reviewer="a", time="2026-07-04T09:30:00Z")
    with changing(made.store) as manifest:
        remove_samples(
            made.store,
            manifest,
            {Stratum("train", "Normal", "synthetic"): dict.fromkeys(gone, reason)},
            by="review",
        )
    reviewed = contents(tmp_path / "made")
    capsys.readouterr()
    filled, said = synthesize(count=COUNT)
    assert "nothing to do" not in capsys.readouterr().out
    assert f"{filled} lacks 5 images that were removed from it: filling it up" in said
    after = {name: keys_of(filled, name) for name in before}
    assert after["Pneumothorax"] == before["Pneumothorax"]
    assert after["Normal"][:95] == [key for key in before["Normal"] if key not in gone]
    assert len(after["Normal"]) == 100
    assert all(index_of(key) >= (highest // BLOCK + 1) * BLOCK for key in after["Normal"][95:])
    assert verify(str(filled)) == []
    edits = filled.manifest.provenance.json_value()["edited"]
    assert [edit["by"] for edit in edits] == ["review", "synthesis"]
    assert edits[0]["from"] == made.digest
    of = filled.manifest.provenance.json_value()["gates"]["classes"]["Normal"]
    assert of["admitted"] == 105
    # Again: nothing to do. And from the reviewed set, the same bytes.
    whole = contents(tmp_path / "made")
    synthesize(count=COUNT)
    assert contents(tmp_path / "made") == whole
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "made").mkdir()
    for name, data in reviewed.items():
        (tmp_path / "made" / name).write_bytes(data)
    synthesize(count=COUNT)
    assert contents(tmp_path / "made") == whole


def test_a_set_of_the_default_mix_is_filled_up_by_the_command_that_apply_prints(
    synthesize: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the mix, and perhaps other folders of the same classifiers."""
    made, _ = synthesize()
    key = keys_of(made, "Pneumothorax")[0]
    reason = Reason(reason="", by="review", reviewer="a", time=None)
    with changing(made.store) as manifest:
        removed = {Stratum("train", "Pneumothorax", "synthetic"): {key: reason}}
        after = remove_samples(made.store, manifest, removed, by="review")
    words = top_up_command(str(made), after).split()
    assert "--mix DS3" in " ".join(words) and str(tmp_path / "made") == words[-1]
    filled, said = synthesize(mix=words[words.index("--mix") + 1], classifiers=("elsewhere",))
    assert f"{filled} lacks 1 images that were removed from it: filling it up" in said
    assert "nothing to do" not in capsys.readouterr().out
    synthesize()
    assert "already finished" in capsys.readouterr().out
    assert filled.manifest.samples == made.manifest.samples


def test_one_image_is_made_again(synthesize: Job) -> None:
    made, _ = synthesize(count="Normal=70")
    for key in (keys_of(made, "Normal")[0], keys_of(made, "Normal")[-1]):
        assert show(key, made, None, OWN).differing == 0
    with pytest.raises(UserError, match="another version of the generator, or another one"):
        show(key, made, None, "tests.synth.conftest:few")


def test_a_generator_that_does_not_say_what_it_learned_from_is_named(synthesize: Job, tiny_set: Path) -> None:
    made, _ = synthesize(count="Normal=5")
    assert made.manifest.provenance.training_data == "unknown"
    assert open_synthetic(str(made), ShardSet(tiny_set)).digest == made.digest


def test_too_low_a_pass_rate_stops_early(synthesize: Job, tmp_path: Path) -> None:
    expected = r"Normal: only \d+ of 256 generated images pass the gates, under --least-pass-rate 0.05 \(each"
    with pytest.raises(UserError, match=expected) as caught:
        synthesize(limit=45, count="Normal=5")
    assert "loosen the gate 'bright'" in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_rejected_images_are_kept_to_be_looked_at_and_not_trained_on(
    synthesize: Job, tmp_path: Path, tiny_set: Path
) -> None:
    synthesize(count="Normal=30", keep_rejected=4)
    rejected = ShardSet(tmp_path / "made-rejected")
    samples = [*rejected.stratum("train", "Normal", "synthetic").all_samples()]
    assert len(samples) == 4 and all(sample.meta["refused_by"] == ["bright"] for sample in samples)
    assert [index_of(sample.key) for sample in samples] == sorted(index_of(sample.key) for sample in samples)
    with pytest.raises(UserError, match="holds the images that the gates of a synthesis refused"):
        open_synthetic(str(rejected), ShardSet(tiny_set))


def test_gates_that_saw_the_test_split_are_refused(synthesize: Job, tiny_set: Path) -> None:
    from cxrdist.data.shards.writing.rewrite import rewrite_manifest

    made, _ = synthesize(count="Normal=5")
    for field in ("fitted_on", "calibrated_on"):
        with changing(made.store) as manifest:
            gates = {
                **manifest.provenance.json_value()["gates"],
                "fitted_on": "train",
                "calibrated_on": "val",
            }
            provenance = manifest.provenance.updated({"gates": {**gates, field: "test"}})
            rewrite_manifest(made.store, manifest, provenance=provenance)
        with pytest.raises(UserError, match="the gates that chose its images were set on the test split"):
            open_synthetic(str(made), ShardSet(tiny_set))


def test_shares_of_several_generators(tmp_path: Path) -> None:
    from cxrdist.synth.plan import ClassProgress, plan_shards

    sources: Any = {"Normal": [load_own(OWN), load_own("tests.synth.conftest:few")]}
    progress = {"Normal": ClassProgress(4, {sources["Normal"][1].digest: 7})}
    tasks = plan_shards({"Normal": 301}, sources, progress, 32, "png")
    assert [task.number for task in tasks] == [4, 5, 6, 7, 8, 9]
    assert [task.samples for task in tasks] == [64, 64, 22, 64, 64, 23]
    assert [(task.first_block, task.stride) for task in tasks] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (7, 3),
        (8, 3),
        (9, 3),
    ]
    assert [task.source for task in tasks] == [sources["Normal"][0]] * 3 + [sources["Normal"][1]] * 3


def test_a_full_disk_ends_the_job_with_what_is_missing(
    synthesize: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard that is being written is gone, those before it stay, and the same command goes on."""
    from cxrdist.synth import rounds

    whole, _ = synthesize(count=COUNT, out=str(tmp_path / "whole"))
    write, calls = rounds.write_or_take_over, []

    def full(task: Any, advance: Any) -> Any:
        calls.append(task)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(task, advance)

    with monkeypatch.context() as m:
        m.setattr(rounds, "write_or_take_over", full)
        with pytest.raises(UserError) as caught:
            synthesize(count=COUNT)
    each = sum(path.stat().st_size for path in (tmp_path / "made").glob("*.tar")) / 100
    missing = f"{each * 70 / 1024:,.1f} KiB"
    assert str(caught.value) == (
        f"{tmp_path / 'made'}: the disk is full; 100 of this process's 170 images are written, and about {missing} "
        "are missing for all 170. Free some space, and run the same command again: it goes on from there"
    )
    assert not (tmp_path / "made/manifest.json").exists()
    assert len([*(tmp_path / "made").glob("*.tar")]) == 2
    made, _ = synthesize(count=COUNT)
    assert made.digest == whole.digest


def test_the_tracker_gets_pass_rates_scores_pictures_and_lineage(
    synthesize: Job, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxrdist.synth import report

    class Recorder:
        def __init__(self) -> None:
            self.calls: dict[str, list[Any]] = {}

        def __getattr__(self, name: str) -> Any:
            return lambda *given: self.calls.setdefault(name, []).append(given)

    tracker = Recorder()
    monkeypatch.setattr(report, "start", lambda *_: tracker)
    made, _ = synthesize(count="Normal=30")
    of = made.manifest.provenance.json_value()["gates"]["classes"]["Normal"]
    rate = 30 / of["tried"]
    assert tracker.calls["log"] == [(30, {"gates/Normal/admitted": rate, "gates/Normal/bright": rate})]
    ((name, rows),) = tracker.calls["table"]
    assert name == "gates/scores"
    assert [(row["class"], row["gate"], row["images"], row["threshold"]) for row in rows] == [
        ("Normal", "bright", "synthetic", 120),
        ("Normal", "bright", "real", 120),
    ]
    assert [row["q50"] for row in rows] == [of["scores"]["bright"][each][2] for each in ("synthetic", "real")]
    pictures = {name: path for _, name, path in tracker.calls["picture"]}
    assert {*pictures} == {"gates/admitted", "gates/refused-bright", "gates/scores"}
    assert all(path.is_file() for path in pictures.values())
    assert tracker.calls["use_artifact"] == [("real-set", ShardSet(tiny_set).digest, tiny_set.name)]
    assert tracker.calls["log_artifact"] == [("synthetic-set", made.digest, "made")]
    assert {path.name for path in (tmp_path / "run/card").iterdir()} == {"README.md", "croissant.json"}
