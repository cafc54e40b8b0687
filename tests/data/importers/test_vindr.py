from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.releases.vindr import GREY, radiograph, read_by_three, row, vindr

pytest.importorskip("pydicom")

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.dicom_headers import with_header
from cxrdist.data.importers.vindr import VinDr, agreed
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.dicom_files import SECRETS, dicom_file

SOME = [row("u", "No finding")]
NONE_THREE_TIMES = read_by_three("t", *[("No finding",)] * 3)


def test_records(tmp_path: Path) -> None:
    files = {
        "train/a.dicom": radiograph(PatientSex="F", PatientAge="061Y"),
        "train/b.dcm": radiograph(ViewPosition="AP", PatientSex="O"),
        "test/c.dicom": radiograph(),
    }
    train = [
        *read_by_three("a", ("Cardiomegaly", "Tuberculosis"), ("Cardiomegaly",), ("Pneumothorax",)),
        *read_by_three("b", ("No finding",), ("No finding",), ("Edema",)),
    ]
    # The readers of one image need not stand together.
    importer = vindr(
        tmp_path, [train[i] for i in (0, 3, 1, 4, 2, 5)], [row("c", "Pleural effusion", "Edema")], files=files
    )
    a, b, c = importer.records()
    assert a == Record(
        source_id="a",
        findings=("Cardiomegaly",),
        split="train-val",
        view="PA",
        sex="F",
        age=61,
        file="train/a.dicom",
    )
    assert b == Record(
        source_id="b", findings=("No finding",), split="train-val", view="AP", file="train/b.dcm"
    )
    assert c == Record(
        source_id="c", findings=("Edema", "Pleural effusion"), split="test", view="PA", file="test/c.dicom"
    )
    np.testing.assert_array_equal(importer.pixels(b, 16, "pad"), GREY)


@pytest.mark.parametrize(
    ("seen", "majority", "any_", "all_"),
    [
        ([("E", "P"), ("E",), ("E", "P")], ("E", "P"), ("E", "P"), ("E",)),
        ([("E",), ("P",), ("N",)], (), ("E", "P"), ()),
        ([("N",), ("N",), ("E",)], ("N",), ("E",), ()),
        ([("N",), ("N",), ("N",)], ("N",), ("N",), ("N",)),
        ([("N",), ("N",), ()], ("N",), (), ()),
        ([("E",), ("P",)], (), ("E", "P"), ()),
        ([("E", "N")], ("E", "N"), ("E", "N"), ("E", "N")),
    ],
)
def test_whose_findings_count(
    seen: list[tuple[str, ...]], majority: tuple[str, ...], any_: tuple[str, ...], all_: tuple[str, ...]
) -> None:
    assert agreed(seen, "majority", "N") == majority
    assert agreed(seen, "any", "N") == any_
    assert agreed(seen, "all", "N") == all_


def test_an_image_on_which_the_readers_disagree_has_no_class(tmp_path: Path) -> None:
    train = read_by_three("t", ("Edema",), ("Pneumothorax",), ("No finding",))
    for readers, no_class in (("majority", "its readers agree on nothing"), ("any", None)):
        record, _ = vindr(tmp_path, train, SOME, readers=readers).records()
        assert (record.no_class, record.left_out) == (no_class, None)


@pytest.mark.parametrize(
    ("said", "policy", "left_out", "notes"),
    [
        ("YES", "drop", "text burned into its pixels", 1),
        ("NO", "strict", None, 0),
        ("", "drop", None, 1),
        ("", "strict", "not said to be free of burned-in text", 1),
    ],
)
def test_burned_in_text(tmp_path: Path, said: str, policy: str, left_out: str | None, notes: int) -> None:
    files = {"train/t.dicom": radiograph(BurnedInAnnotation=said), "test/u.dicom": radiograph()}
    record, _ = vindr(tmp_path, NONE_THREE_TIMES, SOME, files=files, burned_in=policy).records()
    assert (record.left_out, len(record.notes)) == (left_out, notes)


