"""A small release of CheXpert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxrdist.data.importers.chexpert import CheXpert

# As the release has them.
HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)
SMALL = "CheXpert-v1.0-small/"
FINDINGS = HEADER.split(",")[5:]


def line(
    path: str, side: str = "Frontal", person: str = "Male,61", position: str = "AP", **cells: str
) -> str:
    """One row; ``Pleural_Effusion="-1.0"`` for a finding, empty for all others."""
    named = {name.replace("_", " "): text for name, text in cells.items()}
    assert named.keys() <= set(FINDINGS)
    return ",".join([path, person, side, position, *(named.get(name, "") for name in FINDINGS)])


def write(folder: Path, name: str, *lines: str, header: str = HEADER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *lines]) + "\n")


def chexpert(root: Path, *lines: str, **options: Any) -> CheXpert:
    write(root, "train.csv", *lines)
    return CheXpert(root=str(root), **options)
