"""The tools on sets from which samples were removed: which of them count, and which are written again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cxrdist.cli.main import dispatch
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.merge import MergeOptions, merge
from cxrdist.data.tools.preview import rows_of
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.stats import stats
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.removing import key_of, remove, value_of, write_synthetic
from tests.helpers.shard_sets import contents, pixels

REMOVED = {1: (1, 3, 4, 5)}
LEFT = [0, 2, 6, 7, 8]
KEYS = [*(key_of(0, n) for n in range(9)), *(key_of(1, n) for n in LEFT)]

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "set")
    remove(tmp_path / "set", REMOVED)
    return tmp_path / "set"


@pytest.mark.parametrize("changes", [{"encoding": "npy"}, {"encoding": "png"}, {"min_shards": 4}])
def test_a_conversion_drops_them_for_good(
    place: Path, tmp_path: Path, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that changes nothing else."""
    out = tmp_path / "new"
    new = convert(ConvertOptions(set=str(place), out=str(out), workers=1, **changes))  # type: ignore[arg-type]
    assert f"{place}: 4 removed samples, which the new set does not hold\n" in capsys.readouterr().out
    assert (new.samples, new.removed_samples) == (14, 0) and not [*out.glob("*.removed.*")]
    found = pixels(out)
    assert [*found] == KEYS and all(np.array_equal(found[key], image) for key, image in pixels(place).items())
    assert verify(str(out)) == []
    old = read_manifest(place)
    assert new.provenance.edited == old.provenance.edited
    assert new.lineage.ancestors == [old.digest, *old.earlier_digests]
    assert convert(ConvertOptions(set=str(place), out=str(out), workers=1, **changes)) == new  # type: ignore[arg-type]


def test_a_conversion_without_them_is_that_of_a_set_that_never_had_them(place: Path, tmp_path: Path) -> None:
    """In the bytes of its tars: where the shards of the source end does not matter."""
    convert(ConvertOptions(set=str(place), out=str(tmp_path / "a"), workers=1, min_shards=2, encoding="npy"))
    convert(ConvertOptions(set=str(tmp_path / "a"), out=str(tmp_path / "b"), workers=1, min_shards=3))
    convert(ConvertOptions(set=str(place), out=str(tmp_path / "c"), workers=1, min_shards=3, encoding="npy"))
    tars = [{n: d for n, d in contents(tmp_path / name).items() if n.endswith(".tar")} for name in "bc"]
    assert tars[0] == tars[1] and len(tars[0]) == 6


def test_a_merged_set_holds_those_that_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label, name in enumerate("ab"):
        write_synthetic(tmp_path / name, "real", labels=[label])
        remove(tmp_path / name, {label: (0, 8)}, origin="real")
    sets = tuple(str(tmp_path / name) for name in "ab")
    new = merge(MergeOptions(sets=sets, out=str(tmp_path / "both"), workers=1, assume_disjoint=True))
    out = capsys.readouterr().out
    assert all(f"{place}: 2 removed samples, which the new set does not hold\n" in out for place in sets)
    assert (new.samples, new.removed_samples) == (14, 0) and verify(str(tmp_path / "both")) == []
    assert {*pixels(tmp_path / "both")} == {key_of(label, n) for label in (0, 1) for n in range(1, 8)}
    assert sorted(merged.samples for merged in new.provenance.merged or []) == [7, 7]


def test_a_patient_whose_images_were_removed_stays_in_the_split(tmp_path: Path) -> None:
    """What learned from the set as it was has seen the patient."""
    write_synthetic(tmp_path / "a", "real", labels=[0])
    write_synthetic(tmp_path / "b", "real", labels=[1], split="test")
    remove(tmp_path / "a", {0: range(1, 9)}, origin="real")
    sets = (str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(UserError, match="9 patients are in two splits"):
        merge(MergeOptions(sets=sets, out=str(tmp_path / "both"), assume_disjoint=True, workers=1))


def test_indexes_are_made_again_and_the_removed_stay_removed(place: Path) -> None:
    before = contents(place)
    lost = [name for name in before if name.endswith(".index.npy")]
    for name in lost:
        (place / name).unlink()
    assert sorted(reindex(str(place)).rebuilt) == sorted(lost)
    assert contents(place) == before and [*pixels(place)] == KEYS


def test_they_are_counted_apart(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic(tmp_path / "as it was")
    old = read_manifest(place).earlier_digests[0][:12]
    dispatch(["shards", "info", str(place)])
    lines = capsys.readouterr().out.splitlines()
    assert "images    16 x 16 grey, png, 14 in 6 tars, 60.0 KiB, 3.3 KiB an image" in lines
    assert "removed   4 images (Pneumothorax 4): still in the tars, left out by readers" in lines
    assert f"edited    review, removed 4 images; before: {old}" in lines
    assert any(line.split()[:3] == ["Pneumothorax", "5", "synthetic"] for line in lines)
    told = []
    for name in (place, tmp_path / "as it was"):
        dispatch(["shards", "info", str(name), "--json"])
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["removed"] == 4 and "removed" not in told[1]
    assert {*told[0]} - {"removed"} == {*told[1]}


def test_statistics_and_pictures_are_of_those_that_are_left(place: Path) -> None:
    found = stats(str(place))
    tally = found.tallies["Pneumothorax", "synthetic"]["train"]
    assert tally.images == 5 and int(tally.grey.sum()) == 5 * 16 * 16
    assert np.flatnonzero(tally.grey).tolist() == [value_of(1, n) for n in LEFT]
    rows = rows_of([ShardSet(place)], "train", 8)
    assert [(row.class_name, row.samples) for row in rows] == [("Normal", 9), ("Pneumothorax", 5)]
    assert rows[1].images[:, 0, 0].tolist() == [value_of(1, n) for n in LEFT]
