from __future__ import annotations

import gzip
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.cli.main import dispatch
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing import write_pool
from cxrdist.errors import UserError
from tests.helpers.inline_pool import InlinePool

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
ALL = "path,label,patient_id,view,sex,age,split"


def put_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path)
    return path


def table(root: Path, *lines: str, name: str = "labels.csv") -> CsvTable:
    put_image(root / "deep" / "a.png")
    (root / name).write_text("\n".join(lines) + "\n")
    return CsvTable(root=str(root), table=name)


def test_records_of_all_columns(tmp_path: Path) -> None:
    importer = table(
        tmp_path,
        f"{ALL},comment",
        "./deep//a.png,Pleural Effusion,17,PA,Female,058Y,train,unused",
        "b.jpg,Normal,,,,,,",
        'deep/c.png,"Mass, large",18,AP,x,414,VALID,',
    )
    first, second, third = importer.records()
    assert first == Record(
        source_id="deep/a.png",
        patient_id="17",
        label="Pleural Effusion",
        split="train",
        view="PA",
        sex="F",
        age=58,
        file="deep/a.png",
    )
    assert second == Record(source_id="b.jpg", label="Normal", file="b.jpg")
    assert (third.label, third.split, third.sex, third.age) == ("Mass, large", "val", None, None)
    np.testing.assert_array_equal(importer.pixels(first, 16, "pad"), GREY)
    with pytest.raises(UndecodableImage, match=r"b\.jpg: missing"):
        importer.pixels(second, 16, "pad")
    assert list(importer.records()) == [first, second, third]
    assert pickle.loads(pickle.dumps(importer)) == importer
    assert importer.source_options() == {"burned_in": "drop", "intensity": "percentiles"}


def test_two_columns_are_enough_in_any_order_and_anywhere(tmp_path: Path) -> None:
    importer = table(tmp_path, "\ufefflabel,path", "Normal,deep/a.png", name="mine.csv")
    expected = [Record(source_id="deep/a.png", label="Normal", file="deep/a.png")]
    assert list(importer.records()) == expected
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "mine.csv").read_bytes()))
    assert list(CsvTable(root=str(tmp_path), table=str(elsewhere / "t.csv")).records()) == expected


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"), ("Training", "train"), ("val", "val"), ("valid", "val"), ("validation", "val"),
        ("validate", "val"), ("dev", "val"), ("TEST", "test"), ("testing", "test"), ("", None),
    ],
)  # fmt: skip
def test_split_words(tmp_path: Path, word: str, split: str | None) -> None:
    (record,) = table(tmp_path, ALL, f"a.png,Normal,,,,,{word}").records()
    assert record.split == split


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,class", "a.png,x"], r"labels\.csv: lacks the columns label; its columns are: path, class"),
        (["path,label"], r"labels\.csv: has no rows"),
        (
            ["path,label", "a.png,x", "./a.png,y"],
            r"labels\.csv, line 3: a\.png is listed before \(line 2\), with another label; 1 image is",
        ),
        (["path,label", "a.png,"], r"line 2: no label; fill it in, or remove the line"),
        (["path,label", ",x"], r"line 2: no path"),
        (["path,label", "../a.png,x"], r"line 2: the path '\.\./a\.png' leads out of the folder"),
        (["path,label", "b/../../a.png,x"], r"line 2: the path .* leads out of the folder"),
        (
            ["path,label", "/etc/a.png,x"],
            r"line 2: the path '/etc/a\.png' is absolute; write paths relative to",
        ),
        (["path,label,split", "a.png,x,tset"], r"line 2: the split 'tset' is none of train, training, val, "),
        (["path,label, label", "a.png,x,y"], r"labels\.csv: has two columns label; rename or remove one"),
        (
            ["path,label", 'a.png,"x'] + ["b.png,x" * 1000] * 20,
            r"labels\.csv, line 2: a quotation mark that is not closed takes in all lines below; close or remove it",
        ),
        (["path,label", "a.png,Mass, large"], r"line 2: more cells than the 2 columns"),
    ],
)
def test_tables_that_are_not_right(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(table(tmp_path, *lines).records())


def test_places_that_are_not_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder; name the folder that holds labels\.csv"):
        list(CsvTable(root=str(tmp_path / "nowhere")).records())
    with pytest.raises(UserError, match=r"holds no mine\.csv"):
        list(CsvTable(root=str(tmp_path), table="mine.csv").records())


def test_nothing_is_read_through_a_link_that_leads_out(tmp_path: Path) -> None:
    secret = put_image(tmp_path / "outside" / "secret.png")
    root = tmp_path / "root"
    importer = table(root, "path,label", "out.png,x", "folder/secret.png,x", "again.png,x")
    (root / "out.png").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "again.png").symlink_to("deep/a.png")
    out, through_folder, again = importer.records()
    for record in (out, through_folder):
        with pytest.raises(UndecodableImage, match=f"{record.file}: a link that leads out of the folder"):
            importer.pixels(record, 16, "pad")
    np.testing.assert_array_equal(importer.pixels(again, 16, "pad"), GREY)


