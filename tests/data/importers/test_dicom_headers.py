"""DICOM files in folders and tables of anybody's making: what their headers say counts where nothing else does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.dicom.header import BURNED_IN, NOTE_MAY_BE_BURNED_IN
from cxrdist.data.importers.common.dicom_headers import NOTE_ONE_PATIENT
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.errors import UserError
from tests.helpers.dicom_files import dicom_file

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def put(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_file(GREY, **values))  # type: ignore[arg-type]


def test_a_folder_takes_patient_view_sex_and_age_from_dicom(tmp_path: Path) -> None:
    put(tmp_path / "Normal/a.dcm", PatientID="one", PatientSex="F", PatientAge="058Y", ViewPosition="AP")
    put(tmp_path / "Normal/1.2.840.5", PatientID="two", BurnedInAnnotation="NO")
    put(tmp_path / "Mass/b.dicom", PatientID="one", BurnedInAnnotation="YES")
    Image.fromarray(GREY).save(tmp_path / "Mass/c.png")
    told = {r.source_id: r for r in Folder(root=str(tmp_path)).records()}
    assert {name: r.patient_id for name, r in told.items()} == {
        "Normal/a.dcm": "one",
        "Normal/1.2.840.5": "two",
        "Mass/b.dicom": "one",
        "Mass/c.png": "",
    }
    a = told["Normal/a.dcm"]
    assert (a.view, a.sex, a.age, a.left_out, a.notes) == ("AP", "F", 58, None, (NOTE_MAY_BE_BURNED_IN,))
    assert told["Normal/1.2.840.5"].notes == () == told["Mass/c.png"].notes
    assert told["Mass/b.dicom"].left_out == BURNED_IN
    kept = {r.source_id: r for r in Folder(root=str(tmp_path), burned_in="keep").records()}
    assert kept["Mass/b.dicom"].left_out is None and len(kept["Mass/b.dicom"].notes) == 1


def test_a_patient_id_that_all_files_share_tells_nobody_apart(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"Normal/{i}.dcm", PatientID="ANON", BurnedInAnnotation="NO")
    records = list(Folder(root=str(tmp_path)).records())
    assert [(r.patient_id, r.notes) for r in records] == [("", (NOTE_ONE_PATIENT,))] * 3


def test_a_dicom_file_by_another_name_speaks_for_itself_too(tmp_path: Path) -> None:
    put(tmp_path / "Normal/a.png", PatientID="one", BurnedInAnnotation="YES")
    put(tmp_path / "Normal/b.jpg", PatientID="two", BurnedInAnnotation="NO")
    told = [(r.patient_id, r.left_out) for r in Folder(root=str(tmp_path)).records()]
    assert told == [("one", BURNED_IN), ("two", None)]


def test_a_folder_without_dicom_needs_no_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    (tmp_path / "Normal").mkdir()
    Image.fromarray(GREY).save(tmp_path / "Normal/a.png")
    (record,) = Folder(root=str(tmp_path)).records()
    assert (record.file, record.left_out, record.notes) == ("Normal/a.png", None, ())
    put(tmp_path / "Normal/b.dcm")
    with pytest.raises(UserError, match="reading DICOM files needs pydicom"):
        list(Folder(root=str(tmp_path)).records())


def test_a_table_says_more_than_a_header(tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path / f"{name}.dcm", PatientID=f"header-{name}", PatientSex="F", BurnedInAnnotation="NO")
    (tmp_path / "labels.csv").write_text("path,label,patient_id,sex\na.dcm,x,table-a,M\nb.dcm,x,,\n")
    told = [(r.patient_id, r.sex) for r in CsvTable(root=str(tmp_path)).records()]
    assert told == [("table-a", "M"), ("header-b", "F")]


def test_no_header_is_read_through_a_link_that_leads_out(tmp_path: Path) -> None:
    put(tmp_path / "outside/secret.dcm", PatientID="secret")
    put(tmp_path / "root/Normal/a.dcm", PatientID="one", BurnedInAnnotation="NO")
    (tmp_path / "root/Normal/b.dcm").symlink_to(tmp_path / "outside/secret.dcm")
    assert "secret" not in {r.patient_id for r in Folder(root=str(tmp_path / "root")).records()}


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UserError, match=r"burned_in: 'srtict' is not a choice; did you mean 'strict'\?"):
        Folder(root=".", burned_in="srtict")  # type: ignore[arg-type]
