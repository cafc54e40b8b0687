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
from cxrdist.data.shards import schema as set_form
from cxrdist.data.shards import tar as shards
from cxrdist.data.shards.index import INDEX_DTYPE, index_array, write_table
from cxrdist.data.shards.manifest import Stratum, write_manifest
from cxrdist.data.shards.schema import check_meta
from cxrdist.data.shards.tar import Sample, write_shard
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder

IMAGE = encode(np.zeros((16, 16), np.uint8), "png")
STRATUM = Stratum("train", "Normal", "real")
REFUSED = ", which no reader of shard sets accepts; nothing of it was written: change it in the source or the options"
TAR = "train-normal-real-000000.tar"
ROW = {
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
    (row,) = index_array([(*ROW.values(),)], "a.tar").tolist()
    assert row == tuple(v.encode() if isinstance(v, str) else v for v in ROW.values())


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_what_does_not_fit_a_field_of_the_index_is_named(field: str, value: Any) -> None:
    row = {**ROW, field: value}
    with pytest.raises(UserError) as caught:
        index_array([(*ROW.values(),), (*row.values(),)], "set/a.tar")
    assert str(caught.value) == (f"set/a.tar: sample {row['key']!a}: its {field} is {value!a}{REFUSED}")


def test_the_reader_refuses_the_same_texts() -> None:
    """As far as they fit at all."""
    table_row = {"samples": 1, "bytes": 2**40}
    for field, value in WRONG:
        if field in ("key", "patient") and isinstance(value, str) and 0 < len(value.encode()) <= 24:
            if value.endswith("\0"):
                continue  # as which numpy pads
            row = {**ROW, "offset_bytes": 0, field: value.encode()}
            data = npy(np.array([(*row.values(),)], INDEX_DTYPE))
            with pytest.raises(UserError, match=f"what it says of its {field} can't be true"):
                index_of(data, table_row, "a.index.npy")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(folder: Path, *samples: Sample, stratum: Stratum = STRATUM, class_index: int = 0) -> dict[str, Any]:
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
        ("k", {"findings": ["Mass", "\ud800"]}, "findings", "['Mass', '\\ud800']"),
    ],
)
def test_a_sample_that_no_reader_accepts_is_not_written(
    key: str, meta: dict[str, Any], field: str, value: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        write(tmp_path, good(), Sample(key, IMAGE, meta))
    assert str(caught.value) == (f"{tmp_path}/{TAR}: sample {key!a}: its {field} is {value}{REFUSED}")
    assert [*tmp_path.iterdir()] == []
    if field != "key":
        with pytest.raises(UserError, match=f"what it says of its {field} can't be true"):
            check_meta(meta, "k.json")


@pytest.mark.parametrize(
    ("stratum", "class_index", "field"),
    [
        (Stratum("training", "Normal", "real"), 0, "split"),
        (Stratum("train", "Normal", "phantom-of-mine"), 0, "origin"),
        (STRATUM, 2**16 - 1, "class"),
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
    with pytest.raises(UserError, match=r"000\.tar: large\.json would have more than 100 bytes"):
        write(tmp_path / "text", good(), Sample("large", IMAGE, {"note": "x" * 100}))
    monkeypatch.setattr(set_form, "MAX_IMAGE_BYTES", len(IMAGE) - 1)
    with pytest.raises(UserError, match=rf"sample 'good': its length_bytes is {len(IMAGE)}, "):
        write(tmp_path / "image", good())
    assert not any((tmp_path / "text").iterdir()) and not any((tmp_path / "image").iterdir())


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("name", "a/b.tar", "its shards is "),
        ("name", ".hidden.tar", "its shards is "),
        ("samples", 0, "its shards is "),
        ("sha256", "f", "its shards is "),
    ],
)
def test_a_table_that_no_reader_accepts_is_not_written(
    part: str, value: Any, told: str, tmp_path: Path
) -> None:
    row = write(tmp_path, good())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"the table of train-normal-real: {told}"):
        write_table(LocalStore(tmp_path), STRATUM, [{**row, part: value}])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("classes", ["Normal", "Normal"]),
        ("classes", [f"c{i}" for i in range(2**16)]),
        ("classes", ["Nor\x1bmal"]),
        ("image_size", 0),
        ("encoding", "gif"),
        ("strata", []),
        ("provenance", {"importer": "a\x1bb"}),
        ("provenance", {"note": "a\nb"}),
        ("lineage", {}),
    ],
)
def test_a_manifest_that_no_reader_accepts_is_not_written(part: str, value: Any, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    entry = write_table(store, STRATUM, [write(tmp_path, good())])
    parts: dict[str, Any] = {
        "classes": ["Normal"],
        "image_size": 16,
        "encoding": "png",
        "strata": [entry],
        "provenance": {"importer": "test"},
        "lineage": {"kind": "real"},
    }
    if part == "strata":
        value = [entry, entry]
    with pytest.raises(UserError, match=rf"^{tmp_path}/manifest\.json: its \w+ is .*no reader of shard sets"):
        write_manifest(store, **{**parts, part: value})
    assert not (tmp_path / "manifest.json").exists()
    assert write_manifest(store, **parts)["classes"] == ["Normal"]


# ---- what a user can bring about


@pytest.mark.usefixtures("inline")
def test_an_option_with_a_control_character_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """It would stand in the manifest, which no reader would accept."""
    importer = tars(tmp_path / "tars", label_field="label\x1b")
    with pytest.raises(UserError, match=r"^import webdataset: its source_options is .*label\\x1b"):
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
        UserError, match=r"-a-real-000000\.tar: sample '\w{24}': its findings is \['Mass', 'a\\tb'\]"
    ):
        ingest(CsvTable(root=str(root)), options)
    assert not [*(tmp_path / "set").glob("*.tar")]
