"""Foreign tars indexed where they lie: one index a tar, several strata in it, nothing moved."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_ingest import inline  # noqa: F401  (a fixture)
from webdataset import TarWriter

from cxrdist.data.convert import ConvertOptions, convert
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.in_place import index_in_place
from cxrdist.data.ingest import IngestOptions, ingest
from cxrdist.data.mix import MixRule, quotas
from cxrdist.data.privacy import load_salt
from cxrdist.data.reindex import reindex
from cxrdist.data.shard_set import ShardSet
from cxrdist.data.stream import Stream
from cxrdist.data.verify import verify
from cxrdist.errors import UserError

pytestmark = pytest.mark.usefixtures("inline")
SIZE = 24


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars, classes in turn, 12 of each: colour and grey, wide and tall, PNG and JPEG; patients of two."""
    root = tmp_path / "tars"
    root.mkdir()
    rng = np.random.default_rng(2)
    number = 0
    for tar in ("a.tar", "b.tar"):
        with TarWriter(str(root / tar), encoder=False) as writer:
            for _ in range(12):
                shape = (40, 30, 3) if number % 3 else (30, 40)
                buffer = io.BytesIO()
                suffix = "jpg" if number % 2 else "png"
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                image.save(buffer, "JPEG" if suffix == "jpg" else "PNG")
                told = {"patient_id": f"MRN{number // 4}", "note": "Jane Doe"}
                writer.write(
                    {
                        "__key__": f"scan-{number}",
                        suffix: buffer.getvalue(),
                        "cls": str(number % 2).encode(),
                        "json": json.dumps(told).encode(),
                    }
                )
                number += 1
    return root


def importer(tars: Path, *, in_place: bool) -> WebDataset:
    return WebDataset(root=str(tars), class_names=("Normal", "Mass"), in_place=in_place)


def options(out: str = "", **others: object) -> IngestOptions:
    made = {"size": SIZE, "val": 0.2, "test": 0.2, "workers": 1, **others}
    return IngestOptions(out=out, **made)  # type: ignore[arg-type]


