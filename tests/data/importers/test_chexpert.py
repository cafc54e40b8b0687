from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.deidentify import load_salt
from cxrdist.data.importers.chexpert import FIRST_PART, CheXpert
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.chexpert_labels import OBSERVATIONS
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.labels import assign
from cxrdist.errors import UserError
from tests.helpers.releases.chexpert import FINDINGS, SMALL, chexpert, line, write


def one(tmp_path: Path, cells: dict[str, str], **options: Any) -> Record:
    path = f"{SMALL}train/patient00001/study1/view1_frontal.jpg"
    (record,) = chexpert(tmp_path, line(path, **cells), **options).records()
    return record


def label_of(record: Record, rule: str = "strict") -> str | None:
    """The record's class beside one sure image of each kind."""
    others = [Record(source_id="n", findings=("No Finding",)), Record(source_id="e", findings=("Edema",))]
    return assign([record, *others], rule, CheXpert.targets, CheXpert.normal, None).label[0]


def test_the_fourteen_observations_are_those_of_the_tables() -> None:
    assert list(OBSERVATIONS) == FINDINGS


def test_records(tmp_path: Path) -> None:
    importer = chexpert(
        tmp_path,
        line(
            f"{SMALL}train/patient00002/study2/view1_frontal.jpg",
            person="Female,87",
            Cardiomegaly="1.0",
            Lung_Opacity="1.0",
            Pneumonia="0.0",
        ),
        line(
            f"{SMALL}train/patient00002/study2/view2_lateral.jpg",
            "Lateral",
            "Unknown,0",
            "",
            No_Finding="1.0",
        ),
    )
    first, second = importer.records()
    assert first == Record(
        source_id="train/patient00002/study2/view1_frontal.jpg",
        patient_id="patient00002",
        findings=("Cardiomegaly",),
        uncounted=("Lung Opacity",),
        split="train-val",
        view="AP",
        sex="F",
        age=87,
        file="train/patient00002/study2/view1_frontal.jpg",
    )
    assert (second.left_out, second.view, second.sex, second.age) == ("lateral view", "LATERAL", None, None)
    assert pickle.loads(pickle.dumps(importer)) == importer


@pytest.mark.parametrize(
    "prefix", ["CheXpert-v1.0/", "CheXpert-v1.0-small/", f"{FIRST_PART}/", "", "/data/train/x/", "../../"]
)
def test_what_stands_before_the_split_is_stripped(tmp_path: Path, prefix: str) -> None:
    (record,) = chexpert(tmp_path, line(f"{prefix}train/patient7/study1/view1_frontal.jpg")).records()
    assert (record.file, record.patient_id) == ("train/patient7/study1/view1_frontal.jpg", "patient7")


@pytest.mark.parametrize(
    ("views", "reasons"),
    [
        ("frontal", [None, "lateral view"]),
        ("lateral", ["frontal view", None]),
        ("all", [None, None]),
    ],
)
def test_views(tmp_path: Path, views: str, reasons: list[str | None]) -> None:
    lines = [line(f"train/patient1/study1/view1_{s.lower()}.jpg", s) for s in ("Frontal", "Lateral")]
    assert [r.left_out for r in chexpert(tmp_path, *lines, views=views).records()] == reasons


@pytest.mark.parametrize(
    ("way", "findings", "no_class"),
    [
        ("drop", ("Cardiomegaly", "Edema (uncertain)", "Pneumonia (uncertain)"), "uncertain finding"),
        ("zero", ("Cardiomegaly",), None),
        ("one", ("Cardiomegaly", "Edema", "Pneumonia"), None),
    ],
)
def test_an_uncertain_target(
    tmp_path: Path, way: str, findings: tuple[str, ...], no_class: str | None
) -> None:
    cells = {"Cardiomegaly": "1.0", "Edema": "-1.0", "Pneumonia": "-1.0"}
    record = one(tmp_path, cells, uncertain=way)
    assert (record.findings, record.no_class, record.left_out) == (findings, no_class, None)