def test_a_file_not_for_presentation_is_left_out(tmp_path: Path) -> None:
    files = {
        "train/t.dicom": radiograph(),
        "test/u.dicom": radiograph(PresentationIntentType="FOR PROCESSING"),
    }
    _, record = vindr(tmp_path, NONE_THREE_TIMES, SOME, files=files).records()
    assert record.left_out == "not for presentation"


def test_missing_and_damaged_files_stay_records(tmp_path: Path) -> None:
    importer = vindr(
        tmp_path,
        [
            *read_by_three("gone", ("Edema",), ("Edema",), ()),
            *read_by_three("bad", ("Edema",), ("Edema",), ()),
        ],
        SOME,
        files={"train/bad.dicom": b"damaged", "test/u.dicom": radiograph()},
    )
    gone, bad, _ = importer.records()
    assert (gone.file, gone.left_out, gone.view) == ("train/gone.dicom", None, "PA")
    assert (bad.file, bad.left_out) == ("train/bad.dicom", None)
    with pytest.raises(UndecodableImage, match=r"gone\.dicom: missing$"):
        importer.pixels(gone, 16, "pad")
    with pytest.raises(UndecodableImage, match=r"bad\.dicom: not an image of a known format$"):
        importer.pixels(bad, 16, "pad")


def test_tables_beside_the_folders_or_gzipped(tmp_path: Path) -> None:
    importer = vindr(tmp_path, NONE_THREE_TIMES, SOME, tables=".")
    table = tmp_path / "image_labels_train.csv"
    (tmp_path / "image_labels_train.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    table.unlink()
    assert [record.source_id for record in importer.records()] == ["t", "u"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            read_by_three("../t", ()),
            SOME,
            r"train\.csv, line 2: the image_id '\.\./t' is not a plain file name",
        ),
        (
            NONE_THREE_TIMES,
            [row("/etc/passwd")],
            r"test\.csv, line 2: the image_id '/etc/passwd' is not a plain",
        ),
        (NONE_THREE_TIMES, [row("")], r"test\.csv, line 2: no image_id"),
        (
            [*NONE_THREE_TIMES, *read_by_three("t", ("Edema",))],
            SOME,
            r"train\.csv, line 5: t is listed twice by READER8, with other findings; remove one line",
        ),
        (
            NONE_THREE_TIMES,
            [*SOME, row("u", "Edema")],
            r"test\.csv, line 3: u is listed twice, with other findings",
        ),
        (NONE_THREE_TIMES, [row("t")], r"test\.csv: t is in both tables"),
        ([NONE_THREE_TIMES[0][:-1] + "2"], SOME, r"train\.csv, line 2: No finding is '2', neither 0 nor 1"),
        ([], SOME, r"train\.csv: has no rows"),
    ],
)
def test_tables_that_are_not_right(tmp_path: Path, train: list[str], test: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(vindr(tmp_path, train, test).records())


def test_cells_as_other_writers_write_them(tmp_path: Path) -> None:
    # 0,0,1,0,0,0,0,0 with numbers as floats, and nothing for 0.
    record, _ = vindr(tmp_path, ["t,READER8,0.0,,1.0,,0,0,,0"], SOME).records()
    assert record.findings == ("Edema",)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    importer = vindr(tmp_path, NONE_THREE_TIMES, SOME)
    table = tmp_path / "annotations" / "image_labels_test.csv"
    table.write_text(table.read_text().replace("Pneumothorax", "Ptx"))
    with pytest.raises(UserError, match=r"image_labels_test\.csv: lacks the columns Pneumothorax"):
        list(importer.records())
    table.unlink()
    (record,) = importer.records()
    assert record.split is None  # the train part alone has no split of its own
    (tmp_path / "annotations" / "image_labels_train.csv").unlink()
    with pytest.raises(UserError, match=r"holds no image_labels_train\.csv"):
        list(importer.records())
    with pytest.raises(UserError, match="no such folder"):
        list(VinDr(root=str(tmp_path / "nowhere")).records())


def test_options_that_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"readers: 'majorty' is not a choice.*majority"):
        VinDr(root=".", readers="majorty")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"burned_in: 'dorp' is not a choice.*drop"):
        VinDr(root=".", burned_in="dorp")  # type: ignore[arg-type]


