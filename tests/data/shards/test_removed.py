"""Samples that were removed: readers leave them out, and tars, indexes and tables stay as they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from pydantic import ValidationError

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import quotas
from cxrdist.data.shards.index import read_table, write_table
from cxrdist.data.shards.lineage import converted, descends_from, family, made_from
from cxrdist.data.shards.manifest import Stratum, StratumEntry, digest_of, read_manifest
from cxrdist.data.shards.removed import Reason, read_removed, without
from cxrdist.data.shards.schema import MANIFEST, Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.writing.write_job import remove_leftovers
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes
from tests.helpers.removing import (
    CLASSES,
    NORMAL,
    PNEUMOTHORAX,
    REASON,
    forge,
    key_of,
    remove,
    removed_rows,
    value_of,
    write_synthetic,
)
from tests.helpers.shard_sets import contents, pixels, write_set, write_shard

REMOVED = {1: (1, 3, 4, 5)}
"""One sample of the first shard of Pneumothorax, and all of the second."""
LEFT = [0, 2, 6, 7, 8]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "set")
    remove(tmp_path / "set", REMOVED)
    return tmp_path / "set"


def test_the_file_names_them_and_the_manifest_counts_those_that_are_left(tmp_path: Path) -> None:
    old, place = write_synthetic(tmp_path), tmp_path
    before = contents(place)
    new = remove(place, REMOVED)
    normal, pneumothorax = new.strata
    told = [
        {"by": "review", "key": key_of(1, n), "reason": "grid", "reviewer": "Ann", "shard": n // 3}
        | {"time": "2026-07-04T09:30:00Z"}
        for n in REMOVED[1]
    ]
    data = canonical_json(told)
    name = f"train-pneumothorax-synthetic.removed.{sha256_bytes(data)[:12]}.json"
    assert contents(place) == before | {name: data, MANIFEST: (place / MANIFEST).read_bytes()}
    assert normal == old.strata[0] and normal.removed is None
    changes = {"samples": 5, "removed": name, "removed_sha256": sha256_bytes(data), "removed_samples": 4}
    assert pneumothorax.json_value() == old.strata[1].json_value() | changes
    assert new.counts == {"train": {"Normal": {"synthetic": 9}, "Pneumothorax": {"synthetic": 5}}}
    assert (new.samples, new.removed_samples) == (14, 4)
    assert new.lineage == old.lineage
    edited = [{"from": old.digest, "removed": 4, "by": "review"}]
    assert new.provenance.json_value() == old.provenance.json_value() | {"edited": edited}
    assert read_manifest(place) == new and new.digest == digest_of(new.json_value()) != old.digest
    assert verify(str(place)) == verify(str(place), quick=True) == []


def test_a_reader_gives_those_that_are_left(place: Path) -> None:
    reader = ShardSet(place).stratum(*vars(PNEUMOTHORAX).values())
    for again in (reader, pickle.loads(pickle.dumps(reader)), reader.with_block_rows(2)):
        assert again.samples == 5 and again.shards.samples.tolist() == [3, 3, 3]
        assert again.shard_samples.tolist() == [2, 0, 3] and again.ends.tolist() == [2, 2, 5]
        assert [again.locate(number) for number in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
        assert [again.key(number).decode() for number in range(5)] == [key_of(1, n) for n in LEFT]
        assert [int(again.pixels(number)[0, 0]) for number in range(5)] == [value_of(1, n) for n in LEFT]
        assert [sample.key for sample in again.all_samples()] == [key_of(1, n) for n in LEFT]
        assert [len(again.index(shard)) for shard in range(3)] == [2, 0, 3]
        assert [len(again.whole_index(shard)) for shard in range(3)] == [3, 3, 3]
        with pytest.raises(IndexError, match="sample 5 of 5"):
            again.locate(5)


def test_a_stratum_without_removals_reads_no_file_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda store, name: asked.append(name) or read(store, name))
    reader = ShardSet(place).stratum(*vars(NORMAL).values())
    assert reader.shard_samples is reader.shards.samples and reader.pixels(8).max() == 8
    tar = reader.shards.names[2]
    assert asked == [MANIFEST, reader.entry.table, tar.replace(".tar", ".index.npy")]


def test_a_mix_takes_each_of_those_that_are_left(place: Path, tmp_path: Path) -> None:
    """DS3 of a real set that is removed from as well: 2 x 9 images of each class."""
    write_synthetic(tmp_path / "real", origin="real")
    remove(tmp_path / "real", {0: [8]}, origin="real")
    real, synthetic = ShardSet(tmp_path / "real"), ShardSet(place)
    counts = train_counts(real, synthetic)
    assert counts == {"Normal": {"real": 8, "synthetic": 9}, "Pneumothorax": {"real": 9, "synthetic": 5}}
    quota = quotas(named_rule("DS3"), counts)
    assert quota == {"Normal": {"real": 8, "synthetic": 10}, "Pneumothorax": {"real": 9, "synthetic": 9}}
    stream = Stream(real, synthetic, quota, StreamOptions(batch=36, seed=0))
    batch = stream.read(0)
    taken: dict[tuple[str, str], set[int]] = {}
    for key, stratum, image, label in zip(
        batch.keys, batch.strata, batch.pixels.numpy(), batch.labels.tolist()
    ):
        number = int(key[17:23]) * 3 + int(key[24:])
        assert key.decode() == key_of(label, number) and int(image.max()) == value_of(label, number)
        taken.setdefault(stream.strata[stratum], set()).add(number)
    assert taken == {
        ("Normal", "real"): {*range(8)},
        ("Normal", "synthetic"): {*range(9)},
        ("Pneumothorax", "real"): {*range(9)},
        ("Pneumothorax", "synthetic"): {*LEFT},
    }


def test_other_readers_of_webdataset_still_find_them(place: Path) -> None:
    urls = str(place / "train-pneumothorax-synthetic-{000000..000002}.tar")
    keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert keys == [key_of(1, number) for number in range(9)]


def test_more_are_removed_and_the_old_file_goes(place: Path) -> None:
    first = read_manifest(place)
    other = Reason(reason="near copy", by="duplicates gate", reviewer=None, time=None)
    new = remove(place, {0: [0], 1: [8]}, other)
    files = sorted(path.name for path in place.glob("*.removed.*"))
    assert (
        files == sorted(str(entry.removed) for entry in new.strata) and first.strata[1].removed not in files
    )
    removals = read_removed(LocalStore(place), new.strata[1])
    assert [(r.key, r.shard, r.reason, r.by, r.reviewer) for r in removals] == [
        *((key_of(1, n), n // 3, "grid", "review", "Ann") for n in REMOVED[1]),
        (key_of(1, 8), 2, "near copy", "duplicates gate", None),
    ]
    assert [(edit.source, edit.removed) for edit in new.provenance.edited or []] == [
        (first.provenance.edited[0].source, 4),
        (first.digest, 2),
    ]
    assert new.earlier_digests == [first.digest, first.provenance.edited[0].source]
    assert verify(str(place)) == []


def test_a_job_removes_samples_before_it_writes_the_manifest(tmp_path: Path) -> None:
    """Its leftovers go: another file of removed samples, which it does not name."""
    entries = write_synthetic(tmp_path).strata
    (tmp_path / MANIFEST).unlink()
    store = LocalStore(tmp_path)
    before = contents(tmp_path)
    without(store, entries[0], {key_of(0, 7): REASON})
    strata = [without(store, entry, {key_of(n, 2): REASON}) for n, entry in enumerate(entries)]
    remove_leftovers(store, strata, [read_table(store, entry) for entry in strata])
    named = {str(entry.removed) for entry in strata}
    assert {*contents(tmp_path)} == {*before} | named and len(named) == 2
    write_set(store, [*CLASSES], 16, "png", strata)
    assert verify(str(tmp_path)) == [] and len(pixels(tmp_path)) == 16


def test_keys_that_an_earlier_version_truncated_are_not_removed(tmp_path: Path) -> None:
    """Several samples share one, so it does not say which is meant."""
    stratum = Stratum("train", "Pleural Effusion", "synthetic")
    keys = [f"0123456789ab-pleural-effusion-000000-0000000{n}"[:40] for n in range(2)]
    assert keys[0] == keys[1]
    image = encode(np.zeros((16, 16), np.uint8), "png")
    row = write_shard(LocalStore(tmp_path), 0, stratum, 0, "png", [Sample(keys[0], image, {})])
    entry = write_table(LocalStore(tmp_path), stratum, [row])
    with pytest.raises(UserError, match="an earlier version truncated their keys"):
        without(LocalStore(tmp_path), entry, {keys[0]: REASON})


# ---- what is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["nobody"], "no sample 'nobody' in train-pneumothorax-synthetic"),
        (["nobody", "a b", key_of(1, 0)], "no sample 'a b', and 1 more in train-pneumothorax-synthetic"),
        ([key_of(0, 0)], f"no sample '{key_of(0, 0)}' in train-pneumothorax-synthetic"),
        ([key_of(1, 0), key_of(1, 3)], f"sample {key_of(1, 3)} was removed before"),
        ([key_of(1, n) for n in LEFT], r"no image of Pneumothorax \(train, synthetic\) would be left"),
    ],
)
def test_keys_that_cannot_be_removed(place: Path, keys: list[str], message: str) -> None:
    before = contents(place)
    entry = read_manifest(place).strata[1]
    with pytest.raises(UserError, match=message):
        without(LocalStore(place), entry, dict.fromkeys(keys, REASON))
    assert contents(place) == before


def test_nothing_to_remove_writes_nothing(place: Path) -> None:
    before = contents(place)
    entry = read_manifest(place).strata[1]
    assert without(LocalStore(place), entry, {}) is entry
    assert remove(place, {0: [], 1: []}) == read_manifest(place)
    assert contents(place) == before


@pytest.mark.parametrize(
    "time",
    ["2026-07-04", "2026-07-04T09:30:00", "2026-07-04T09:30:00+02:00", "2026-13-04T09:30:00Z", "9Z", 5],
)
def test_times_that_are_none(time: Any) -> None:
    with pytest.raises(ValidationError, match=r"ISO 8601|valid string"):
        Reason(reason="", by="review", reviewer=None, time=time)
    assert Reason(reason="", by="review", reviewer=None, time="2026-07-04T09:30:00.25Z").time is not None


def test_what_is_forged_here_is_else_a_right_set(place: Path) -> None:
    assert verify(str(forge(place, removed_rows(place)))) == []


def changed(number: int, **fields: Any) -> Any:
    return lambda rows: [row | (fields if n == number else {}) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: {}, "Input should be a valid list"),
        (lambda rows: rows[::-1], "not sorted by shard and key"),
        (lambda rows: [rows[0], rows[0], *rows[2:]], "not sorted by shard and key"),
        (lambda rows: b"[" * 100_000, r"not valid JSON"),
        (lambda rows: b'[{"key": NaN', r"not valid JSON"),
        (changed(3, shard=2, key=key_of(1, 1)), "a key occurs twice"),
        (changed(0, key="../x"), r"\[0\]\.key is '\.\./x': expected the key of a sample"),
        (changed(0, key="nobody"), r"sample nobody is not in train-pneumothorax-synthetic-000000\.tar"),
        (changed(3, shard=2), rf"sample {key_of(1, 5)} is not in train-pneumothorax-synthetic-000002\.tar"),
        (changed(3, shard=3), "1 samples of shard 3, which the table does not have"),
        (changed(3, shard=-1), r"\[3\]\.shard is -1"),
        (changed(3, shard=True), r"\[3\]\.shard is True"),
        (changed(1, time="yesterday"), r"\[1\]\.time is 'yesterday'"),
        (changed(1, reason="\x1b[2J"), r"\[1\]\.reason is '\\x1b\[2J'"),
        (changed(1, reason=None), r"\[1\]\.reason is None"),
        (changed(1, host="x"), r"\[1\]\.host: unknown field"),
        (lambda rows: [{k: v for k, v in row.items() if k != "time"} for row in rows], r"time is missing"),
    ],
)
def test_files_that_no_set_has(place: Path, change: Any, what: str) -> None:
    forge(place, change(removed_rows(place)))
    name = str(read_manifest(place).strata[1].removed)
    found = verify(str(place))
    assert [(problem.kind, problem.file) for problem in found] == [("value", name)]
    with pytest.raises(UserError, match=what) as caught:
        list(ShardSet(place).stratum(*vars(PNEUMOTHORAX).values()).all_samples())
    assert str(caught.value).startswith(
        f"{place}/{found[0]}; its digest matches, so another program wrote it"
    )
    reader = ShardSet(place).stratum(*vars(PNEUMOTHORAX).values())
    with pytest.raises(UserError, match=what):
        [reader.key(number) for number in range(reader.samples)]
    if "is not in" not in what:  # which only indexes tell
        assert verify(str(place), quick=True) == found


def test_another_number_than_the_manifest_says(place: Path) -> None:
    three = removed_rows(place)[:3]
    forge(place, three)
    name = str(read_manifest(place).strata[1].removed)
    problem = Problem("count", name, f"3 samples, but {MANIFEST} says 4")
    assert verify(str(place)) == verify(str(place), quick=True) == [problem]
    forge(place, three, removed_samples=3)
    entry = read_manifest(place).strata[1]
    problem = Problem("count", entry.table, f"9 samples, but {MANIFEST} says 8")
    assert verify(str(place)) == [problem]
    with pytest.raises(UserError, match=f"{entry.table}: not the samples that {MANIFEST} states"):
        ShardSet(place).stratum(*vars(PNEUMOTHORAX).values()).pixels(0)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"removed": ...}, "expected all of removed, removed_sha256, removed_samples, or none of them"),
        (
            {"removed_sha256": ...},
            "expected all of removed, removed_sha256, removed_samples, or none of them",
        ),
        (
            {"removed_samples": None},
            "expected all of removed, removed_sha256, removed_samples, or none of them",
        ),
        ({"removed_samples": 0}, "removed_samples is 0"),
        ({"removed_samples": 10**6}, "1000005 samples do not fit into"),
        ({"removed": "../x.json"}, "expected the name of a file in the set"),
        ({"removed_sha256": "x"}, "removed_sha256 is 'x'"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_entries_that_no_manifest_has(place: Path, changes: dict[str, Any], what: str) -> None:
    forge(place, removed_rows(place), **changes)
    with pytest.raises(UserError, match=rf"strata\[1\].*{what}"):
        read_manifest(place)


def test_none_of_the_fields_is_there_unless_something_was_removed(tmp_path: Path) -> None:
    entry = write_synthetic(tmp_path).strata[0]
    assert {*entry.json_value()} == {
        *("split", "class", "origin", "samples", "bytes", "shards", "table", "table_sha256")
    }
    with pytest.raises(ValidationError, match="or none of them"):
        StratumEntry.model_validate(entry.json_value() | {"removed": None})


# ---- lineage


def test_a_set_that_was_removed_from_stays_in_its_family(tmp_path: Path) -> None:
    old = write_synthetic(tmp_path / "a", origin="real").digest
    write_synthetic(tmp_path / "b", origin="real")
    before = ShardSet(tmp_path / "b")
    middle = remove(tmp_path / "a", {0: [1]}, origin="real").digest
    new = remove(tmp_path / "a", {0: [2]}, origin="real").digest
    after = ShardSet(tmp_path / "a")
    assert family(after) == [new, middle, old] and family(before) == [old]
    assert descends_from(made_from(before), after)  # a generator of the set as it was
    assert made_from(after) == {"real_digest": new, "split": "train", "real_ancestors": [middle, old]}
    assert descends_from(made_from(after), before)
    assert converted(after.manifest).ancestors == [new, middle, old]
