from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxrdist.cli.shards import index as index_command
from cxrdist.data.shards.index import index_name, read_table
from cxrdist.data.shards.schema import Problem, ShardSetError
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of, write_to
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.key_sets import forge, sample
from tests.helpers.shard_sets import contents

TAR = "train-normal-real-000000.tar"
INDEX = "train-normal-real-000000.index.npy"


@pytest.fixture
def copy(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set, to be damaged."""
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


def test_a_whole_set_is_not_touched(copy: Path) -> None:
    times = {p: p.stat().st_mtime_ns for p in [copy, *copy.iterdir()]}
    result = reindex(str(copy))
    assert (result.intact, result.rebuilt, result.problems) == (9, [], [])
    assert {p: p.stat().st_mtime_ns for p in [copy, *copy.iterdir()]} == times


def test_missing_and_damaged_indexes_are_made_again(tiny_set: Path, copy: Path) -> None:
    (copy / INDEX).unlink()
    (copy / "val-normal-real-000000.index.npy").write_bytes(b"junk")
    data = bytearray((copy / "test-normal-real-000000.index.npy").read_bytes())
    data[200] ^= 1
    (copy / "test-normal-real-000000.index.npy").write_bytes(data)
    (copy / f".{INDEX}.4242.tmp").write_bytes(b"what a killed one leaves")
    result = reindex(str(copy))
    assert result.intact == 6 and result.problems == []
    assert sorted(result.rebuilt) == [
        "test-normal-real-000000.index.npy",
        INDEX,
        "val-normal-real-000000.index.npy",
    ]
    assert contents(copy) == contents(tiny_set)


def test_all_indexes_of_several_shards_are_made_again(tmp_path: Path) -> None:
    forge(
        tmp_path,
        {
            ("train", 0): [sample("a", "p", 1), sample("b", "q", 2)],
            ("train", 1): [sample("c", "r", 3)],
            ("val", 0): [sample("d", "", 4)],
        },
    )
    whole = contents(tmp_path)
    for index in tmp_path.glob("*.index.npy"):
        index.unlink()
    assert len(reindex(str(tmp_path)).rebuilt) == 3
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("damage", ["a pixel", "cut off", "missing"])
def test_a_damaged_tar_gets_no_index(copy: Path, damage: str) -> None:
    (copy / INDEX).unlink()
    (copy / "val-normal-real-000000.index.npy").unlink()
    tar = copy / TAR
    whole = bytearray(tar.read_bytes())
    if damage == "missing":
        tar.unlink()
        kind, told = "missing", f"{TAR}: missing"
    elif damage == "cut off":
        tar.write_bytes(whole[:2000])
        kind, told = "format", f"{TAR}: ends "
    else:
        entry = next(e for e in ShardSet(copy).manifest.strata if e.table.startswith("train-normal"))
        assert read_table(store_of(copy), entry)[0].name == TAR
        whole[whole.index(b"IDAT") + 20] ^= 1
        tar.write_bytes(whole)
        kind, told = "changed", f"{TAR}: changed since it was written, so its index can't be rebuilt"
    result = reindex(str(copy))
    assert result.rebuilt == ["val-normal-real-000000.index.npy"] and result.intact == 7
    (problem,) = result.problems
    assert problem.kind == kind and str(problem).startswith(told)
    assert not (copy / INDEX).exists() and not list(copy.glob(".*"))


def test_a_missing_table_is_reported_and_the_others_are_checked(copy: Path) -> None:
    table = next(copy.glob("train-normal-real.*.json"))
    table.unlink()
    (copy / "val-normal-real-000000.index.npy").unlink()
    result = reindex(str(copy))
    assert result.rebuilt == ["val-normal-real-000000.index.npy"] and result.intact == 7
    assert result.problems == [Problem("missing", table.name, "missing")]


def test_a_set_at_a_url(tiny_set: Path) -> None:
    store = store_of("memory://reindex/set")
    for name, data in contents(tiny_set).items():
        if name != INDEX:
            write_to(store, name, data)
    assert reindex(str(store)).rebuilt == [INDEX]
    assert store.read(INDEX) == (tiny_set / INDEX).read_bytes()
    assert verify(str(store)) == []


def test_no_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such shard set"):
        reindex(str(tmp_path / "nowhere"))


def test_the_command_tells_what_it_did(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index_command([str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy}: indexes: 9 intact, 0 rebuilt\n"
    (copy / INDEX).unlink()
    assert index_command([str(copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"{INDEX}: rebuilt", f"{copy}: indexes: 8 intact, 1 rebuilt"]
    (copy / index_name(TAR)).unlink()
    (copy / TAR).unlink()
    assert index_command([str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:-1] == [f"{TAR}: missing", f"{copy}: indexes: 8 intact, 0 rebuilt, 1 problem"]
    assert lines[-1] == (
        "what to do: restore the set from a copy, or make it again: remove its folder first, or manifest.json alone "
        "if tars were indexed in place"
    )


def test_a_missing_tar_is_a_problem_though_its_index_is_whole(tiny_set: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    lost = sorted(copy.glob("*.tar"))[0]
    lost.unlink()
    result = reindex(str(copy))
    assert result.problems == [Problem("missing", lost.name, "missing")] and not result.rebuilt


def test_the_reader_of_a_lost_index_names_the_command_that_rebuilds_it(
    tiny_set: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    (copy / "train-normal-real-000000.index.npy").unlink()
    with pytest.raises(ShardSetError) as caught:
        ShardSet(copy).stratum("train", "Normal", "real").pixels(0)
    name = "train-normal-real-000000.index.npy"
    assert str(caught.value) == f"{copy}/{name}: missing; rebuild it with `cxrdist shards index {copy}`"
