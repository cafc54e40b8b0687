"""A small release of VinDr-CXR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.importers.vindr import VinDr
from tests.helpers.dicom_files import dicom_file

FINDINGS = ("Aortic enlargement", "Cardiomegaly", "Edema", "Pleural effusion", "Pneumothorax", "Tuberculosis")
# The release names one column differently in its two tables.
TRAIN_HEADER = ",".join(["image_id", "rad_id", *FINDINGS, "Other diseases", "No finding"])
TEST_HEADER = ",".join(["image_id", *FINDINGS, "Other disease", "No finding"])
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def row(image: str, *seen: str, reader: str = "") -> str:
    votes = [str(int(name in seen)) for name in (*FINDINGS, "Other diseases", "No finding")]
    return ",".join([image, *([reader] if reader else []), *votes])


def read_by_three(image: str, *seen: tuple[str, ...]) -> list[str]:
    """One row per reader, who saw these findings."""
    return [row(image, *findings, reader=f"READER{number}") for number, findings in enumerate(seen, 8)]


def vindr(
    root: Path,
    train: list[str],
    test: list[str],
    tables: str = "annotations",
    files: dict[str, bytes] | None = None,
    **options: Any,
) -> VinDr:
    for name in ("train", "test", tables):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / tables / "image_labels_train.csv").write_text("\n".join([TRAIN_HEADER, *train]) + "\n")
    (root / tables / "image_labels_test.csv").write_text("\n".join([TEST_HEADER, *test]) + "\n")
    default = {"train/t.dicom": radiograph(), "test/u.dicom": radiograph()}
    for name, data in (default if files is None else files).items():
        (root / name).write_bytes(data)
    return VinDr(root=str(root), **options)


def radiograph(**elements: Any) -> bytes:
    """As the release's files are: without a patient, with a window."""
    values = {
        "PatientID": None,
        "WindowCenter": 128,
        "WindowWidth": 256,
        "BurnedInAnnotation": "NO",
        **elements,
    }
    return dicom_file(GREY, **values)
