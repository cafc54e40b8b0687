"""A small release of MIMIC-CXR-JPG."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from cxrdist.data.importers.mimic_cxr import Labeler, MimicCxrJpg

# As the release has them.
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
    "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
FINDINGS = LABELS.split(",")[2:]
METADATA = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
DICOM = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"


def labels(subject: str, study: str, **cells: str) -> str:
    named = {name.replace("_", " "): text for name, text in cells.items()}
    assert named.keys() <= set(FINDINGS)
    return ",".join([subject, study, *(named.get(name, "") for name in FINDINGS)])


def image(dicom: str, subject: str, study: str, position: str = "PA") -> str:
    return f"{dicom},{subject},{study},CHEST (PA AND LAT),{position},3056,2544"


def write(path: Path, header: str, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def mimic(
    root: Path,
    images: list[str],
    studies: list[str],
    *,
    version: str = "2.0.0",
    end: str = ".csv",
    labeler: Labeler = "chexpert",
    **options: Any,
) -> MimicCxrJpg:
    write(root / f"mimic-cxr-{version}-metadata{end}", METADATA, *images)
    write(root / f"mimic-cxr-{version}-{labeler}{end}", LABELS, *studies)
    return MimicCxrJpg(root=str(root), labeler=labeler, **options)
