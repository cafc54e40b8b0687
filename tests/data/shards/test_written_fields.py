"""A writer refuses what a reader would refuse, before anything of it is written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards import tar as shards
from cxrdist.data.shards.index import INDEX_DTYPE, IndexRow, ShardRow, index_array, parse_index, write_table
from cxrdist.data.shards.manifest import Stratum, checked_provenance
from cxrdist.data.shards.schema import ShardSetError, wrong_in_metadata
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder
from tests.helpers.shard_sets import write_set, write_shard

IMAGE = encode(np.zeros((16, 16), np.uint8), "png")
STRATUM = Stratum("train", "Normal", "real")
REFUSED = (
    ", which readers of shard sets refuse; nothing of it was written: change it in the source or the options"
)
TAR = "train-normal-real-000000.tar"
ROW: dict[str, Any] = {
    "key": "k" * 40,
    "split": "train",
    "class": 2**16 - 2,
    "origin": "synthetic",
    "offset_bytes": 2**64 - 1,
    "length_bytes": 2**30,
    "xxh3_64": 2**64 - 1,
    "patient": "p" * 24,
}
WRONG = [
    ("key", "k" * 41),
    ("key", ""),
    ("key", "a b"),
    ("key", "é"),
    ("key", "k\n"),
    ("key", b"k"),
    ("split", "train-val"),
    ("split", ""),
    ("class", -1),
    ("class", 2**16 - 1),
    ("class", 1.0),
    ("origin", "synthetical"),
    ("offset_bytes", -1),
    ("offset_bytes", 2**64),
    ("length_bytes", 2**30 + 1),
    ("xxh3_64", 2**64),
    ("patient", "p" * 25),
    ("patient", "p\0"),
    ("patient", None),
    ("patient", 17),
]


def test_the_largest_values_come_back_as_they_were() -> None:
    assert [*ROW] == [*INDEX_DTYPE.fields]  # type: ignore[misc]
    (row,) = index_array([IndexRow(*ROW.values())], "a.tar").tolist()
    assert row == tuple(v.encode() if isinstance(v, str) else v for v in ROW.values())


@pytest.mark.parametrize(("split", "origin"), [("train", "synthetic"), ("val", "real"), ("test", "real")])
def test_only_real_images_of_the_train_split_may_be_unlabelled(split: str, origin: str) -> None:
    unlabelled = {**ROW, "class": 2**16 - 1, "split": "train", "origin": "real"}
    assert index_array([IndexRow(*unlabelled.values())], "a.tar")["class"].tolist() == [2**16 - 1]
    row = {**unlabelled, "split": split, "origin": origin}
    with pytest.raises(UserError, match="its class is 65535, which readers of shard sets refuse"):
        index_array([IndexRow(*row.values())], "a.tar")


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_what_does_not_fit_a_field_of_the_index_is_named(field: str, value: Any) -> None:
    row = {**ROW, field: value}
    with pytest.raises(UserError) as caught:
        index_array([IndexRow(*ROW.values()), IndexRow(*row.values())], "set/a.tar")
    assert str(caught.value) == (f"set/a.tar: sample {row['key']!a}: its {field} is {value!a}{REFUSED}")


def test_the_reader_refuses_the_same_texts() -> None:
    """As far as they fit at all."""
    table_row = ShardRow("a.tar", 2**40, "0" * 64, "0" * 64, 1)
    for field, value in WRONG:
        if field in ("key", "patient") and isinstance(value, str) and 0 < len(value.encode()) <= 24:
            if value.endswith("\0"):
                continue  # as which numpy pads
            row = {**ROW, "offset_bytes": 0, field: value.encode()}
            data = npy(np.array([(*row.values(),)], INDEX_DTYPE))
            with pytest.raises(ShardSetError, match=rf"set/a\.index\.npy: {field} holds other characters"):
                parse_index(data, table_row, "set")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(folder: Path, *samples: Sample, stratum: Stratum = STRATUM, class_index: int = 0) -> ShardRow:
    return write_shard(LocalStore(folder), 0, stratum, class_index, "png", samples)


def good() -> Sample:
    return Sample("good", IMAGE, {"patient": "p", "findings": ["Mass"]})


@pytest.mark.parametrize(
    ("key", "meta", "field", "value"),
    [
        ("k" * 41, {}, "key", repr("k" * 41)),
        ("k" * 101, {}, "key", repr("k" * 101)[:100]),
        ("a.b", {}, "key", "'a.b'"),
        ("a/b", {}, "key", "'a/b'"),
        ("肺", {}, "key", "'\\u80ba'"),
        ("k", {"patient": "p" * 25}, "patient", repr("p" * 25)),
        ("k", {"patient": 17}, "patient", "17"),
        ("k", {"view": "P\x1bA"}, "view", "'P\\x1bA'"),
        ("k", {"sex": ["F"]}, "sex", "['F']"),
        ("k", {"age": float("nan")}, "age", "nan"),
        ("k", {"findings": "Mass"}, "findings", "'Mass'"),
        ("k", {"findings": ["Mass", "\ud800"]}, "findings[1]", "'\\ud800'"),
    ],
)
def test_a_sample_that_no_reader_accepts_is_not_written(
    key: str, meta: dict[str, Any], field: str, value: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        write(tmp_path, good(), Sample(key, IMAGE, meta))
    where = f"{tmp_path}/{TAR}: sample {key!a}"
    if field == "key":
        assert str(caught.value) == f"{where}: its {field} is {value}{REFUSED}"
    else:
        assert str(caught.value) == f"{where}: not written, since in its metadata {wrong_in_metadata(meta)}"
    assert [*tmp_path.iterdir()] == []
    if field != "key":
        wrong = wrong_in_metadata(meta)
        assert wrong is not None and wrong.startswith(f"{field} is {value}: ")


@pytest.mark.parametrize(
    ("stratum", "class_index", "field"),
    [
        (Stratum("training", "Normal", "real"), 0, "split"),
        (Stratum("train", "Normal", "phantom-of-mine"), 0, "origin"),
        (STRATUM, 2**16 - 1, "class"),
        (Stratum("train", "unlabelled", "real"), 0, "class"),
    ],
)
def test_a_shard_whose_index_would_not_fit_is_not_written(
    stratum: Stratum, class_index: int, field: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"sample 'good': its {field} is "):
        write(tmp_path, good(), stratum=stratum, class_index=class_index)
    assert [*tmp_path.iterdir()] == []


def test_members_that_a_reader_takes_for_too_large_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_TEXT_BYTES", 100)
    write(tmp_path / "small", good())
    with pytest.raises(UserError, match=r"sample 'large': its size of its metadata in bytes is 112, "):
        write(tmp_path / "text", good(), Sample("large", IMAGE, {"note": "x" * 100}))
    monkeypatch.setattr(shards, "MAX_IMAGE_BYTES", len(IMAGE) - 1)
    with pytest.raises(UserError, match=rf"sample 'good': its length_bytes is {len(IMAGE)}, "):
        write(tmp_path / "image", good())
    assert not any((tmp_path / "text").iterdir()) and not any((tmp_path / "image").iterdir())


@pytest.mark.parametrize(
    ("part", "value", "wrong"),
    [
        ("name", "a/b.tar", r"shards\[0\]\.name is 'a/b\.tar'"),
        ("name", ".hidden.tar", r"shards\[0\]\.name is '\.hidden\.tar'"),
        ("samples", 0, r"shards\[0\]\.samples is 0"),
        ("samples", 10**6, r"shards\[0\]: 1000000 samples do not fit into 10240 bytes"),
        ("sha256", "f", r"shards\[0\]\.sha256 is 'f'"),
    ],
)
def test_a_table_that_no_reader_accepts_is_not_written(
    part: str, value: Any, wrong: str, tmp_path: Path
) -> None:
    row = write(tmp_path, good())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"the table of train-normal-real is not written, since {wrong}"):
        write_table(LocalStore(tmp_path), STRATUM, [row._replace(**{part: value})])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("part", "value", "wrong"),
    [
        ("classes", ["Normal", "Normal"], "classes: a class occurs twice"),
        ("classes", [f"c{i}" for i in range(2**16)], "classes is .* at most 65535 items"),
        (
            "classes",
            ["Nor\x1bmal"],
            r"classes\[0\] is 'Nor\\x1bmal': expected text without control characters",
        ),
        ("classes", ["Other"], "strata: 'Normal' is no class of the set"),
        ("image_size", 0, "image_size is 0: "),
        ("encoding", "gif", "encoding is 'gif': "),
        ("strata", "twice", "strata: a stratum occurs twice"),
    ],
)
def test_a_manifest_that_no_reader_accepts_is_not_written(
    part: str, value: Any, wrong: str, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    entry = write_table(store, STRATUM, [write(tmp_path, good())])
    parts: dict[str, Any] = {"classes": ["Normal"], "image_size": 16, "encoding": "png", "strata": [entry]}
    with pytest.raises(UserError, match=rf"^{tmp_path}/manifest\.json: not written, since {wrong}"):
        write_set(store, **{**parts, part: [entry, entry] if part == "strata" else value})
    assert not (tmp_path / "manifest.json").exists()
    assert write_set(store, **parts).classes == ["Normal"]


@pytest.mark.parametrize(
    ("provenance", "wrong"),
    [
        ({"importer": "a\x1bb"}, r"importer is 'a\\x1bb': expected text without control characters"),
        ({"note": "ab"}, "note: unknown field"),
        (
            {"gates": {"name": "none", "classes": {"Normal": {"admitted": 1, "tried": -1}}}},
            r"gates\.classes\.Normal\.tried is -1: ",
        ),
        ({"options": {"a": "b\nc"}}, "options is .*, which holds control characters"),
    ],
)
def test_provenance_that_no_reader_accepts_is_refused(provenance: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=f"^import x: {wrong}"):
        checked_provenance(provenance, "import x")


# ---- what a user can bring about


@pytest.mark.usefixtures("inline")
def test_an_option_with_a_control_character_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """It would stand in the manifest, which no reader would accept."""
    importer = tars(tmp_path / "tars", label_field="label\x1b")
    with pytest.raises(UserError, match=r"^import webdataset: source_options is .*label\\x1b"):
        ingest(importer, IngestOptions(out=str(tmp_path / "set"), size=16, val=1, test=1))
    assert not (tmp_path / "set").exists()


def tars(root: Path, label_field: str) -> WebDataset:
    from webdataset import TarWriter

    root.mkdir()
    with TarWriter(str(root / "a.tar"), encoder=False) as tar:
        for i in range(6):
            told = {label_field: "Mass", "patient": str(i)}
            tar.write({"__key__": f"k{i}", "png": IMAGE, "json": json.dumps(told).encode()})
    return WebDataset(root=str(root), label_field=label_field)


@pytest.mark.usefixtures("inline")
def test_too_many_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrdist.data.shards.manifest.MAX_CLASSES", 2)
    root = draw_folder(tmp_path / "root", {"A": 3, "B": 3, "C": 3})
    options = IngestOptions(out=str(tmp_path / "set"), size=16, val=1, test=1)
    with pytest.raises(UserError, match=r"^3 classes: a set holds at most 2; choose with --classes$"):
        ingest(Folder(root=str(root)), options)
    assert not (tmp_path / "set").exists()


@pytest.mark.usefixtures("inline")
def test_a_finding_that_no_reader_accepts_stops_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No importer lets one through; a new one might."""
    root = draw_folder(tmp_path / "root", {"A": 4})
    (root / "labels.csv").write_text("path,label\n" + "".join(f"A/{i:03d}.png,A\n" for i in range(4)))

    def records(self: CsvTable) -> Iterator[Record]:
        for i in range(4):
            file = f"A/{i:03d}.png"
            yield Record(source_id=file, label="A", file=file, findings=("Mass", "a\tb"))

    monkeypatch.setattr(CsvTable, "records", records)
    options = IngestOptions(out=str(tmp_path / "set"), size=16, val=1, test=1)
    with pytest.raises(
        UserError,
        match=r"-real-000000\.tar: sample '\w{24}': not written, since in its metadata findings\[1\] is 'a\\tb': ",
    ):
        ingest(CsvTable(root=str(root)), options)
    assert not [*(tmp_path / "set").glob("*.tar")]
