"""Tables in the dialects of spreadsheets, in other words and letters, or that are no tables at all."""

from __future__ import annotations

import gzip
import io
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from cxrdist.data.importers.common.attributes import age_years, class_name, sex_of
from cxrdist.data.importers.common.quoting import END
from cxrdist.data.importers.common.tables import LONGEST_LINE, rows_of
from cxrdist.data.importers.common.texts import plain_text
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder

pytestmark = pytest.mark.usefixtures("inline")

HEADER = "path,label,patient_id,view,sex,age,split"
ROWS = tuple(f"{i}.png,Mass,p{i},PA,F,58,train" for i in range(3))
PLAIN = "\n".join((HEADER, *ROWS, ""))


def importer(root: Path, text: str | bytes, name: str = "labels.csv") -> CsvTable:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return CsvTable(root=str(root))


def message(importer: CsvTable) -> str:
    with pytest.raises(UserError) as caught:
        list(importer.records())
    return str(caught.value)


# Dialects.


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "sep=;\n" + PLAIN.replace(",", ";"),
        "\ufeffSEP=;\n" + PLAIN.replace(",", ";"),
        "sep=,\r\n" + PLAIN.replace("\n", "\r\n"),
        "\n ,,,\n" + PLAIN,
        "\ufeff" + PLAIN,
        PLAIN + "\ufeff" + PLAIN,
        PLAIN.replace(HEADER, "Path,LABEL,Patient ID,View,sex,Age,SPLIT"),
        PLAIN.replace(HEADER, "path,label,PatientId, view ,Sex,age,Split"),
        "\n".join(", ".join(f'"{cell}"' for cell in line.split(",")) for line in (HEADER, *ROWS)),
        PLAIN.replace("Mass", "\u200bMass\u00a0").replace("PA", "\u200ePA"),
    ],
)
def test_dialects_of_one_table(tmp_path: Path, text: str) -> None:
    found = list(importer(tmp_path, text).records())
    expected = list(importer(tmp_path, PLAIN).records())
    assert [(r.file, r.label, r.patient_id, r.view, r.sex, r.age, r.split) for r in found] == [
        (r.file, r.label, r.patient_id, r.view, r.sex, r.age, r.split) for r in expected
    ]


def test_a_column_that_has_its_name_wins_over_one_that_is_alike(tmp_path: Path) -> None:
    text = "path,label,patient_id,PatientID\na.png,Mass,right,wrong\n"
    assert [r.patient_id for r in importer(tmp_path, text).records()] == ["right"]


@pytest.mark.parametrize(
    ("first", "second"), [("Patient ID", "PatientID"), ("Split", "SPLIT"), ("Path", "PATH")]
)
def test_two_spellings_of_one_column_are_refused(tmp_path: Path, first: str, second: str) -> None:
    needed = "label" if first == "Path" else "path,label"
    known = {"Patient ID": "patient_id"}.get(first, first.lower())
    said = message(importer(tmp_path, f"{needed},{first},{second}\na.png,a.png,a.png,a.png\n"))
    assert (
        f"labels.csv: '{first}' and '{second}' may both be {known}; rename the column that is to {known}"
        in said
    )


def test_columns_of_another_spelling_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    list(importer(tmp_path, "path,Label,PatientID,Split\na.png,Mass,P1,train\n").records())
    assert "columns read: 'Label' as label, 'PatientID' as patient_id, 'Split' as split" in caplog.text
    caplog.clear()
    list(importer(tmp_path, PLAIN).records())
    assert caplog.text == ""


