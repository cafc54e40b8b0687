from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.deidentify import load_salt
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards import tar as tar_module
from cxrdist.data.shards.index import INDEX_DTYPE, IndexRow, ShardRow, index_bytes, index_name, write_table
from cxrdist.data.shards.manifest import Stratum, digest_of, read_manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import (
    Sample,
    TarFile,
    finished_shard,
    index_row,
    read_tar,
    samples_per_shard,
)
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes, sha256_file
from tests.helpers.shard_sets import tar_file, write_set, write_shard

STRATUM = Stratum("train", "Pleural Effusion", "real")
TAR = "train-pleural-effusion-real-000000.tar"


def finished(folder: Path, number: int = 0, class_index: int = 1) -> Any:
    tar = tar_file(LocalStore(folder), number, STRATUM, class_index, "png")
    return finished_shard(tar, lambda sample: sample.meta)


def index_path(tar: Path) -> Path:
    return tar.with_name(index_name(tar.name))


def index_rows(path: Path) -> list[IndexRow]:
    """The index of a tar of PNGs of class 1, read from the tar itself."""
    tar = TarFile(LocalStore(path.parent), path.name, STRATUM, 1, "png")
    with path.open("rb") as file:
        return [index_row(sample, tar, offset) for offset, sample in read_tar(file, tar)]


def samples(count: int, encoding: str = "png") -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(
            f"key{i:02d}",
            encode(rng.integers(0, 256, (16, 16), np.uint8), encoding),
            {"patient": f"patient{i}", "origin": "real"},
        )
        for i in range(count)
    ]


def one_shard_set(folder: Path, encoding: str = "png", count: int = 5) -> ShardSet:
    """A set of one stratum, class 1 of 2."""
    row = write_shard(LocalStore(folder), 0, STRATUM, 1, encoding, samples(count, encoding))
    return set_of_rows(folder, encoding, [row])


def set_of_rows(folder: Path, encoding: str, rows: Sequence[ShardRow]) -> ShardSet:
    store = LocalStore(folder)
    write_set(store, ["Normal", STRATUM.class_name], 16, encoding, [write_table(store, STRATUM, rows)])
    return ShardSet(folder)


def strata(shards: ShardSet) -> Iterator[tuple[str, str]]:
    for entry in shards.manifest.strata:
        yield entry.split, entry.class_name


def test_a_tar_per_stratum_and_no_other_files(tiny_set: Path) -> None:
    manifest = read_manifest(tiny_set)
    expected = {"manifest.json"}
    for split in ("train", "val", "test"):
        for name in ("normal", "pneumothorax", "pleural-effusion"):
            stem = f"{split}-{name}-real"
            expected |= {f"{stem}-000000.tar", f"{stem}-000000.index.npy"}
    expected |= {entry.table for entry in manifest.strata}
    assert {p.name for p in tiny_set.iterdir()} == expected
    assert len(expected) == 1 + 9 * 3
    assert all(f"-real.{e.table_sha256[:12]}.json" in e.table for e in manifest.strata)


def test_webdataset_tarfile_and_index_give_the_source_images(tiny_set: Path, images: Path) -> None:
    from webdataset import WebDataset

    salt = load_salt(None)
    source = {salt.key(p.relative_to(images).as_posix()): p for p in images.rglob("*.png")}
    shards = ShardSet(tiny_set)
    seen = []
    for split, name in strata(shards):
        reader = shards.stratum(split, name, "real")
        path = tiny_set / reader.shards[0].name
        with tarfile.open(path) as tar:
            members = {m.name: (m, tar.extractfile(m).read()) for m in tar}  # type: ignore[union-attr]
        suffixes = {member.partition(".")[2] for member in members}
        assert suffixes == {"png", "cls", "json"} and len(members) == 3 * reader.samples
        for number, sample in enumerate(WebDataset(str(path), shardshuffle=False)):
            key = sample["__key__"]
            seen.append(key)
            assert source[key].parent.name == name
            assert sample["cls"] == str(shards.classes.index(name)).encode()
            meta = json.loads(sample["json"])
            assert meta == {
                "patient": salt.patient(source[key].relative_to(images).as_posix()),
                "origin": "real",
                "class": name,
                "source": "folder",
                "phantom": False,
                "view": None,
                "sex": None,
                "age": None,
                "findings": [],
            }
            pixels = np.array(Image.open(source[key]))
            assert np.array_equal(np.array(Image.open(io.BytesIO(sample["png"]))), pixels)
            assert np.array_equal(reader.pixels(number), pixels)
            assert reader.key(number) == key.encode()
            member, data = members[f"{key}.png"]
            assert data == sample["png"] == reader.image_bytes(number)
            row = reader.index(0)[number]
            assert (row["offset_bytes"], row["length_bytes"]) == (member.offset_data, member.size)
            assert path.read_bytes()[member.offset_data :][: member.size] == data
            assert (row["split"], row["class"], row["origin"], row["patient"]) == (
                split.encode(),
                shards.classes.index(name),
                b"real",
                meta["patient"].encode(),
            )
    assert sorted(seen) == sorted(source)
    shards.close()


