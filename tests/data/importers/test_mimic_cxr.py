from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.deidentify import load_salt
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.mimic_cxr import Labeler, MimicCxrJpg
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.errors import UserError
from tests.helpers.releases.mimic_cxr import DICOM, image, labels, mimic, write


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize("labeler", ["chexpert", "negbio"])
@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
def test_records(tmp_path: Path, version: str, labeler: Labeler, end: str) -> None:
    importer = mimic(
        tmp_path,
        [image(DICOM, "10000032", "50414267", "AP")],
        [
            labels(
                "10000032", "50414267", Pneumothorax="1.0", Fracture="1.0", Support_Devices="1.0", Edema="0.0"
            )
        ],
        version=version,
        labeler=labeler,
        end=end,
    )
    assert list(importer.records()) == [
        Record(
            source_id=DICOM,
            patient_id="10000032",
            findings=("Pneumothorax", "Fracture"),
            uncounted=("Support Devices",),
            view="AP",
            file=f"files/p10/p10000032/s50414267/{DICOM}.jpg",
        )
    ]
    assert pickle.loads(pickle.dumps(importer)) == importer


def test_the_newest_version_counts(tmp_path: Path) -> None:
    for version, finding in (("2.0.0", "Edema"), ("2.10.0", "Pneumothorax"), ("2.9.0", "Cardiomegaly")):
        importer = mimic(
            tmp_path, [image("a", "1", "2")], [labels("1", "2", **{finding: "1.0"})], version=version
        )
    # Beside these lies a table of another kind.
    write(tmp_path / "mimic-cxr-2.10.0-test-set-labeled.csv", "study_id", "2")
    (record,) = importer.records()
    assert record.findings == ("Pneumothorax",)


def test_studies_are_joined_on_subject_and_study(tmp_path: Path) -> None:
    importer = mimic(
        tmp_path,
        [image("a", "1", "5"), image("b", "1", "5"), image("c", "1", "6"), image("d", "2", "5")],
        [labels("1", "5", Edema="1.0"), labels("2", "5", Cardiomegaly="1.0")],
    )
    assert [(r.findings, r.no_class) for r in importer.records()] == [
        (("Edema",), None),
        (("Edema",), None),
        ((), "no report labels"),
        (("Cardiomegaly",), None),
    ]


POSITIONS = ["PA", "AP", "LATERAL", "LL", "XTABLE LATERAL", "PA LLD", "AP AXIAL", "SWIMMERS", ""]
OTHER = ["other view"] * 3


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({}, [None] * 2 + ["lateral view"] * 3 + OTHER + ["unknown view"]),
        ({"keep_unknown_views": True}, [None] * 2 + ["lateral view"] * 3 + OTHER + [None]),
        ({"views": "lateral"}, ["frontal view"] * 2 + [None] * 3 + OTHER + ["unknown view"]),
        ({"views": "all"}, [None] * 9),
    ],
)
def test_views(tmp_path: Path, options: dict[str, Any], reasons: list[str | None]) -> None:
    images = [image(f"d{i}", "1", "5", position) for i, position in enumerate(POSITIONS)]
    records = list(mimic(tmp_path, images, [labels("1", "5", Edema="1.0")], **options).records())
    assert [r.left_out for r in records] == reasons
    assert [r.view for r in records] == [*POSITIONS[:-1], None]


