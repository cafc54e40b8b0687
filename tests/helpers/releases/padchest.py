"""A small release of PadChest."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

from cxrdist.data.importers.padchest import PadChest

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# As the release has them, but for the columns of the device; the first one has no name.
COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "PhotometricInterpretation_DICOM",
    "Report", "MethodLabel", "Labels", "LabelsLocalizationsBySentence", "labelCUIS",
)  # fmt: skip
USUAL = {
    "ImageID": "20536686640136348236148679891455886468_k6ga29.png",
    "ImageDir": "0",
    "StudyDate_DICOM": "20140915",
    "PatientID": "839860488694292331637988235681460987",
    "PatientBirth": "1930.0",
    "PatientSex_DICOM": "F",
    "ViewPosition_DICOM": "POSTEROANTERIOR",
    "Projection": "PA",
    "Pediatric": "No",
    "PhotometricInterpretation_DICOM": "MONOCHROME2",
    "Report": "sin hallazg patolog edad pulmonar .",
    "Labels": "['normal']",
    "LabelsLocalizationsBySentence": "[['normal'], ['cardiomegaly']]",
    "labelCUIS": "['C0205307'\n 'C0000000']",
}


def write(root: Path, *rows: dict[str, str], name: str = TABLE) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows({**USUAL, **row} for row in rows)
    data = text.getvalue().encode()
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def padchest(root: Path, *rows: dict[str, str], **options: Any) -> PadChest:
    write(root, *rows)
    return PadChest(root=str(root), **options)
