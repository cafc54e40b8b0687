"""Foreign tars indexed where they lie: one index a tar, several strata in it, nothing moved."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from cxrdist.cli.shards import index as index_command
from cxrdist.console import Progress
from cxrdist.data.deidentify import load_salt
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.ingest.ingest import ingest
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix.rules import TargetRule, quotas
from cxrdist.data.shards.index import parse_table
from cxrdist.data.shards.schema import Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.verify import remedy, verify
from cxrdist.errors import UserError
from tests.helpers.in_place import importer, options

pytestmark = pytest.mark.usefixtures("inline")


def metas(reader: StratumReader) -> dict[str, dict[str, Any]]:
    return {sample.key: sample.meta for shard in range(len(reader.shards)) for sample in reader.whole(shard)}


def test_the_set_reads_as_one_that_was_written_anew(tars: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    ingest(importer(tars, in_place=False), options(str(tmp_path / "anew")))
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert {name: (tars / name).read_bytes() for name in before} == before
    with pytest.raises(UserError, match="a set that cxrdist wrote; convert it with `cxrdist shards conv"):
        list(importer(tars, in_place=False).records())
    placed, anew = ShardSet(tars), ShardSet(tmp_path / "anew")
    assert placed.manifest.counts == anew.manifest.counts and manifest == placed.manifest
    assert len(placed.strata) == 6
    for stratum in placed.strata:
        here, there = placed.stratum(*vars(stratum).values()), anew.stratum(*vars(stratum).values())
        by_key = {there.key(i): there.pixels(i) for i in range(there.samples)}
        assert sorted(here.key(i) for i in range(here.samples)) == sorted(by_key)
        for i in range(here.samples):
            np.testing.assert_array_equal(here.pixels(i), by_key[here.key(i)])
        assert metas(here) == metas(there)
    views = Counter(
        meta["view"]
        for stratum in placed.strata
        for meta in metas(placed.stratum(*vars(stratum).values())).values()
    )
    assert views == {"AP": 6, "PA": 6, None: 12}
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
    rule = TargetRule(name="DS1", images_per_class="own")
    stream = Stream(shards, None, quotas(rule, counts), StreamOptions(batch=2, seed=0))
    keys = {bytes(k) for step in range(stream.epoch_images // 2) for k in stream.read(step).keys}
    assert len(keys) == sum(n["real"] for n in counts.values()) == stream.epoch_images


def test_convert_makes_a_set_of_our_own_of_it(tars: Path, tmp_path: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    convert(ConvertOptions(set=str(tars), out=str(tmp_path / "own"), workers=1))
    own, placed = ShardSet(tmp_path / "own"), ShardSet(tars)
    assert own.manifest.encoding == "npy" and verify(str(tmp_path / "own")) == []
    for stratum in placed.strata:
        here, there = own.stratum(*vars(stratum).values()), placed.stratum(*vars(stratum).values())
        np.testing.assert_array_equal(
            [here.pixels(i) for i in range(here.samples)], [there.pixels(i) for i in range(there.samples)]
        )
        assert metas(here) == metas(there)
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
        Problem("changed", f"{tar}.tar", "changed since it was written"),
        Problem(
            "image",
            f"{tar}.tar",
            f"sample {key} at byte {row['offset_bytes']}: its image does not match its hash",
        ),
    ]
    shards = ShardSet(tars)
    reader = shards.stratum(row["split"].decode(), shards.classes[row["class"]], "real")
    with pytest.raises(UserError, match=f"{tar}.tar: sample {key} at byte {row['offset_bytes']}: its bytes"):
        [reader.pixels(i) for i in range(reader.samples)]


def test_other_files_of_an_external_folder_are_not_listed(tars: Path) -> None:
    (tars / "README.md").write_text("mine")
    index_in_place(importer(tars, in_place=True), options())
    assert verify(str(tars)) == []
    (tars / "c.tar").write_bytes((tars / "a.tar").read_bytes())
    assert verify(str(tars)) == [Problem("unlisted", "c.tar", "not part of the set")]


def test_a_lost_index_needs_the_import_again(tars: Path) -> None:
    manifest = index_in_place(importer(tars, in_place=True), options())
    (tars / "b.index.npy").unlink()
    assert Problem("missing", "b.index.npy", "missing") in verify(str(tars))
    (problem,) = reindex(str(tars)).problems
    assert (problem.kind, problem.file) == ("missing", "b.index.npy")
    assert problem.detail.endswith("only an import knows splits and patients")
    assert remedy(str(tars), [problem]).endswith(
        "run `cxrdist import webdataset --in-place` again; keep the tars"
    )
    (tars / "manifest.json").unlink()
    assert index_in_place(importer(tars, in_place=True), options()) == manifest


def test_again_there_is_nothing_to_do_and_another_job_is_refused(
    tars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert index_in_place(importer(tars, in_place=True), options()) == manifest
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="size 24, now 32"):
        index_in_place(importer(tars, in_place=True), options(size=32))


def test_what_cannot_be_indexed_leaves_the_tars_alone(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^out: --in-place makes a set of .* itself; remove this option"):
        index_in_place(importer(tars, in_place=True), options(out=str(tmp_path / "elsewhere")))
    before = sorted(path.name for path in tars.iterdir())
    (tars / "deep").mkdir()
    (tars / "deep" / "c.tar").write_bytes((tars / "a.tar").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(WebDataset, "image_bytes", lambda *_: pytest.fail("an image was read before"))
        with pytest.raises(UserError, match=r"deep/c\.tar: a set is one folder: index .*deep on its own"):
            index_in_place(importer(tars, in_place=True), options(dedup=True))
    assert sorted(path.name for path in tars.iterdir()) == sorted([*before, "deep"])


def test_another_set_can_be_made_once_the_manifest_is_gone(tars: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    before = {path.name for path in tars.iterdir()}
    with pytest.raises(
        UserError, match=r"seed 0, now 1\): to index its tars again remove only .*/manifest\.json"
    ):
        index_in_place(importer(tars, in_place=True), options(seed=1))
    (tars / "manifest.json").unlink()
    (tars / "b.tar").rename(tars.parent / "b.tar")
    manifest = index_in_place(importer(tars, in_place=True), options(seed=1))
    # Nothing of the first set is left, the tar that is gone from the folder included.
    tables = {entry.table for entry in manifest.strata}
    assert {path.name for path in tars.iterdir()} == {"a.tar", "a.index.npy", "manifest.json", *tables}
    assert "b.index.npy" in before and verify(str(tars)) == []


def test_no_word_that_would_delete_the_tars(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index_in_place(importer(tars, in_place=True), options())
    with pytest.raises(UserError, match=r"^out: .* lies in .*, all of which is imported"):
        ingest(importer(tars, in_place=False), options(str(tars)))
    (tars / "a.index.npy").unlink()
    told = (
        "restore the files from a copy; or, to index the tars as they are now, remove manifest.json alone and run "
        "`cxrdist import webdataset --in-place` again; keep the tars"
    )
    assert remedy(str(tars), verify(str(tars))) == f"what to do: {told}"
    assert index_command([str(tars)]) == 1
    assert capsys.readouterr().out.endswith(f"what to do: {told}\n")
    whole = (tars / "b.tar").read_bytes()
    (tars / "b.tar").write_bytes(b"other")
    shards = ShardSet(tars)
    reader = shards.stratum(*vars(shards.strata[0]).values())
    shard = reader.shards.names.index("b.tar")
    with pytest.raises(UserError) as caught:
        list(reader.whole(shard))
    assert str(caught.value) == f"{tars}/b.tar: changed since it was written; {told}"
    (tars / "b.tar").write_bytes(whole)
    (tars / "manifest.json").unlink()
    (tars / ".job.json").write_text('{"source_options": {"in_place": true}}')
    with pytest.raises(UserError, match=r"remove only .*/\.job\.json, and keep the tars"):
        index_in_place(importer(tars, in_place=True), options())
    (tars / ".job.json").write_text("{")
    with pytest.raises(
        UserError, match=r"\.job\.json: not JSON .*: remove only this file if tars are indexed in place"
    ):
        index_in_place(importer(tars, in_place=True), options())


@pytest.mark.parametrize(
    ("name", "data"),
    [("manifest.json", b'{"mine": 1}'), ("manifest.json", b"["), ("a.index.npy", b"mine")],
)
def test_files_of_the_owner_are_never_overwritten(tars: Path, name: str, data: bytes) -> None:
    (tars / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: no import wrote this file, and the set needs its name"):
        index_in_place(importer(tars, in_place=True), options())
    assert {path.name for path in tars.iterdir()} == {"a.tar", "b.tar", name}
    assert (tars / name).read_bytes() == data


def test_a_file_called_like_a_table_is_the_owner_s(tars: Path) -> None:
    (tars / "train-mine-real.0123456789ab.json").write_text("mine")
    index_in_place(importer(tars, in_place=True), options())
    assert (tars / "train-mine-real.0123456789ab.json").read_text() == "mine"


def test_temporaries_of_the_owner_stay(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {".x.123.tmp", ".notes.tar.7.tmp", ".c.index.npy.4.tmp"}
    ours = {
        ".a.index.npy.9.tmp",
        ".manifest.json.9.tmp",
        "..job.json.9.tmp",
        ".train-mass-real.0123456789ab.json.9.tmp",
    }
    for name in theirs | ours:
        (tars / name).write_bytes(b"half")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cxrdist.data.ingest.in_place.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            index_in_place(importer(tars, in_place=True), options())
    # Whose they are shows only where this job was killed before.
    assert theirs | ours | {".job.json"} <= {path.name for path in tars.iterdir()}
    index_in_place(importer(tars, in_place=True), options())
    assert {path.name for path in tars.iterdir() if path.name.startswith(".")} == theirs


@pytest.mark.parametrize("changes", [{"encoding": "npy"}, {"min_shards": 2}])
def test_options_for_tars_that_are_written_are_refused(tars: Path, changes: dict[str, Any]) -> None:
    option = next(iter(changes))
    with pytest.raises(UserError, match=f"^{option}: --in-place writes no tars"):
        index_in_place(importer(tars, in_place=True), options(**changes))
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert not {"encoding", "min_shards"} & set(manifest.provenance.options or {})


def test_a_tar_that_no_table_could_name_is_refused(tars: Path) -> None:
    (tars / "b.tar").rename(tars / "B.TAR")
    with pytest.raises(UserError, match=r"B\.TAR: rename it to plain text that ends in \.tar"):
        index_in_place(importer(tars, in_place=True), options())


def test_tars_that_hold_nothing_used_are_known(tars: Path, tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("L", (20, 20)).save(png, "PNG")
    with TarWriter(str(tars / "synthetic.tar"), encoder=False) as writer:
        told = {"patient_id": "MRN90", "origin": "synthetic"}
        writer.write({"__key__": "x", "png": png.getvalue(), "cls": b"0", "json": json.dumps(told).encode()})
    with TarWriter(str(tars / "other.tar"), encoder=False) as writer:
        writer.write({"__key__": "x", "png": png.getvalue(), "cls": b"9", "json": b'{"patient_id": "MRN91"}'})
    (tars / "._a.tar").write_bytes(b"of a file manager")
    names = ("Normal", "Mass", *(f"c{n}" for n in range(2, 9)), "Other")
    source = WebDataset(root=str(tars), class_names=names, in_place=True)
    manifest = index_in_place(source, options(classes=("Normal", "Mass")))
    assert manifest.provenance.unused_tars == ["other.tar", "synthetic.tar"]
    assert verify(str(tars)) == [] == verify(str(tars), quick=True)
    assert index_in_place(source, options(classes=("Normal", "Mass"))) == manifest
    (tars / "c.tar").write_bytes((tars / "a.tar").read_bytes())
    assert verify(str(tars)) == [Problem("unlisted", "c.tar", "not part of the set")]
    convert(ConvertOptions(set=str(tars), out=str(tmp_path / "own"), workers=1))
    assert b"other.tar" not in (tmp_path / "own" / "manifest.json").read_bytes()


def test_a_tar_whose_images_all_do_not_decode_is_known(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TarWriter(str(tars / "c.tar"), encoder=False) as writer:
        writer.write({"__key__": "x", "png": b"junk", "cls": b"0", "json": b'{"patient_id": "MRN91"}'})
    monkeypatch.setattr("cxrdist.data.imaging.faults.MAX_UNDECODABLE_SHARE", 0.1)
    manifest = index_in_place(importer(tars, in_place=True), options())
    assert manifest.provenance.undecodable == 1
    assert manifest.provenance.unused_tars == ["c.tar"] and verify(str(tars)) == []


def test_a_tar_counts_once_whatever_it_holds(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_in_place(importer(tars, in_place=True), options())
    result = reindex(str(tars))
    assert (result.intact, result.rebuilt, result.problems) == (2, [], [])
    counted: list[int] = []
    monkeypatch.setattr(Progress, "advance", lambda _, count: counted.append(count))
    for quick in (True, False):
        assert verify(str(tars), quick=quick) == []
        assert counted == [12, 12]
        counted.clear()


NO_LIST = "shards[0].told is not a list of its 4 samples"


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({}, NO_LIST),
        ([], NO_LIST),
        ([{}] * 5, NO_LIST),
        (
            [{}, {"view": "\x1b[2J"}, {}, {}],
            r"shards[0].told[1].view is '\x1b[2J': expected text without control characters",
        ),
        ([{"age": -1}] * 4, "shards[0].told[0].age is -1"),
        ([{"age": "old"}] * 4, "shards[0].told[0].age is 'old'"),
        ([5] * 4, "shards[0].told[0] is 5: expected a mapping"),
        (None, NO_LIST),
    ],
)
def test_a_table_with_metadata_that_no_import_writes(told: object, wrong: str) -> None:
    row = {"name": "a.tar", "bytes": 99999, "sha256": "0" * 64, "index_sha256": "0" * 64, "samples": 4}
    right = [{"age": 90, "view": "PA"}, {}, {}, {}]
    assert parse_table({"shards": [row | {"told": right}]}).metadata == [right]
    with pytest.raises(ValueError) as caught:
        parse_table({"shards": [row | {"told": told}]})
    assert str(caught.value) == wrong
