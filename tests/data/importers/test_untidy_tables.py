"""Tables as spreadsheets, pandas and hospitals write them: read as they are meant, and what is not is counted."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from cxrdist.data import deidentify
from cxrdist.data.importers.common import attributes as attributes_module
from cxrdist.data.importers.common.attributes import age_years, attributes, patient_name, view_of
from cxrdist.data.importers.common.tables import EQUAL_ROWS
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.records import MISSING_FILE
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder

pytestmark = pytest.mark.usefixtures("inline")

HEADER = "path,label,patient_id,view,sex,age"


def table(root: Path, *lines: str, header: str = HEADER, encoding: str = "utf-8") -> CsvTable:
    text = "".join(f"{line}\n" for line in (header, *lines))
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return CsvTable(root=str(root))


def options(out: Path, **changes: object) -> IngestOptions:
    return IngestOptions(**{"out": str(out), "size": 16, "workers": 1, "find_duplicates": False, **changes})  # type: ignore[arg-type]


# View, sex, age, patient.


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *[
            ("62", 62),
            ("58y", 58),
            ("58 years", 58),
            ("58 yrs", 58),
            ("58 Years", 58),
            ("058Y", 58),
            ("58.0", 58),
        ],
        *[
            ("13 months", 1),
            ("013M", 1),
            ("9 days", 0),
            ("006W", 0),
            ("95", 90),
            ("414", None),
            ("58 x", None),
        ],
    ],
)
def test_ages(text: str, years: int | None) -> None:
    assert age_years(text) == years


@pytest.mark.parametrize(
    ("text", "view"),
    [("pa", "PA"), ("PA", "PA"), (" Postero-anterior ", "PA"), ("Anterior-Posterior", "AP"), ("x", None)],
)
def test_views(text: str, view: str | None) -> None:
    assert view_of(text) == view


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *[
            ("nan", ""),
            ("None", ""),
            ("N/A", ""),
            ("", ""),
            ("0", "0"),
            ("0.0", "0"),
            ("10000000.0", "10000000"),
        ],
        *[("0012", "0012"), ("1.5", "1.5"), ("P-7", "P-7"), ("Nancy", "Nancy")],
    ],
)
def test_patients(text: str, name: str) -> None:
    assert patient_name(text, "here") == name


@pytest.mark.parametrize("text", ["1.00E+07", "1e7", "1,2E+12"])
def test_a_patient_that_a_spreadsheet_shortened_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^line 3: the patient .* save that column as text$"):
        attributes("line 3", patient=text)


def test_what_is_not_understood_is_noted_and_what_is_empty_is_not() -> None:
    found = attributes("here", patient="nan", view="from the side", sex="yes", age="middle-aged")
    assert found["notes"] == (
        attributes_module.NO_VIEW,
        attributes_module.NO_SEX,
        attributes_module.NO_AGE,
        attributes_module.NO_PATIENT,
    )
    assert attributes("here", view="nan", sex="U", age="")["notes"] == ()


# Rows.


def test_equal_rows_are_one_image_and_noted(tmp_path: Path) -> None:
    rows = [
        "a.png,Normal,1,PA,F,58",
        "b.png,Normal,2,PA,F,58",
        "a.png,Normal,1,PA,F,58",
        "a.png,Normal,1,pa,F,58y",
    ]
    first, second = table(tmp_path, *rows).records()
    assert (first.file, first.notes, second.notes) == ("a.png", (EQUAL_ROWS,), ())


def test_contradicting_rows_stop_the_import_with_their_number(tmp_path: Path) -> None:
    rows = [f"{name}.png,{label},1,,," for name in "abc" for label in ("Normal", "Mass")]
    with pytest.raises(UserError) as caught:
        list(table(tmp_path, *rows).records())
    assert str(caught.value) == (
        f"{tmp_path}/labels.csv, line 3: a.png is listed before (line 2), with another label; 3 images are listed "
        "with contradictions: correct the table"
    )


def test_rows_of_commas_alone_are_skipped(tmp_path: Path) -> None:
    assert [r.file for r in table(tmp_path, "a.png,Normal,1,,,", ",,,,,", ",,,,,").records()] == ["a.png"]


@pytest.mark.parametrize(("encoding", "named"), [("latin-1", "LATIN1"), ("utf-16", "UTF-16")])
def test_a_table_in_another_encoding_says_how_to_save_it(tmp_path: Path, encoding: str, named: str) -> None:
    with pytest.raises(UserError, match=rf"save it as CSV in UTF-8, .*`iconv -f {named} -t UTF-8"):
        list(table(tmp_path, "a.png,Müdigkeit,1,,,", encoding=encoding).records())


def test_paths_of_windows_and_absolute_ones_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    rows = ["img\\0.png,Normal,1,,,", f"{tmp_path}/img/1.png,Normal,2,,,"]
    assert [r.file for r in table(tmp_path, *rows).records()] == ["img/0.png", "img/1.png"]
    for path, message in [
        ("C:\\img\\0.png", f"is absolute; write paths relative to {tmp_path}, with /"),
        ("/etc/0.png", "is absolute; write paths relative to"),
        ("..\\0.png", "leads out of the folder"),
    ]:
        with pytest.raises(UserError, match=message):
            list(table(tmp_path, f"{path},Normal,1,,,").records())


# Files.


@pytest.fixture
def partial(tmp_path: Path) -> CsvTable:
    """60 rows; 40 files of them."""
    root = draw_folder(tmp_path / "root", {"a": 30, "b": 30}, size=16)
    rows = [f"{name}/{i:03d}.png,{name},{name}{i},,," for name in "ab" for i in range(30)]
    for name in "ab":
        for i in range(20, 30):
            (root / name / f"{i:03d}.png").unlink()
    return table(root, *rows)


def test_a_partial_download_says_how_much_is_there(partial: CsvTable, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ingest(partial, options(tmp_path / "set"))
    assert str(caught.value) == (
        "40 of the 60 images of table of images are there, and 20 are missing, such as a/020.png: complete the "
        "download, or import what is there with --missing skip"
    )
    assert not (tmp_path / "set").exists()


def test_missing_skip_imports_what_is_there(partial: CsvTable, tmp_path: Path) -> None:
    manifest = ingest(partial, options(tmp_path / "set", missing="skip"))
    assert manifest.samples == 40 and manifest.provenance.left_out == {MISSING_FILE: 20}
    assert manifest.provenance.undecodable == 0


def test_links_out_of_a_folder_are_not_called_damaged(tmp_path: Path) -> None:
    real = draw_folder(tmp_path / "real", {"a": 20, "b": 20}, size=16)
    for name in "ab":
        (tmp_path / "links" / name).mkdir(parents=True)
        for file in (real / name).iterdir():
            (tmp_path / "links" / name / file.name).symlink_to(file)
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(tmp_path / "links")), options(tmp_path / "set"))
    assert "are not read" in str(caught.value) and "`cp -rL ROOT NEW`" in str(caught.value)
    assert "repair the download" not in str(caught.value)


def test_a_salt_that_cannot_be_made_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(deidentify, "make_salt", read_only)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"cannot be created \(Read-only file system\); name .* --salt-file"):
        deidentify.load_salt(None)


def test_notes_of_an_import_count_what_was_not_understood(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"a": 20, "b": 20}, size=16)
    rows = [f"{name}/{i:03d}.png,{name},{name}{i},sideways,F,old" for name in "ab" for i in range(20)]
    manifest = ingest(table(root, *rows), options(tmp_path / "set"))
    assert Counter(manifest.provenance.notes) == {attributes_module.NO_VIEW: 40, attributes_module.NO_AGE: 40}
