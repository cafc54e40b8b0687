from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxrdist.data.shards.manifest import MANIFEST, Stratum, read_manifest, write_manifest, write_table
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample, write_shard
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes
from tests.helpers.key_sets import forge, sample

TAR = "val-normal-real-000000.tar"


@pytest.fixture
def copy(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set, to be damaged."""
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


def test_a_whole_set_has_no_problem(tiny_set: Path, tmp_path: Path) -> None:
    assert verify(str(tiny_set)) == []
    forge(tmp_path, {("train", 0): [sample("a", "p")], ("val", 0): [sample("b", "q")]})
    assert verify(str(tmp_path)) == []


def test_strangers_are_listed(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "folder").mkdir()
    (copy / ".lock").touch()
    (copy / TAR.replace("000000", "000001")).write_bytes((copy / TAR).read_bytes())
    assert verify(str(copy)) == [
        ".lock: a file that no table names",
        "folder: a file that no table names",
        "notes.txt: a file that no table names",
        "val-normal-real-000001.tar: a file that no table names",
    ]


def test_missing_files_are_listed(copy: Path) -> None:
    (copy / TAR).unlink()
    assert verify(str(copy)) == [f"{TAR}: missing"]
    (copy / "test-normal-real-000000.index.npy").unlink()
    table = next(copy.glob("train-normal-real.*.json"))
    table.unlink()
    found = verify(str(copy))
    assert found[0] == f"{TAR}: missing" or f"{TAR}: missing" in found
    assert "test-normal-real-000000.index.npy: missing" in found
    assert any(line.startswith(f"{table}: missing; restore the set") for line in found)
    assert len(found) == 3  # the shards of a missing table are no strangers
    (copy / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a shard set, or an unfinished one"):
        verify(str(copy))
    with pytest.raises(UserError, match="no such shard set"):
        verify(str(copy / "nowhere"))


def test_a_truncated_tar_is_listed(copy: Path) -> None:
    data = (copy / TAR).read_bytes()
    (copy / TAR).write_bytes(data[: len(data) // 2])
    assert f"{TAR}: {len(data) // 2:,} bytes, not {len(data):,}" in verify(str(copy))
    (copy / TAR).write_bytes(b"")
    found = verify(str(copy))
    assert found[0] == f"{TAR}: 0 bytes, not {len(data):,}" and len(found) == 2 + 3


def test_a_swapped_index_is_listed(copy: Path) -> None:
    index = copy / "val-normal-real-000000.index.npy"
    index.write_bytes((copy / "test-normal-real-000000.index.npy").read_bytes())
    assert verify(str(copy)) == [f"{index.name}: changed since it was written"]


def test_a_patient_in_two_splits_is_listed(tmp_path: Path) -> None:
    forge(
        tmp_path,
        {
            ("train", 0): [sample("a", "p"), sample("b", "q"), sample("c", "")],
            ("val", 0): [sample("d", "p"), sample("e", "r"), sample("f", "")],
            ("test", 0): [sample("g", "p"), sample("h", "s"), sample("i", "s")],
        },
    )
    assert verify(str(tmp_path)) == ["patient p is in train and val and test"]


def test_a_key_that_stands_twice_is_listed(tmp_path: Path) -> None:
    forge(
        tmp_path,
        {
            ("train", 0): [sample("a", "p"), sample("b", "p")],
            ("train", 1): [sample("b", "p")],
            ("val", 0): [sample("a", "q")],
        },
    )
    assert verify(str(tmp_path)) == ["key a stands 2 times", "key b stands 2 times"]


def test_a_tar_cannot_be_written_with_a_key_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"000000\.tar: a would stand in it twice"):
        forge(tmp_path, {("train", 0): [sample("a", "p"), sample("a", "p")]})


def test_what_does_not_decode_is_listed_with_key_and_offset(tmp_path: Path) -> None:
    small, junk = sample("b", "p", size=8), Sample("c", b"junk", {"patient": "p"})
    forge(tmp_path, {("train", 0): [sample("a", "p"), small, junk]})
    index = ShardSet(tmp_path).stratum("train", "Normal", "real").index(0)
    tar = "train-normal-real-000000.tar"
    assert verify(str(tmp_path)) == [
        f"{tar}: sample b at byte {index[1]['offset_bytes']}: 8x8 L, not 16x16 8-bit grey",
        f"{tar}: sample c at byte {index[2]['offset_bytes']}: not an image of a known format",
    ]


def test_numbers_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    manifest = forge(tmp_path, {("train", 0): [sample("a", "p")]}, samples=2)
    (problem,) = verify(str(tmp_path))
    assert problem == f"{manifest['strata'][0]['table']}: 1 samples, but manifest.json says 2"


def test_counts_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    manifest = forge(tmp_path, {("train", 0): [sample("a", "p")]})
    manifest["counts"]["train"]["Normal"]["real"] = 7
    del manifest["digest"]
    manifest["digest"] = sha256_bytes(canonical_json(manifest))
    (tmp_path / MANIFEST).write_bytes(canonical_json(manifest))
    told = f"{tmp_path / MANIFEST}: its counts are not those of its strata; do not use this set"
    with pytest.raises(UserError, match="its counts are not those of its strata"):
        read_manifest(tmp_path)
    assert verify(str(tmp_path)) == [told]


def test_a_class_that_is_not_that_of_the_tar_is_listed(tmp_path: Path) -> None:
    row = write_shard(
        LocalStore(tmp_path), 0, Stratum("train", "Normal", "real"), 1, "png", [sample("a", "p")]
    )
    write_manifest(
        LocalStore(tmp_path),
        classes=["Normal", "Pneumothorax"],
        image_size=16,
        encoding="png",
        strata=[write_table(LocalStore(tmp_path), Stratum("train", "Normal", "real"), [row])],
        provenance={},
        lineage={"kind": "real"},
    )
    (problem,) = verify(str(tmp_path))
    assert problem.endswith("train-normal-real-000000.tar: sample a has class 1, not 0")


def test_files_of_a_damaged_table_are_no_strangers(copy: Path) -> None:
    table = read_manifest(copy)["strata"][0]["table"]
    (copy / table).write_bytes(b"{}")
    (problem,) = verify(str(copy))
    assert f"{copy / table}: changed since manifest.json was written" in problem