def test_the_set_reads_as_one_that_was_written_anew(tars: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    ingest(importer(tars, in_place=False), options(str(tmp_path / "anew")))
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert {name: (tars / name).read_bytes() for name in before} == before
    with pytest.raises(
        UserError, match="a set that cxrdist wrote; make another of it with `cxrdist shards conv"
    ):
        list(importer(tars, in_place=False).records())
    placed, anew = ShardSet(tars), ShardSet(tmp_path / "anew")
    assert placed.manifest["counts"] == anew.manifest["counts"] and manifest == placed.manifest
    assert len(placed.strata) == 6
    for stratum in placed.strata:
        here, there = placed.stratum(*vars(stratum).values()), anew.stratum(*vars(stratum).values())
        by_key = {there.key(i): there.pixels(i) for i in range(there.samples)}
        assert sorted(here.key(i) for i in range(here.samples)) == sorted(by_key)
        for i in range(here.samples):
            np.testing.assert_array_equal(here.pixels(i), by_key[here.key(i)])
    assert verify(str(tars)) == [] == verify(str(tars), quick=True)


def test_one_index_a_tar_tells_strata_apart(tars: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    assert sorted(p.name for p in tars.glob("*.npy")) == ["a.index.npy", "b.index.npy"]
    index = np.load(tars / "a.index.npy", allow_pickle=False)
    assert len(index) == 12 and set(index["class"]) == {0, 1}
    salt = load_salt(None)
    assert index["key"][0].decode() == salt.key("a.tar/scan-0")
    assert index["patient"][0].decode() == salt.patient("MRN0")
    data = (tars / "a.tar").read_bytes()
    for row in index:
        start = int(row["offset_bytes"])
        assert data[start : start + 4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
    # What is ours to write knows no name.
    for path in tars.iterdir():
        if path.suffix != ".tar":
            assert b"MRN" not in path.read_bytes() and b"scan-" not in path.read_bytes()


def test_a_mix_streams_from_it(tars: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    shards = ShardSet(tars)
    counts = {name: {"real": shards.samples("train", name, "real")} for name in shards.classes}
    rule = MixRule(name="DS1", images_per_class="own")
    stream = Stream(shards, None, quotas(rule, counts), batch=2, seed=0)
    keys = {bytes(k) for step in range(stream.epoch_images // 2) for k in stream.read(step).keys}
    assert len(keys) == sum(n["real"] for n in counts.values()) == stream.epoch_images


def test_convert_makes_a_set_of_our_own_of_it(tars: Path, tmp_path: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    convert(ConvertOptions(set=str(tars), out=str(tmp_path / "own"), workers=1))
    own, placed = ShardSet(tmp_path / "own"), ShardSet(tars)
    assert own.manifest["encoding"] == "npy" and verify(str(tmp_path / "own")) == []
    for stratum in placed.strata:
        here, there = own.stratum(*vars(stratum).values()), placed.stratum(*vars(stratum).values())
        np.testing.assert_array_equal(
            [here.pixels(i) for i in range(here.samples)], [there.pixels(i) for i in range(there.samples)]
        )
    for path in (tmp_path / "own").iterdir():
        data = path.read_bytes()
        assert not any(word in data for word in (b"MRN", b"scan-", b"Jane"))


@pytest.mark.parametrize("tar", ["a", "b"])
def test_a_changed_image_is_found_by_verify_and_reader(tars: Path, tar: str) -> None:
    index_in_place(importer(tars, in_place=True), options())
    row = np.load(tars / f"{tar}.index.npy", allow_pickle=False)[5]
    data = bytearray((tars / f"{tar}.tar").read_bytes())
    data[int(row["offset_bytes"]) + 7] ^= 1
    (tars / f"{tar}.tar").write_bytes(data)
    key = row["key"].decode()
    assert verify(str(tars)) == [
        f"{tar}.tar: changed since it was written",
        f"{tar}.tar: sample {key} at byte {row['offset_bytes']}: its image is not the one that was written",
    ]
    shards = ShardSet(tars)
    reader = shards.stratum(row["split"].decode(), shards.classes[row["class"]], "real")
    with pytest.raises(UserError, match=f"{tar}.tar: sample {key} at byte {row['offset_bytes']}: its bytes"):
        [reader.pixels(i) for i in range(reader.samples)]


def test_strangers_that_are_no_tars_are_the_owners_business(tars: Path) -> None:
    (tars / "README.md").write_text("mine")
    index_in_place(importer(tars, in_place=True), options())
    assert verify(str(tars)) == []
    (tars / "c.tar").write_bytes((tars / "a.tar").read_bytes())
    assert verify(str(tars)) == ["c.tar: a file that no table names"]


def test_a_lost_index_needs_the_import_again(tars: Path) -> None:
    manifest = index_in_place(importer(tars, in_place=True), options())
    (tars / "b.index.npy").unlink()
    assert "b.index.npy: missing" in verify(str(tars))
    (problem,) = reindex(str(tars)).problems
    assert "run `cxrdist import webdataset --in-place` again" in problem
    (tars / "manifest.json").unlink()
    (tars / "a.index.npy").unlink()
    for table in tars.glob("*.json"):
        table.unlink()
    assert index_in_place(importer(tars, in_place=True), options()) == manifest


def test_again_there_is_nothing_to_do_and_another_job_is_refused(
    tars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert index_in_place(importer(tars, in_place=True), options()) == manifest
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="size 24, now 32"):
        index_in_place(importer(tars, in_place=True), options(size=32))


def test_what_cannot_be_indexed_leaves_the_tars_alone(tars: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--in-place makes a set of .* itself: leave --out away"):
        index_in_place(importer(tars, in_place=True), options(out=str(tmp_path / "elsewhere")))
    before = sorted(path.name for path in tars.iterdir())
    (tars / "deep").mkdir()
    (tars / "deep" / "c.tar").write_bytes((tars / "a.tar").read_bytes())
    with pytest.raises(UserError, match=r"deep/c\.tar: a set is one folder: index .*deep on its own"):
        index_in_place(importer(tars, in_place=True), options())
    assert sorted(path.name for path in tars.iterdir()) == sorted([*before, "deep"])
