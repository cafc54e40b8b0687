from __future__ import annotations

import errno
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common.attributes import view_of
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.mimic_cxr import MimicCxrJpg
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.labels import assign
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.plan import split_way
from cxrdist.data.ingest.splits.drawn import split_patients
from cxrdist.errors import UserError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def put_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path)
    return path


def nih(root: Path, *rows: str, header: str = HEADER, table: str = "Data_Entry_2017_v2020.csv") -> NIH14:
    put_image(root / "images" / "a.png")
    (root / table).write_text("\n".join([header, *rows]) + "\n")
    return NIH14(root=str(root))


def test_nih_records(tmp_path: Path) -> None:
    importer = nih(
        tmp_path,
        "a.png,Cardiomegaly|Emphysema,0,17,57,M,PA,2682,2749,0.143,0.143",
        "b.png,No Finding,0,18,094,F,AP,2682,2749,0.143,0.143",
    )
    first, second = importer.records()
    assert first == Record(
        source_id="a.png",
        patient_id="17",
        findings=("Cardiomegaly", "Emphysema"),
        view="PA",
        sex="M",
        age=57,
        file="images/a.png",
    )
    assert (second.age, second.file) == (90, "images/b.png")
    np.testing.assert_array_equal(importer.pixels(first, 16, "pad"), GREY)
    assert importer.pixels(first, 8, "pad").shape == (8, 8)
    with pytest.raises(UndecodableImage, match=r"images/b\.png: missing"):
        importer.pixels(second, 16, "pad")


@pytest.mark.parametrize(
    ("text", "years"),
    [("58", 58), ("058Y", 58), ("013M", 1), ("009D", 0), ("89", 89), ("90", 90), ("120", 90), ("121", None),
     ("414", None), ("", None), ("-3", None), ("old", None)],
)  # fmt: skip
def test_nih_ages(tmp_path: Path, text: str, years: int | None) -> None:
    (record,) = nih(tmp_path, f"a.png,Edema,0,1,{text},M,PA,1,1,1,1").records()
    assert record.age == years


def test_nih_what_the_table_does_not_say_is_none(tmp_path: Path) -> None:
    header = "Image Index,Finding Labels,Patient ID"
    importer = nih(tmp_path, "a.png,Edema,1", header="\ufeff" + header, table="Data_Entry_2017.csv")
    (record,) = importer.records()
    assert (record.view, record.sex, record.age) == (None, None, None)


def test_nih_as_it_is_unpacked(tmp_path: Path) -> None:
    importer = nih(tmp_path, *(f"{name}.png,Edema,0,1,5,X,,1,1,1,1" for name in "abc"))
    put_image(tmp_path / "images_001/images/b.png")
    put_image(tmp_path / "images_012/images/c.png")
    records = list(importer.records())
    assert [r.file for r in records] == ["images/a.png", "images_001/images/b.png", "images_012/images/c.png"]
    assert [(r.sex, r.view) for r in records] == [(None, None)] * 3
    np.testing.assert_array_equal(importer.pixels(records[2], 16, "pad"), GREY)


def test_nih_prefers_the_newer_table(tmp_path: Path) -> None:
    nih(tmp_path, "a.png,Edema,0,1,5,M,PA,1,1,1,1", table="Data_Entry_2017.csv")
    importer = nih(tmp_path, "a.png,Effusion,0,1,5,M,PA,1,1,1,1")
    assert next(importer.records()).findings == ("Effusion",)


