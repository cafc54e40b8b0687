"""Folders and tars as file managers, network drives, browsers and other writers of WebDataset leave them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.importers.common.external_tar import SHARED_KEY, UNREAD
from cxrdist.data.importers.common.sample_fields import label_of
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.errors import UserError
from tests.helpers.dicom_files import dicom_file
from tests.helpers.images import draw_folder
from tests.helpers.tars import write_tar

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
PNG, JPEG = encode(GREY, "png"), encode(GREY, "jpg")


def put(root: Path, *names: str, data: bytes = PNG) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


# Folders.


def test_what_file_managers_and_drives_leave_behind_is_no_film(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"A": 3, "B": 2}, size=16)
    put(
        root,
        "@eaDir/A/000.png/SYNOPHOTO_THUMB_XL.jpg",
        "A/@eaDir/000.png/SYNOPHOTO_THUMB_XL.jpg",
        "A/__MACOSX/000.png",
        "A/Thumbs.db",
        "B/desktop.ini",
        "#recycle/old.png",
        "$RECYCLE.BIN/old.png",
        "System Volume Information/x",
        "lost+found/x.png",
        "A/.ipynb_checkpoints/000-checkpoint.png",
    )
    records = list(Folder(root=str(root)).records())
    assert Counter((r.label, r.left_out) for r in records) == {("A", None): 3, ("B", None): 2}


def test_images_under_other_endings_or_none_are_read(tmp_path: Path) -> None:
    put(tmp_path, "A/1.jfif", "A/2.jpe", "A/3", data=JPEG)
    put(tmp_path, "A/4.PNG", "A/1.2.840.5")
    put(tmp_path, "B/1", "B/1.2.840.6", data=dicom_file(GREY))
    put(tmp_path, "B/notes", data=b"text")
    importer = Folder(root=str(tmp_path), burned_in="keep")
    records = list(importer.records())
    assert Counter((r.label, r.left_out) for r in records) == {
        ("A", None): 5,
        ("B", None): 2,
        (None, "not a PNG, JPEG or DICOM file"): 1,
    }
    for record in records:
        if record.left_out is None:
            assert importer.pixels(record, 16, "pad").shape == (16, 16)


def test_folders_in_two_forms_of_unicode_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Épanchement") for form in ("NFC", "NFD"))
    put(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "Normal/3.png")
    assert Counter(r.label for r in Folder(root=str(tmp_path)).records()) == {composed: 2, "Normal": 1}


# Tars.


def tar(root: Path, *members: tuple[str, bytes]) -> WebDataset:
    write_tar(root / "a.tar", *members)
    return WebDataset(root=str(root))


def told(importer: WebDataset) -> list[tuple[str | None, str | None]]:
    return [(r.label, r.left_out) for r in importer.records()]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *[
            (0, "0"),
            ("1", "1"),
            ("1.0", "1"),
            (1.0, "1"),
            (" Mass\n", "Mass"),
            ('"Mass"', "Mass"),
            ("nan", ""),
        ],
        *[([2], "2"), (["Mass"], "Mass"), ("[0, 0, 1]", "2"), ([1.0, 0.0], "0"), ([True, False], "0")],
        *[(["Mass", "Nodule"], None), ([0, 0], None), ([1, 1], None), ([0.5, 0.5], None), ({"a": 1}, None)],
        *[(True, None), (None, ""), ("[unsure]", "[unsure]"), ("[" * 10_000, "[" * 10_000)],
    ],
)
def test_labels(value: Any, label: str | None) -> None:
    assert label_of(value) == label


@pytest.mark.parametrize("data", [b"1", b"1\n", b"1.0", b"\xef\xbb\xbf1", b"[0, 1]", b"[1]", b'"1"'])
@pytest.mark.parametrize("ending", ["cls", "json"])
def test_a_class_in_many_ways(tmp_path: Path, data: bytes, ending: str) -> None:
    if ending == "json":
        data = b'{"label": ' + data.removeprefix(b"\xef\xbb\xbf") + b"}"
    assert told(tar(tmp_path, ("s.png", PNG), (f"s.{ending}", data))) == [("class-1", None)]


@pytest.mark.parametrize(
    ("data", "label"),
    [
        *[
            (b"1", "class-1"),
            (b'"Mass"', "Mass"),
            (b"1.0", "class-1"),
            (b"[0, 1]", "class-1"),
            (b"[1.0]", "class-1"),
        ],
        (b'["Mass"]', "Mass"),
    ],
)
def test_a_json_of_a_label_alone(tmp_path: Path, data: bytes, label: str) -> None:
    assert told(tar(tmp_path, ("s.png", PNG), ("s.json", data))) == [(label, None)]


@pytest.mark.parametrize(
    "name", ["patient_id", "patient", "PatientID", "Patient ID", "patientId", "Patient_Id"]
)
def test_a_patient_under_nearly_its_name(tmp_path: Path, name: str) -> None:
    fields = json.dumps({"label": 1, name: 17, "patience": 3}).encode()
    (record,) = tar(tmp_path, ("s.png", PNG), ("s.json", fields)).records()
    assert record.patient_id == "17"


def test_images_that_share_a_key_are_all_counted(tmp_path: Path) -> None:
    members = [(f"1.2.840.{i}.{e}", data) for i in range(4) for e, data in (("png", PNG), ("cls", b"1"))]
    assert told(tar(tmp_path, *members)) == [(None, f"no usable image ({SHARED_KEY})")] * 4


@pytest.mark.parametrize("ending", ["webp", "tif", "TIFF", "bmp", "jp2"])
def test_images_of_formats_that_are_not_read_are_named(tmp_path: Path, ending: str) -> None:
    assert told(tar(tmp_path, (f"s.{ending}", b""), ("s.cls", b"1"))) == [
        (None, f"no usable image ({UNREAD})")
    ]


def test_images_under_other_endings_and_leftovers_in_a_tar(tmp_path: Path) -> None:
    members = [
        ("s.jfif", JPEG),
        ("s.cls", b"1"),
        ("Thumbs.db", b""),
        ("@eaDir/s.jpg", JPEG),
        ("._s.jfif", b""),
    ]
    assert told(tar(tmp_path, *members)) == [("class-1", None)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04" + bytes(600), "is a ZIP archive or an Excel workbook, not a tar: unpack it"),
        (b"<html>" + b" " * 600, "is a web page, not a tar: download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\n" + b" " * 600,
            "not a tar: fetch the files with `git lfs",
        ),
    ],
)
def test_what_is_no_tar_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=said):
        list(WebDataset(root=str(tmp_path)).records())