@pytest.mark.parametrize("encoding", ["png", "jpg", "npy"])
def test_each_encoding_is_plain_webdataset(tmp_path: Path, encoding: str) -> None:
    from webdataset import WebDataset

    reader = one_shard_set(tmp_path, encoding).stratum(*vars(STRATUM).values())
    read = list(WebDataset(str(tmp_path / TAR), shardshuffle=False))
    assert [s["__key__"] for s in read] == [f"key{i:02d}" for i in range(5)]
    for i, (sample, written) in enumerate(zip(read, samples(5, encoding))):
        assert sample[encoding] == written.image == reader.image_bytes(i)
        assert sample["cls"] == b"1" and json.loads(sample["json"]) == written.meta
        if encoding == "npy":
            array = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
            assert np.array_equal(array, reader.pixels(i))
    with pytest.raises(IndexError):
        reader.key(5)


def test_the_manifest_is_canonical_last_and_hashes_everything(tiny_set: Path) -> None:
    data = (tiny_set / "manifest.json").read_bytes()
    value = json.loads(data)
    manifest = read_manifest(tiny_set)
    assert data == canonical_json(value) == canonical_json(manifest.json_value())
    without = {k: v for k, v in value.items() if k != "digest"}
    assert manifest.digest == sha256_bytes(canonical_json(without)) == digest_of(value)
    written_ns = {p.name: p.stat().st_mtime_ns for p in tiny_set.iterdir()}
    assert max(written_ns.values()) == written_ns["manifest.json"]
    for entry in manifest.strata:
        table = tiny_set / entry.table
        assert sha256_file(table) == entry.table_sha256
        assert table.read_bytes() == canonical_json(json.loads(table.read_bytes()))
        rows = json.loads(table.read_bytes())["shards"]
        assert sum(r["samples"] for r in rows) == entry.samples
        for row in rows:
            tar = tiny_set / row["name"]
            assert row["sha256"] == sha256_file(tar) and row["bytes"] == tar.stat().st_size
            assert row["index_sha256"] == sha256_file(index_path(tar))
            index = np.load(index_path(tar), allow_pickle=False)
            assert index.dtype == INDEX_DTYPE and len(index) == row["samples"]
    assert manifest.counts["train"] == {
        "Normal": {"real": 8},
        "Pneumothorax": {"real": 4},
        "Pleural Effusion": {"real": 6},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"image_size": 64}, "its digest does not match"),
        (
            lambda m: m | {"format": "cxrdist-shards/9"},
            "format 'cxrdist-shards/9', but this version of cxrdist reads",
        ),
        (lambda m: [m], "format None"),
    ],
)
def test_another_manifest_is_refused(tiny_set: Path, tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    manifest = change(json.loads((tiny_set / "manifest.json").read_bytes()))
    (tmp_path / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": NaN}\n', b'{"a": -Infinity}', b"[" * 100_000])
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match=r"manifest\.json: not valid JSON .*; restore the set"):
        read_manifest(tmp_path)


def test_a_manifest_with_the_same_values_in_other_bytes_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    data = (tiny_set / "manifest.json").read_bytes()
    for other in (data + b" ", data.replace(b'"png"', b'"p\\u006eg"'), json.dumps(json.loads(data)).encode()):
        assert json.loads(other) == json.loads(data) and other != data
        (tmp_path / "manifest.json").write_bytes(other)
        with pytest.raises(UserError, match="changed since it was written"):
            read_manifest(tmp_path)


def test_no_set_and_an_unfinished_one_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such shard set; make one with `cxrdist import"):
        ShardSet(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match="or its import did not finish; in that case run the same command again"
    ):
        ShardSet(tmp_path)


def test_a_shard_is_a_function_of_its_samples(tmp_path: Path) -> None:
    rows = [write_shard(LocalStore(tmp_path / d), 3, STRATUM, 1, "png", samples(4)) for d in "ab"]
    assert rows[0] == rows[1] and rows[0].name == "train-pleural-effusion-real-000003.tar"
    assert finished(tmp_path / "a", 3) == (
        rows[0],
        {s.key: s.meta for s in samples(4)},
    )


def test_a_sample_costs_three_headers_and_no_more(tmp_path: Path) -> None:
    """Blocks of 512 bytes: a header, .cls; a header, .json; a header, the image."""
    write_shard(LocalStore(tmp_path), 0, STRATUM, 1, "png", samples(4))
    with tarfile.open(tmp_path / TAR) as tar:
        assert [m.offset for m in tar] == [512 * n for i in range(4) for n in (6 * i, 6 * i + 2, 6 * i + 4)]
        assert {(m.mtime, m.mode, m.uname, m.gname, m.uid, m.gid) for m in tar} == {
            (0, 0o444, "cxrdist", "cxrdist", 0, 0)
        }


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from samples(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError) as caught:
        write_shard(LocalStore(tmp_path), 0, STRATUM, 1, "png", failing())
    assert caught.value.filename == str(tmp_path / TAR)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_without_samples_is_not_written(tmp_path: Path) -> None:
    tar = tar_file(LocalStore(tmp_path), 0, STRATUM, 1, "png")
    assert tar_module.write_shard(tar, []) is None
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_is_not_whole_is_not_taken_over(tmp_path: Path) -> None:
    write_shard(LocalStore(tmp_path), 0, STRATUM, 1, "png", samples(4))
    tar, index = tmp_path / TAR, index_path(tmp_path / TAR)
    whole, whole_index = tar.read_bytes(), index.read_bytes()
    row = index_rows(tar)[2]
    flipped = bytearray(whole)
    flipped[row.offset_bytes] ^= 1
    other_rows = index_bytes(index_rows(tar)[:3], TAR)
    for tar_data, index_data in (
        (bytes(flipped), whole_index),
        (whole[:4096], whole_index),
        (b"", whole_index),
        (b"no tar", whole_index),
        (whole, whole_index[:-1]),
        (whole, other_rows),
    ):
        tar.write_bytes(tar_data)
        index.write_bytes(index_data)
        assert finished(tmp_path) is None
    tar.write_bytes(whole)
    index.write_bytes(whole_index)
    assert finished(tmp_path) is not None
    assert finished(tmp_path, number=1) is None
    assert finished(tmp_path, class_index=0) is None
    index.unlink()
    assert finished(tmp_path) is None


def tar_of(path: Path, *members: tuple[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("a.png")
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return path


A = (("a.cls", b"1"), ("a.json", b"{}"), ("a.png", b"x"))


@pytest.mark.parametrize(
    ("members", "link", "message"),
    [
        ((*A, *A), None, r"a\.cls occurs twice"),
        ((*A, ("b.pyd", b"x")), None, r"unexpected member 'b\.pyd'"),
        ((*A, ("readme", b"x")), None, "unexpected member 'readme'"),
        (A[:2], None, r"a lacks its \.png member"),
        (A[1:], None, r"unexpected member 'a\.json'"),
        (A[:2], "/etc/passwd", r"unexpected member 'a\.png'"),
        ((*A[:2], ("b.png", b"x")), None, r"unexpected member 'b\.png'"),
        ((("a.cls", b"2"), *A[1:]), None, "sample a has class 2, not 1"),
        ((A[0], ("a.json", b"[]"), A[2]), None, r"a\.json is not a mapping"),
    ],
)
def test_tars_that_are_not_right(
    tmp_path: Path, members: tuple[tuple[str, bytes], ...], link: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=rf"x\.tar: {message}"):
        index_rows(tar_of(tmp_path / "x.tar", *members, link=link))


def test_a_changed_image_names_shard_key_and_offset(tmp_path: Path) -> None:
    one_shard_set(tmp_path)
    row = index_rows(tmp_path / TAR)[3]
    data = bytearray((tmp_path / TAR).read_bytes())
    data[row.offset_bytes + row.length_bytes - 1] ^= 0x10
    (tmp_path / TAR).write_bytes(data)
    reader = ShardSet(tmp_path).stratum(*vars(STRATUM).values())
    assert [reader.pixels(i).shape for i in (0, 1, 2, 4)] == [(16, 16)] * 4
    with pytest.raises(UserError) as caught:
        reader.pixels(3)
    assert (
        f"{tmp_path / TAR}: sample key03 at byte {row.offset_bytes}: its bytes do not match their hash"
        in str(caught.value)
    )
    (tmp_path / TAR).write_bytes(data[: row.offset_bytes + 5])
    with pytest.raises(UserError, match=f"sample key03 at byte {row.offset_bytes}"):
        reader.pixels(3)


@pytest.mark.parametrize("suffix", [".tar", ".index.npy", ".json"])
def test_missing_files_are_named_by_the_reader(tmp_path: Path, suffix: str) -> None:
    one_shard_set(tmp_path)
    (file,) = (p for p in tmp_path.iterdir() if p.name.endswith(suffix) and p.name != "manifest.json")
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name}: missing"):
        ShardSet(tmp_path).stratum(*vars(STRATUM).values()).pixels(0)


@pytest.mark.parametrize("suffix", [".index.npy", ".json"])
def test_changed_files_are_named_by_the_reader(tmp_path: Path, suffix: str) -> None:
    one_shard_set(tmp_path)
    (file,) = (p for p in tmp_path.iterdir() if p.name.endswith(suffix) and p.name != "manifest.json")
    file.write_bytes(file.read_bytes()[:-2] + b"  ")
    with pytest.raises(UserError, match=f"{file.name}: changed since"):
        ShardSet(tmp_path).stratum(*vars(STRATUM).values()).pixels(0)


def test_an_image_of_another_size_is_an_error_of_its_sample(tmp_path: Path) -> None:
    wrong = [Sample("key", encode(np.zeros((8, 8), np.uint8), "png"), {})]
    row = write_shard(LocalStore(tmp_path), 0, STRATUM, 1, "png", wrong)
    shards = set_of_rows(tmp_path, "png", [row])
    with pytest.raises(UserError, match=r"000000\.tar: sample key at byte \d+: 8x8 L, not 16x16 8-bit grey"):
        shards.stratum(*vars(STRATUM).values()).pixels(0)


def test_samples_run_on_over_shards(tmp_path: Path) -> None:
    written = samples(7)
    rows = [
        write_shard(LocalStore(tmp_path), n, STRATUM, 1, "png", written[3 * n : 3 * n + 3]) for n in range(3)
    ]
    reader = set_of_rows(tmp_path, "png", rows).stratum(*vars(STRATUM).values())
    assert (reader.entry.samples, reader.entry.shards) == (7, 3)
    assert [reader.locate(i) for i in (0, 2, 3, 5, 6)] == [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0)]
    assert [reader.image_bytes(i) for i in range(7)] == [s.image for s in written]
    with pytest.raises(UserError, match="no synthetic images of Normal in its val split"):
        ShardSet(tmp_path).stratum("val", "Normal", "synthetic")


def test_shards_are_about_64_mib() -> None:
    assert samples_per_shard(256, "npy") == 2**26 // (2**16 + 3072)
    assert samples_per_shard(64, "png") > samples_per_shard(64, "npy")
    assert samples_per_shard(100_000, "npy") == 1


def test_a_set_can_be_moved_and_named_with_a_slash(tiny_set: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_set, tmp_path / "else where")
    moved = ShardSet(f"{tmp_path}/else where/")
    assert moved.digest == ShardSet(tiny_set).digest
    assert moved.images("val", "Normal", "real", 99).shape == (3, 32, 32)


def test_class_names_that_give_the_same_files_are_refused(tmp_path: Path) -> None:
    for pair in (("肺炎", "正常"), ("A b", "a-B")):
        root = tmp_path / pair[0]
        for name in pair:
            (root / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((16, 16), i, np.uint8)).save(root / name / f"{i}.png")
        with pytest.raises(UserError, match="would have the same file names; rename one"):
            ingest(Folder(root=str(root)), IngestOptions(out=str(tmp_path / "set")))
    assert not (tmp_path / "set").exists()


def test_a_class_name_that_commands_a_terminal_is_refused(tmp_path: Path) -> None:
    for name in ("Normal", "\x1b[2J"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((16, 16), i, np.uint8)).save(tmp_path / "root" / name / f"{i}.png")
    with pytest.raises(UserError, match="a class needs a name without control characters; rename it"):
        ingest(Folder(root=str(tmp_path / "root")), IngestOptions(out=str(tmp_path / "set")))
    assert not (tmp_path / "set").exists()