ROW = "a.png,Edema,0,1,5,M,PA,1,1,1,1"


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([ROW], "Image Index,Patient Age", r"v2020\.csv: lacks the columns Finding Labels, Patient ID;"),
        ([], HEADER, r"v2020\.csv: has no rows"),
        ([], "", r"v2020\.csv: lacks the columns Image Index, Finding Labels, Patient ID;"),
        (
            [ROW, ROW.replace("Edema", "Mass")],
            HEADER,
            r"v2020\.csv, line 3: a\.png is listed before \(line 2\)",
        ),
        ([ROW, "b.png,Edema"], HEADER, r"v2020\.csv, line 3: no Patient ID"),
        (
            ["../a.png,Edema,0,1,5,M,PA"],
            HEADER,
            r"line 2: the Image Index '\.\./a\.png' is not a plain file name",
        ),
        (["/etc/a.png,Edema,0,1,5,M,PA"], HEADER, r"line 2: .* is not a plain file name"),
    ],
)
def test_nih_tables_that_are_not_right(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(nih(tmp_path, *rows, header=header).records())


def test_nih_folders_that_are_not_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        list(NIH14(root=str(tmp_path / "nowhere")).records())
    with pytest.raises(UserError, match=r"holds neither Data_Entry_2017_v2020\.csv nor Data_Entry_2017\.csv"):
        list(NIH14(root=str(tmp_path)).records())
    importer = nih(tmp_path, ROW)
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(UserError, match="no image in images/"):
        list(importer.records())
    (tmp_path / "Data_Entry_2017_v2020.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe,\n")
    put_image(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"is not UTF-8 text .*iconv -f LATIN1 -t UTF-8"):
        list(importer.records())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            NIH14,
            r"NIH ChestX-ray14 has train_val_list\.txt and test_list\.txt for it, which are missing beside",
        ),
        (
            MimicCxrJpg,
            r"MIMIC-CXR-JPG has mimic-cxr-2\.0\.0-split\.csv for it, which is missing beside the table:",
        ),
        (CsvTable, "table of images has none, because its column split is missing or empty:"),
        (WebDataset, r"WebDataset tars have none in any \.json: add --split-from-names"),
        (Folder, "folder of images has none: its folders are not named train, val and test; remove"),
    ],
)
def test_an_official_split_that_is_not_there(source: type[FileImporter], message: str) -> None:
    with pytest.raises(UserError, match=f"^split: official, but {message}"):
        split_way(source(root="x"), [Record(source_id="a")], IngestOptions(out="y", split="official"))


def test_folder_records(tmp_path: Path) -> None:
    for name in ("Normal/b.png", "Normal/deep/er/a.JPG", "Mass/x.jpeg", "Mass/.hidden.png", "Mass/.d/y.png",
                 ".trash/z.png", "loose.png"):  # fmt: skip
        put_image(tmp_path / name)
    for name in ("Mass/notes.txt", "Mass/deep/a.bmp", "Normal/a.npy", "table.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    importer = Folder(root=str(tmp_path))
    everything = list(importer.records())
    assert {(r.source_id, r.left_out) for r in everything if r.left_out} == {
        ("loose.png", "in no class folder"),
        ("table.csv", "in no class folder"),
        ("Mass/notes.txt", "not a PNG, JPEG or DICOM file"),
        ("Mass/deep/a.bmp", "not a PNG, JPEG or DICOM file"),
        ("Normal/a.npy", "not a PNG, JPEG or DICOM file"),
    }
    assert everything == list(importer.records()) and len(everything) == 8
    assert assign(everything, "strict", importer.targets, importer.normal, None).left_out == {
        "in no class folder": 2,
        "not a PNG, JPEG or DICOM file": 3,
    }
    records = [record for record in everything if not record.left_out]
    assert [(r.source_id, r.label) for r in records] == [
        ("Mass/x.jpeg", "Mass"),
        ("Normal/b.png", "Normal"),
        ("Normal/deep/er/a.JPG", "Normal"),
    ]
    assert all((r.patient_id, r.file) == ("", r.source_id) for r in records)
    np.testing.assert_array_equal(importer.pixels(records[1], 16, "pad"), GREY)
    assert assign(records, "strict", importer.targets, importer.normal, None).classes == ("Normal", "Mass")


def test_folder_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", put_image(tmp_path / "outside" / "secret.png")
    put_image(root / "Normal" / "a.png")
    (root / "Mass").mkdir()
    (root / "Mass" / "again.png").symlink_to(root / "Normal" / "a.png")
    (root / "Mass" / "out.png").symlink_to(outside)
    (root / "Mass" / "folder").symlink_to(outside.parent)
    importer = Folder(root=str(root))
    records = {record.source_id: record for record in importer.records()}
    assert sorted(records) == ["Mass/again.png", "Mass/out.png", "Normal/a.png"]
    assert records["Mass/again.png"].patient_id == "Normal/a.png" and not records["Normal/a.png"].patient_id
    np.testing.assert_array_equal(importer.pixels(records["Mass/again.png"], 16, "pad"), GREY)
    with pytest.raises(UndecodableImage, match=r"Mass/out\.png: a link that leads out of the folder"):
        importer.pixels(records["Mass/out.png"], 16, "pad")
    (root / "Edema").symlink_to(outside.parent)
    with pytest.raises(UserError, match="Edema: a link that leads out of"):
        list(importer.records())


def test_folder_takes_dicom_files_by_ending_or_by_content(tmp_path: Path) -> None:
    dicom = b"\0" * 128 + b"DICM" + b"..."
    for name in ("a.dcm", "b.DICOM", "c", "1.2.840.113"):
        path = tmp_path / "root" / "Mass" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom)
    for name, data in [("d", b"DICM"), ("e", b""), ("f.txt", dicom), ("DICOMDIR", dicom), (".h", dicom)]:
        (tmp_path / "root" / "Mass" / name).write_bytes(data)
    (tmp_path / "outside").write_bytes(dicom)
    (tmp_path / "root" / "Mass" / "link").symlink_to(tmp_path / "outside")
    records = [r for r in Folder(root=str(tmp_path / "root")).records() if not r.left_out]
    assert [r.file for r in records] == ["Mass/1.2.840.113", "Mass/a.dcm", "Mass/b.DICOM", "Mass/c"]