def test_an_import_keeps_the_pixels_and_nothing_that_identifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    files: dict[str, bytes] = {}
    pixels: dict[str, np.ndarray] = {}
    train: list[str] = []
    test: list[str] = []
    for number in range(24):
        split = "test" if number % 4 == 0 else "train"
        finding = ("Pneumothorax", "No finding")[number % 2 if split == "train" else number // 4 % 2]
        image = f"deadbeef{number:024x}"
        pixels[image] = rng.integers(0, 256, (16, 16)).astype(np.uint8)
        said: dict[str, Any] = {"BurnedInAnnotation": "NO"} if number >= 3 else {}
        files[f"{split}/{image}.dicom"] = dicom_file(
            pixels[image], WindowCenter=128, WindowWidth=256, PatientID=f"MRN4711-{number}", **said
        )
        rows = read_by_three(image, (finding,), (finding,), ()) if split == "train" else [row(image, finding)]
        (train if split == "train" else test).extend(rows)
    importer = vindr(tmp_path / "source", train, test, files=files)
    options = IngestOptions(out=str(tmp_path / "set"), size=16, split="official", val=2, workers=1)
    manifest = ingest(importer, options)
    assert verify(str(tmp_path / "set")) == []

    said_aloud = capsys.readouterr()
    ((note, count),) = (manifest.provenance.notes or {}).items()
    assert count == 3 and "no BurnedInAnnotation" in note
    assert f"warning: 3 images: {note}" in said_aloud.out + said_aloud.err
    assert manifest.provenance.source_options == {"readers": "majority", "burned_in": "drop"}
    splits: Counter[str] = Counter()
    for stratum in manifest.strata:
        splits[stratum.split] += stratum.samples
    assert splits == {"train": 14, "val": 4, "test": 6}

    found = set()
    for tar in (tmp_path / "set").glob("*.tar"):
        with tarfile.open(tar) as archive:
            for member in archive:
                body = archive.extractfile(member)
                assert body is not None
                if member.name.endswith(".png"):
                    found.add(np.asarray(Image.open(io.BytesIO(body.read()))).tobytes())
                elif member.name.endswith(".json"):
                    assert json.load(body)["view"] == "PA"
    assert found == {image.tobytes() for image in pixels.values()}
    for file in (tmp_path / "set").rglob("*"):
        content = (file.read_bytes() if file.is_file() else b"") + file.name.encode()
        assert not [secret for secret in (*SECRETS, "deadbeef", "READER") if secret.encode() in content], file
    assert not [secret for secret in (*SECRETS, "deadbeef") if secret in said_aloud.out + said_aloud.err]


def test_what_the_source_says_wins_over_the_header(tmp_path: Path) -> None:
    says: dict[str, Any] = {
        "PatientSex": "M",
        "PatientAge": "050Y",
        "ViewPosition": "AP",
        "PresentationIntentType": "FOR PROCESSING",
    }
    (tmp_path / "a.dcm").write_bytes(dicom_file(GREY, **says))
    bare = with_header(Record(source_id="a", file="a.dcm"), tmp_path, "drop")
    assert (bare.patient_id, bare.sex, bare.age, bare.view) == ("MRN4711", "M", 50, "AP")
    assert (bare.left_out, len(bare.notes)) == ("not for presentation", 1)
    full = Record(
        source_id="a",
        file="a.dcm",
        patient_id="7",
        sex="F",
        age=0,
        view="PA",
        left_out="lateral",
        notes=("note",),
    )
    merged = with_header(full, tmp_path, "drop")
    assert merged == replace(full, notes=("note", *bare.notes))
    assert with_header(replace(full, file="b.dcm"), tmp_path, "drop") == replace(full, file="b.dcm")