def write_many(root: Path) -> None:
    """Two classes, four images each: one a split, and one without."""
    lines = [ALL]
    for label in ("Normal", "Mass"):
        for i, split in enumerate(("train", "validation", "test", "")):
            put_image(root / f"{label}{i}.png")
            lines.append(f"{label}{i}.png,{label},p-{label}-{i},PA,M,50,{split}")
    table(root, *lines)


def test_the_split_column_is_taken_unless_another_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_pool, "_shared", None)
    monkeypatch.setattr(write_pool, "ProcessPoolExecutor", InlinePool)
    write_many(tmp_path / "root")
    words = ["import", "csv", "--root", str(tmp_path / "root"), "--size", "16", "--workers", "1"]
    dispatch([*words, "--out", str(tmp_path / "own")])
    told = capsys.readouterr().out
    assert "in none of the source's own splits         2" in told and "split official" in told
    whole = ShardSet(tmp_path / "own").manifest
    one_each = {"Normal": {"real": 1}, "Mass": {"real": 1}}
    assert whole.counts == {"train": one_each, "val": one_each, "test": one_each}
    assert whole.provenance.left_out == {"in none of the source's own splits": 2}
    assert not any(b"p-Normal" in file.read_bytes() for file in (tmp_path / "own").iterdir())

    dispatch([*words, "--out", str(tmp_path / "drawn"), "--split", "drawn"])
    drawn = ShardSet(tmp_path / "drawn").manifest
    assert Counter(entry.samples for entry in drawn.strata) == {1: 4, 2: 2}
    assert drawn.provenance.left_out == {}


def test_where_a_table_tells_only_test_apart_val_is_drawn_from_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_pool, "_shared", None)
    monkeypatch.setattr(write_pool, "ProcessPoolExecutor", InlinePool)
    root, lines = tmp_path / "root", [ALL]
    for label in ("Normal", "Mass"):
        for i in range(10):
            put_image(root / f"{label}{i}.png")
            lines.append(f"{label}{i}.png,{label},p-{label}-{i},PA,M,50,{'test' if i < 2 else 'train'}")
    # Not used, so its val draws nothing.
    lines.append("other.png,Other,p,PA,M,50,val")
    table(root, *lines)
    words = ["import", "csv", "--root", str(root), "--out", str(tmp_path / "set"), "--size", "16"]
    dispatch([*words, "--workers", "1", "--classes", "Normal,Mass", "--val", "0.25"])
    manifest = ShardSet(tmp_path / "set").manifest
    assert {
        split: {label: count["real"] for label, count in of_split.items()}
        for split, of_split in manifest.counts.items()
    } == {
        "train": {"Normal": 6, "Mass": 6},
        "val": {"Normal": 2, "Mass": 2},
        "test": {"Normal": 2, "Mass": 2},
    }
    assert manifest.provenance.options["split"] == "official"


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    (record,) = table(tmp_path, ",path,label,", "0,a.png,x,").records()
    assert (record.file, record.label) == ("a.png", "x")
