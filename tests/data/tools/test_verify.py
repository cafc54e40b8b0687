from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import IO

import pytest

from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Stratum, read_manifest
from cxrdist.data.shards.schema import MANIFEST, Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools import verify as verify_module
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes
from tests.helpers.key_sets import forge, sample
from tests.helpers.shard_sets import write_set, write_shard

TAR = "val-normal-real-000000.tar"
TRAIN_TAR = "train-normal-real-000000.tar"


@pytest.fixture
def copy(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set, to be damaged."""
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


def test_a_whole_set_has_no_problem(tiny_set: Path, tmp_path: Path) -> None:
    assert verify(str(tiny_set)) == []
    forge(tmp_path, {("train", 0): [sample("a", "p")], ("val", 0): [sample("b", "q")]})
    assert verify(str(tmp_path)) == []


def test_files_that_no_table_names_are_listed(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "folder").mkdir()
    (copy / ".lock").touch()
    (copy / TAR.replace("000000", "000001")).write_bytes((copy / TAR).read_bytes())
    assert verify(str(copy)) == [
        Problem("unlisted", name, "not part of the set")
        for name in (".lock", "folder", "notes.txt", "val-normal-real-000001.tar")
    ]


def test_missing_files_are_listed(copy: Path) -> None:
    (copy / TAR).unlink()
    assert verify(str(copy)) == [Problem("missing", TAR, "missing")]
    (copy / "test-normal-real-000000.index.npy").unlink()
    table = next(copy.glob("train-normal-real.*.json"))
    table.unlink()
    # The shards of a missing table belong to the set.
    assert verify(str(copy)) == [
        Problem("missing", name, "missing") for name in (table.name, TAR, "test-normal-real-000000.index.npy")
    ]
    (copy / MANIFEST).unlink()
    with pytest.raises(
        UserError, match=r"no manifest\.json: not a shard set, or its import did not finish; in that"
    ):
        verify(str(copy))
    with pytest.raises(UserError, match="no such shard set"):
        verify(str(copy / "nowhere"))


def test_a_truncated_tar_is_listed(copy: Path) -> None:
    data = (copy / TAR).read_bytes()
    (copy / TAR).write_bytes(data[: len(data) // 2])
    assert Problem("size", TAR, f"{len(data) // 2:,} bytes, not {len(data):,}") in verify(str(copy))
    (copy / TAR).write_bytes(b"")
    found = verify(str(copy))
    assert found[:2] == [
        Problem("size", TAR, f"0 bytes, not {len(data):,}"),
        Problem("format", TAR, "ends without an end mark at byte 0"),
    ]
    assert [problem.kind for problem in found[2:]] == ["image"] * 3


def test_a_tar_that_is_truncated_while_it_is_verified_is_listed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its digest was found to be right, and while its images are read."""
    name = "train-normal-real-000000.tar"
    second = ShardSet(copy).stratum("train", "Normal", "real").index(0)[1]
    hashed = verify_module.hashed

    def truncated(file: IO[bytes]) -> tuple[int, str]:
        found = hashed(file)
        if file.name == str(copy / name):
            os.truncate(copy / name, int(second["offset_bytes"]) + 100)
        return found

    monkeypatch.setattr(verify_module, "hashed", truncated)
    found = verify(str(copy))
    assert {problem.file for problem in found} == {name}
    key, offset = second["key"].decode(), int(second["offset_bytes"])
    detail = f"sample {key} at byte {offset}: its image does not match its hash"
    assert Problem("image", name, detail) in found


def test_a_swapped_index_is_listed(copy: Path) -> None:
    index = copy / "val-normal-real-000000.index.npy"
    index.write_bytes((copy / "test-normal-real-000000.index.npy").read_bytes())
    assert verify(str(copy)) == [Problem("changed", index.name, "changed since it was written")]


def test_a_patient_in_two_splits_is_listed(tmp_path: Path) -> None:
    forge(
        tmp_path,
        {
            ("train", 0): [sample("a", "p"), sample("b", "q"), sample("c", "")],
            ("val", 0): [sample("d", "p"), sample("e", "r"), sample("f", "")],
            ("test", 0): [sample("g", "p"), sample("h", "s"), sample("i", "s")],
        },
    )
    assert verify(str(tmp_path)) == [Problem("patient", "", "patient p is in train and val and test")]


def test_a_key_that_occurs_twice_is_listed(tmp_path: Path) -> None:
    forge(
        tmp_path,
        {
            ("train", 0): [sample("a", "p"), sample("b", "p")],
            ("train", 1): [sample("b", "p")],
            ("val", 0): [sample("a", "q")],
        },
    )
    assert verify(str(tmp_path)) == [
        Problem("key", "", "key a occurs 2 times"),
        Problem("key", "", "key b occurs 2 times"),
    ]


def test_a_tar_cannot_be_written_with_a_key_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"000000\.tar: the key a would occur twice"):
        forge(tmp_path, {("train", 0): [sample("a", "p"), sample("a", "p")]})


def test_what_does_not_decode_is_listed_with_key_and_offset(tmp_path: Path) -> None:
    small, junk = sample("b", "p", size=8), Sample("c", b"junk", {"patient": "p"})
    forge(tmp_path, {("train", 0): [sample("a", "p"), small, junk]})
    index = ShardSet(tmp_path).stratum("train", "Normal", "real").index(0)
    b, c = (int(row["offset_bytes"]) for row in index[1:])
    assert verify(str(tmp_path)) == [
        Problem("image", TRAIN_TAR, f"sample b at byte {b}: 8x8 L, not 16x16 8-bit grey"),
        Problem("image", TRAIN_TAR, f"sample c at byte {c}: not an image of a known format"),
    ]


def test_numbers_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    manifest = forge(tmp_path, {("train", 0): [sample("a", "p")]}, samples=2)
    table = manifest.strata[0].table
    assert verify(str(tmp_path)) == [Problem("count", table, "1 samples, but manifest.json says 2")]


def test_counts_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    forge(tmp_path, {("train", 0): [sample("a", "p")]})
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    manifest["counts"]["train"]["Normal"]["real"] = 7
    del manifest["digest"]
    manifest["digest"] = sha256_bytes(canonical_json(manifest))
    (tmp_path / MANIFEST).write_bytes(canonical_json(manifest))
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / MANIFEST}: its counts are not those of its strata; its digest matches, so another program "
        "wrote it: do not use this set"
    )
    assert verify(str(tmp_path)) == [Problem("value", MANIFEST, "its counts are not those of its strata")]


def test_a_class_that_is_not_that_of_the_tar_is_listed(tmp_path: Path) -> None:
    store, stratum = LocalStore(tmp_path), Stratum("train", "Normal", "real")
    row = write_shard(store, 0, stratum, 1, "png", [sample("a", "p")])
    write_set(store, ["Normal", "Pneumothorax"], 16, "png", [write_table(store, stratum, [row])])
    assert verify(str(tmp_path)) == [Problem("member", TRAIN_TAR, "sample a has class 1, not 0")]


def test_files_of_a_damaged_table_belong_to_the_set(copy: Path) -> None:
    table = read_manifest(copy).strata[0].table
    (copy / table).write_bytes(b"{}")
    assert verify(str(copy)) == [Problem("changed", table, "changed since manifest.json was written")]