def test_a_column_of_other_splits_can_be_renamed(tmp_path: Path) -> None:
    said = message(importer(tmp_path, "path,label,Split\na.png,Mass,fold1\n"))
    assert "the split 'fold1' is none of train, " in said and "or rename the column if it is about" in said


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_compression_shows_in_the_content(tmp_path: Path, name: str, is_compressed: bool) -> None:
    text = PLAIN.encode()
    found = importer(tmp_path, gzip.compress(text) if is_compressed else text, name).records()
    assert [r.file for r in found] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b"PK\x03\x04" + bytes(40),
            "is a ZIP archive or an Excel workbook, not a CSV: unpack it; or save the",
        ),
        (
            b"<!DOCTYPE html><html></html>",
            "is a web page, not a CSV: download it again: the server sent a page",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not a CSV: fetch"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    assert f"labels.csv: {said}" in message(importer(tmp_path, data))


@pytest.mark.parametrize(
    "first", ["BMI", "BM", "BMD (g/cm2)", "GIF8", "GIF89a", "<Head", "<html-like", "MM", "PK"]
)
def test_a_column_may_begin_as_a_picture_or_a_page_does(tmp_path: Path, first: str) -> None:
    (record,) = importer(tmp_path, f"{first},path,label\n21,a.png,Mass\n").records()
    assert (record.file, record.label) == ("a.png", "Mass")


def test_a_picture_in_place_of_a_table_is_named(tmp_path: Path) -> None:
    for form in ("BMP", "GIF", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.new("L", (40, 40), 100).save(buffer, form)
        assert (
            f"is a {form} image, not a CSV".lower() in message(importer(tmp_path, buffer.getvalue())).lower()
        )


# Quotation marks.


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_quotation_mark_that_is_not_closed_names_its_line(tmp_path: Path, end: str) -> None:
    lines = [f"{HEADER},report", f"{ROWS[0]},fine", f'{ROWS[1]},"an opacity', f"{ROWS[2]},fine"]
    assert message(importer(tmp_path, "\n".join(lines) + end)) == (
        f"{tmp_path}/labels.csv, line 3: a quotation mark that is not closed takes in all lines below; close or "
        "remove it"
    )


def test_no_text_of_a_table_is_taken_for_its_end(tmp_path: Path) -> None:
    ends = ("\0end of the table", END.encode(errors="replace").decode(), END[1:])
    text = "label,path\nMass,0.png\n" + "".join(f"{end}\n{end},x.png\n" for end in ends) + "Mass,1.png\n"
    rows = [row["path"] for _, row in rows_of(Path(importer(tmp_path, text).root, "labels.csv"), ("path",))]
    assert rows == ["0.png", *["", "x.png"] * 3, "1.png"]


def test_a_long_report_of_several_lines_is_one_cell(tmp_path: Path) -> None:
    report = "No acute findings, as before.\n" * 10_000
    text = f'{HEADER},report\n{ROWS[0]},"{report}"\n{ROWS[1]},5" film\n'
    assert [r.file for r in importer(tmp_path, text).records()] == ["0.png", "1.png"]
    too_long = f'{HEADER},report\n{ROWS[0]},"{report * (LONGEST_LINE // len(report) + 1)}"\n'
    assert "line 2: not a valid CSV row (field larger than" in message(importer(tmp_path, too_long))


@pytest.mark.parametrize("last", ['d.png,y,"15 inch', 'd.png,"y",x', 'd.png,y,"15 inch"'])
@pytest.mark.parametrize("between", ["b.png,y,x\nc.png,n,y\n", ""])
def test_stray_quotation_marks_in_even_number_name_their_lines(
    tmp_path: Path, between: str, last: str
) -> None:
    said = message(importer(tmp_path, f'path,label,note\na.png,n,"14 inch\n{between}{last}\ne.png,n,z\n'))
    end = 3 + between.count("\n")
    assert f"labels.csv, line 2: a quotation mark takes in lines up to {end}, where text follows" in said


def test_rows_in_a_cell_that_is_closed_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'path,label,note\na.png,n,"14\nb.png,y,x\nc.png,n,15"\nd.png,y,"1\ne.png,n,2"\nf.png,n,\n'
    assert [r.file for r in importer(tmp_path, text).records()] == ["a.png", "d.png", "f.png"]
    assert "lines 2 to 4 are one row" in caplog.text and "and 1 more such rows" in caplog.text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"a\nb"', "a b"),
        ('"a\r\n""b""\n"', 'a  "b"'),
        ('"a\n\nb; c" ', "a  b; c"),
        ('"abc" def', "abc def"),
        ('14" film', '14" film'),
        (' "14 inch', '"14 inch'),
    ],
)
@pytest.mark.parametrize("after", ["", ",z"])
def test_other_quotation_marks_are_read_as_before(
    tmp_path: Path, cell: str, text: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    more = ",more" if after else ""
    table = importer(tmp_path, f"path,label{more}\na.png,{cell}{after}\nb.png,y{after}\n")
    assert [(r.file, r.label) for r in table.records()] == [("a.png", text), ("b.png", "y")]
    assert caplog.text == ""


# Words and letters.


@pytest.mark.parametrize(
    ("text", "name"),
    [("1.0", "1"), ("01", "01"), ("1.5", "1.5"), ("nan", ""), ("<NA>", ""), ("None", "None"), ("N/A", "N/A")],
)
def test_names_of_classes(text: str, name: str) -> None:
    assert class_name(text) == name


def test_a_label_that_stands_for_none_is_refused_as_an_empty_one_is(tmp_path: Path) -> None:
    said = message(importer(tmp_path, "path,label\na.png,Mass\nb.png,nan\n"))
    assert said.endswith("line 3: the label 'nan' stands for none; fill it in, or remove the line")


def test_other_words_for_nothing_age_and_sex(tmp_path: Path) -> None:
    (record,) = importer(tmp_path, "path,label,split\na.png,Mass,nan\n").records()
    assert record.split is None
    assert (age_years("58,5"), sex_of("Woman"), sex_of("man")) == (58, "F", "M")


@pytest.mark.parametrize("space", ["\u3000", "\u202f", "\u2003", "\u2028", "\x85", "\ufeff", "\u00a0\u200b"])
def test_white_space_of_any_kind_is_cut_off(tmp_path: Path, space: str) -> None:
    text = f"path,label,{space}patient_id\na.png{space},Mass,P1{space}\n{space}b.png,{space}Mass,P1\n"
    found = [(r.file, r.label, r.patient_id) for r in importer(tmp_path, text).records()]
    assert found == [("a.png", "Mass", "P1"), ("b.png", "Mass", "P1")]


def test_long_texts_are_not_normalized() -> None:
    for text, is_short in (("e\u0301" * 500, True), ("e\u0301" * 501, False)):
        assert plain_text(text) == (unicodedata.normalize("NFC", text) if is_short else text)


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def test_letters_with_two_ways_to_be_written_are_one(tmp_path: Path) -> None:
    lines = [
        f"{i}.png,{letter}panchement,J{letter}r{letter}me" for i, letter in enumerate((COMPOSED, DECOMPOSED))
    ]
    first, second = importer(tmp_path, "\n".join(["path,label,patient_id", *lines])).records()
    assert first.label == second.label == f"{COMPOSED}panchement"
    assert first.patient_id == second.patient_id


@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("in_table", [COMPOSED, DECOMPOSED])
def test_so_are_those_of_file_names(tmp_path: Path, on_disk: str, in_table: str) -> None:
    (tmp_path / f"{on_disk}.png").write_bytes(b"")
    table = importer(tmp_path, f"path,label\n{in_table}.png,Mass\n")
    (record,) = table.records()
    assert record.file == record.source_id == f"{on_disk}.png" and table.is_there(record)


NFC, NFD = (unicodedata.normalize(form, "폴더/파일-é") for form in ("NFC", "NFD"))
MIXED = NFC.partition("/")[0] + "/" + NFD.partition("/")[2]


@pytest.mark.parametrize("on_disk", [NFC, NFD, MIXED])
@pytest.mark.parametrize("in_table", [NFC, NFD, MIXED, NFC.replace("/", "\\")])
def test_each_folder_of_a_path_may_be_written_otherwise(tmp_path: Path, on_disk: str, in_table: str) -> None:
    (tmp_path / on_disk).parent.mkdir()
    (tmp_path / f"{on_disk}.png").write_bytes(b"")
    (record,) = importer(tmp_path, f"path,label\n{in_table}.png,Mass\n").records()
    assert record.file == f"{on_disk}.png"


@pytest.mark.parametrize("name", ["\ufa19", "\u212b", "e\u0301", "\u3000x", "a\u200b"])
def test_a_name_is_first_sought_as_it_is_written(tmp_path: Path, name: str) -> None:
    for file in (name, unicodedata.normalize("NFC", name)):
        (tmp_path / f"{file}.png").write_bytes(b"")
    (record,) = importer(tmp_path, f"path,label\n{name}.png,Mass\n").records()
    assert record.file == f"{name}.png"


@pytest.mark.parametrize("path", ["\u200b/etc/x", "\u200b../x", "\u200b../\u200b../x"])
def test_marks_do_not_hide_a_way_out(tmp_path: Path, path: str) -> None:
    said = message(importer(tmp_path, f"path,label\n{path}.png,Mass\n"))
    assert "is absolute" in said or "leads out of the folder" in said


@pytest.mark.parametrize(
    "listed",
    ["a/{:03d}.PNG", "a/{:03d}", "a/{:03d}.jpg", "a/'{:03d}.png'", "a/%30{:02d}.png", "a/{:03d}.dcm"],
)
def test_a_missing_file_of_nearly_the_same_name_is_told(tmp_path: Path, listed: str) -> None:
    root = draw_folder(tmp_path / "root", {"a": 20}, size=16)
    rows = "".join(f"{listed.format(i)},{'AB'[i % 2]}\n" for i in range(20))
    made = IngestOptions(out=str(tmp_path / "set"), size=16, workers=1, find_duplicates=False)
    with pytest.raises(UserError, match=r"\(there is 000\.png: capitals and endings have to be those of the"):
        ingest(importer(root, f"path,label\n{rows}"), made)