def test_an_uncertain_no_finding_has_no_class(tmp_path: Path) -> None:
    assert one(tmp_path, {"No_Finding": "-1.0"}).no_class == "uncertain finding"


def test_a_lateral_view_counts_as_such_whatever_its_labels(tmp_path: Path) -> None:
    path = "train/patient1/study1/view2_lateral.jpg"
    (record,) = chexpert(tmp_path, line(path, "Lateral", Edema="-1.0")).records()
    assert (record.left_out, record.no_class) == ("lateral view", None)


def test_under_drop_another_uncertain_finding_counts_beside_the_target(tmp_path: Path) -> None:
    record = one(tmp_path, {"Edema": "1.0", "Pneumonia": "-1.0"})
    assert record.left_out is None
    assert (label_of(record, "strict"), label_of(record, "one-target")) == (None, "Pulmonary Edema")
    record = one(tmp_path, {"Edema": "1.0", "Lung_Opacity": "-1.0"})
    assert record.uncounted == ("Lung Opacity (uncertain)",)
    assert label_of(record, "strict") == "Pulmonary Edema"


@pytest.mark.parametrize("name", ["Enlarged_Cardiomediastinum", "Lung_Opacity", "Support_Devices"])
def test_unspecific_findings_beside_a_target(tmp_path: Path, name: str) -> None:
    assert label_of(one(tmp_path, {"Edema": "1.0", name: "1.0"})) == "Pulmonary Edema"
    counted = one(tmp_path, {"Edema": "1.0", name: "1.0"}, count_unspecific=True)
    assert (label_of(counted), counted.uncounted) == (None, ())


def test_unspecific_findings_beside_no_finding(tmp_path: Path) -> None:
    devices = {"No_Finding": "1.0", "Support_Devices": "1.0"}
    assert label_of(one(tmp_path, devices)) == "Normal"
    assert label_of(one(tmp_path, devices, count_unspecific=True)) is None
    # A contradiction, so not Normal.
    assert label_of(one(tmp_path, {"No_Finding": "1.0", "Lung_Opacity": "1.0"})) is None
    # Nothing but an opacity is neither Normal nor a target.
    assert label_of(one(tmp_path, {"Lung_Opacity": "1.0"})) is None


@pytest.mark.parametrize(
    ("test_table", "splits"),
    [
        (None, ["train-val", "test"]),
        ("test.csv", ["train", "val", "test"]),
        ("test_labels.csv", ["train", "val", "test"]),
    ],
)
def test_official_split(tmp_path: Path, test_table: str | None, splits: list[str]) -> None:
    importer = chexpert(tmp_path, line(f"{SMALL}train/patient1/study1/view1_frontal.jpg"))
    write(tmp_path, "valid.csv", line(f"{SMALL}valid/patient2/study1/view1_frontal.jpg"))
    if test_table:
        # The test set's table has neither sex, age nor view.
        cells = ",".join(["1"] + ["0"] * 13)
        lines = [
            f"test/patient3/study1/view1_frontal.jpg,{cells}",
            f"test/patient3/study1/view2_lateral.jpg,{cells}",
        ]
        write(tmp_path, test_table, *lines, header=",".join(["Path", *FINDINGS]))
    records = list(importer.records())
    assert [r.split for r in records if not r.left_out] == splits
    if test_table:
        assert records[2].findings == ("No Finding",)
        assert (records[2].view, records[2].sex, records[2].age) == (None, None, None)
        assert records[3].left_out == "lateral view"