def test_folders_that_are_not_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        list(Folder(root=str(tmp_path / "nowhere")).records())
    put_image(tmp_path / "loose.png")
    with pytest.raises(UserError, match="has no class folders"):
        list(Folder(root=str(tmp_path)).records())
    put_image(tmp_path / "Normal" / "a.png")
    (tmp_path / "Edema").mkdir()
    with pytest.raises(UserError, match="Edema: no PNG, JPEG or DICOM image in this class"):
        list(Folder(root=str(tmp_path)).records())


@pytest.mark.parametrize("name", ["", "Normal/deep"])
@pytest.mark.parametrize("source", [Folder, WebDataset])
def test_a_folder_that_cannot_be_read_is_told(
    source: type[Folder] | type[WebDataset], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(tmp_path / "Normal/deep/a.png")
    put_image(tmp_path / "Normal/b.png")
    shut = tmp_path / name

    def opening(function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any = ".") -> Any:
            if Path(path) == shut:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path)

        return opened

    # Root, whom tests may run as, may read any folder.
    monkeypatch.setattr(os, "scandir", opening(os.scandir))
    monkeypatch.setattr(os, "listdir", opening(os.listdir))
    with pytest.raises(UserError, match=f"^{shut}: cannot be read .Permission denied.; make it readable"):
        list(source(root=str(tmp_path)).records())


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Normal").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "Normal") + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(UserError, match="is not UTF-8; rename the file"):
        list(Folder(root=str(tmp_path)).records())


def test_importers_travel_to_worker_processes() -> None:
    for importer in (NIH14(root="/x"), Folder(root="/x")):
        assert pickle.loads(pickle.dumps(importer)) == importer
        assert not importer.is_phantom


def real(name: str) -> NIH14:
    root = os.environ.get("CXRDIST_REAL_DATA")
    if not root:
        pytest.skip("CXRDIST_REAL_DATA names no folder of real radiographs")
    return NIH14(root=str(Path(root) / name))


def split_of(importer: NIH14, classes: list[str] | None) -> Counter[tuple[str, str]]:
    records = list(importer.records())
    found = assign(records, "one-target", importer.targets, importer.normal, classes)
    used = [(record.patient_id, label) for record, label in zip(records, found.label) if label]
    splits = split_patients([p for p, _ in used], [label for _, label in used], val=0.15, test=0.15, seed=0)
    return Counter((label, split) for (_, label), split in zip(used, splits))


def test_real_nih256() -> None:
    importer = real("nih256")
    records = list(importer.records())
    found = assign(records, "one-target", importer.targets, importer.normal, None)
    assert Counter(label for label in found.label if label) == {
        "Normal": 580,
        "Pulmonary Edema": 75,
        "Pleural Effusion": 72,
        "Pneumothorax": 35,
        "Cardiomegaly": 17,
    }
    assert sum(found.left_out.values()) == len(records) - 779 == 457
    pixels = importer.pixels(records[0], 64, "pad")
    assert pixels.shape == (64, 64) and pixels.std() > 20
    counts = split_of(importer, None)
    assert [counts["Normal", split] for split in ("train", "val", "test")] == [406, 87, 87]
    assert min(counts.values()) >= 2 and len(counts) == 15


def test_real_nih64_splits_four_classes_but_not_five() -> None:
    importer = real("nih64")
    with pytest.raises(UserError, match="Pulmonary Edema has 2 patients, too few"):
        split_of(importer, None)
    four = ["Cardiomegaly", "Normal", "Pleural Effusion", "Pneumothorax"]
    assert len(split_of(importer, four)) == 12


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("PA", "PA"),
        ("AP_horizontal", "AP_HORIZONTAL"),
        ("pa", "PA"),
        ("Postero-anterior", "PA"),
        ("antero-posterior", "AP"),
        ("XTABLE LATERAL", "XTABLE LATERAL"),
        ("lateral", "LATERAL"),
        ("", None),
        ("Jane Doe", None),
        ("PA: Jane Doe", None),
        ("PA 19581103", None),
        ("Lateral Doe", None),
    ],
)
def test_a_view_is_a_word_for_one_and_never_a_name(text: str, view: str | None) -> None:
    assert view_of(text) == view