@pytest.mark.parametrize(
    ("way", "expected"),
    [("drop", "uncertain finding"), ("zero", None), ("one", None)],
)
def test_uncertain_findings(tmp_path: Path, way: str, expected: str | None) -> None:
    studies = [labels("1", "5", Pleural_Effusion="-1.0")]
    (record,) = mimic(tmp_path, [image("a", "1", "5")], studies, uncertain=way).records()
    assert (record.no_class, record.left_out) == (expected, None)
    assert record.findings == {
        "drop": ("Pleural Effusion (uncertain)",), "zero": (), "one": ("Pleural Effusion",)
    }[way]  # fmt: skip


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
def test_official_split(tmp_path: Path, end: str) -> None:
    images = [image(name, "1", "5") for name in "abcd"]
    importer = mimic(tmp_path, images, [labels("1", "5", Edema="1.0")])
    assert [r.split for r in importer.records()] == [None] * 4
    lines = ["a,5,1,train", "b,5,1,validate", "c,5,1,test"]
    write(tmp_path / f"mimic-cxr-2.0.0-split{end}", "dicom_id,study_id,subject_id,split", *lines)
    assert [r.split for r in importer.records()] == ["train", "val", "test", None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,5,1,valid"], "line 2: unknown split 'valid'; did you mean 'validate'"),
        (["a,5,1,train", "a,5,1,test"], "line 3: a is in two splits"),
    ],
)
def test_splits_that_are_not_right(tmp_path: Path, lines: list[str], message: str) -> None:
    importer = mimic(tmp_path, [image("a", "1", "5")], [labels("1", "5")])
    write(tmp_path / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", *lines)
    with pytest.raises(UserError, match=message):
        list(importer.records())


STUDY = labels("1", "5", Edema="1.0")


@pytest.mark.parametrize(
    ("images", "studies", "message"),
    [
        (
            [image("a", "1", "5"), image("a", "1", "5", "AP")],
            [STUDY],
            r"metadata\.csv, line 3: a is listed before \(line 2\), with another view",
        ),
        ([image("../a", "1", "5")], [STUDY], r"metadata\.csv, line 2: the dicom_id '\.\./a' is not a plain"),
        ([image("a", "1", "5/..")], [STUDY], "line 2: the study_id '5/..' is not a plain"),
        ([image("a", "", "5")], [STUDY], "line 2: no subject_id"),
        (
            [image("a", "1", "5")],
            [STUDY, labels("1", "5")],
            r"chexpert\.csv, line 3: study 5 is listed twice, w",
        ),
        ([image("a", "1", "5")], [labels("1", "5", Edema="yes")], "line 2: Edema is 'yes', neither 1, 0, -1"),
    ],
)
def test_tables_that_are_not_right(
    tmp_path: Path, images: list[str], studies: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(mimic(tmp_path, images, studies).records())


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        list(MimicCxrJpg(root=str(tmp_path / "nowhere")).records())
    with pytest.raises(UserError, match=r"holds no mimic-cxr-2\.0\.0-metadata\.csv"):
        list(MimicCxrJpg(root=str(tmp_path)).records())
    mimic(tmp_path, [image("a", "1", "5")], [STUDY])
    with pytest.raises(UserError, match=r"holds no mimic-cxr-2\.0\.0-negbio\.csv"):
        list(MimicCxrJpg(root=str(tmp_path), labeler="negbio").records())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labeler": "negbo"}, "labeler: 'negbo' is not a choice; did you mean 'negbio'"),
        ({"uncertain": "ones"}, "uncertain: 'ones' is not a choice; did you mean 'one'"),
    ],
)
def test_options_that_are_not_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MimicCxrJpg(root="/x", **options)


@pytest.mark.usefixtures("inline")
def test_a_set_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    root = tmp_path / "root"
    images, studies, splits = [], [], []
    for i in range(6):
        subject, study, dicom = (
            f"1900000{i}",
            f"5900000{i}",
            f"{i}2aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
        )
        images.append(image(dicom, subject, study, "AP"))
        studies.append(labels(subject, study, **{"No_Finding" if i % 2 else "Pleural_Effusion": "1.0"}))
        splits.append(f"{dicom},{study},{subject},{('train', 'validate', 'test')[i // 2]}")
        file = root / f"files/p19/p{subject}/s{study}/{dicom}.jpg"
        file.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 40), np.uint8)).save(file)
    importer = mimic(root, images, studies, end=".csv.gz")
    write(root / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", *splits)
    options = IngestOptions(out=str(tmp_path / "set"), size=32, split="official", workers=1)
    manifest = ingest(importer, options)
    assert {(e.split, e.class_name): e.samples for e in manifest.strata} == {
        (split, name): 1 for split in ("train", "val", "test") for name in ("Normal", "Pleural Effusion")
    }
    assert manifest.provenance.undecodable == 0
    assert manifest.provenance.source_options["labeler"] == "chexpert"
    everything = b"".join(p.name.encode() + p.read_bytes() for p in (tmp_path / "set").iterdir())
    assert load_salt(None).patient("19000001").encode() in everything
    for trace in (b"1900000", b"5900000", b"2aa804e", b"files/", str(tmp_path).encode()):
        assert trace not in everything