def test_the_four_parts_of_the_full_release(tmp_path: Path) -> None:
    names = ["train/patient00001", "train/patient30000", "train/patient9"]
    write(
        tmp_path / FIRST_PART,
        "train.csv",
        *(line(f"CheXpert-v1.0/{name}/study1/view1_frontal.jpg") for name in names),
    )
    write(
        tmp_path / FIRST_PART, "valid.csv", line("CheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg")
    )
    (tmp_path / "CheXpert-v1.0 batch 2 (train 1)/patient00001").mkdir(parents=True)
    (tmp_path / "CheXpert-v1.0 batch 4 (train 3)/patient30000").mkdir(parents=True)
    records = list(CheXpert(root=str(tmp_path)).records())
    assert [r.source_id.split("/")[0] for r in records] == ["train", "train", "train", "valid"]
    assert [r.file for r in records] == [
        "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0 batch 4 (train 3)/patient30000/study1/view1_frontal.jpg",
        f"{FIRST_PART}/train/patient9/study1/view1_frontal.jpg",
        f"{FIRST_PART}/valid/patient64541/study1/view1_frontal.jpg",
    ]


GOOD = "train/patient1/study1/view1_frontal.jpg"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("train/patient1/../../../x.jpg")], r"line 2: the Path 'train/patient1/\.\./.*' leads out of"),
        (
            [line("train/study1/x.jpg")],
            "line 2: the Path 'train/study1/x.jpg' has no train/, valid/ or test/",
        ),
        ([line("retrain/patient1/study1/x.jpg")], "line 2: the Path 'retrain/.*' has no train/"),
        ([line("")], "line 2: no Path"),
        (
            [line(GOOD), line(SMALL + GOOD, Edema="1.0")],
            rf"line 3: {GOOD} is listed before \(line 2\), with another findings",
        ),
        ([line(GOOD, Edema="2")], "line 2: Edema is '2', neither 1, 0, -1 nor empty"),
        ([line(GOOD, "Oblique")], "line 2: 'Oblique' is neither Frontal nor Lateral"),
        ([], r"train\.csv: has no rows"),
    ],
)
def test_tables_that_are_not_right(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(chexpert(tmp_path, *lines).records())


def test_folders_and_columns_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train\.csv"):
        list(CheXpert(root=str(tmp_path)).records())
    write(tmp_path, "train.csv", GOOD, header="Path")
    with pytest.raises(UserError, match="lacks the columns No Finding, Enlarged Cardiomediastinum"):
        list(CheXpert(root=str(tmp_path)).records())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertain": "zeros"}, "uncertain: 'zeros' is not a choice; did you mean 'zero'"),
        ({"uncertain": "maybe"}, "uncertain: 'maybe' is not a choice; known: drop, zero, one"),
        ({"views": "frontals"}, "views: 'frontals' is not a choice; did you mean 'frontal'"),
    ],
)
def test_options_that_are_not_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CheXpert(root="/x", **options)


@pytest.mark.usefixtures("inline")
def test_a_set_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lines = []
    for patient in range(8):
        cells = {"Edema": "1.0", "Support_Devices": "1.0"} if patient % 2 else {"No_Finding": "1.0"}
        for name, side in (("view1_frontal", "Frontal"), ("view2_lateral", "Lateral")):
            path = f"train/patient{77_000_000 + patient}/study1/{name}.jpg"
            lines.append(line(SMALL + path, side, **cells))
            (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 32), np.uint8)).save(tmp_path / "root" / path)
    importer = chexpert(tmp_path / "root", *lines)
    options = IngestOptions(out=str(tmp_path / "set"), size=32, label_rule="strict", workers=1)
    manifest = ingest(importer, options)
    assert manifest.classes == ["Normal", "Pulmonary Edema"]
    assert sum(entry.samples for entry in manifest.strata) == 8
    provenance = manifest.provenance
    assert provenance.left_out == {"lateral view": 8} and provenance.undecodable == 0
    assert provenance.source_options == {
        "views": "frontal",
        "uncertain": "drop",
        "count_unspecific": False,
    }
    everything = b"".join(p.name.encode() + p.read_bytes() for p in (tmp_path / "set").iterdir())
    assert b'"Support Devices"' in everything
    assert load_salt(None).patient("patient77000001").encode() in everything
    for trace in (b"patient7", b"77000001", b"view1", b"study1", str(tmp_path).encode()):
        assert trace not in everything
