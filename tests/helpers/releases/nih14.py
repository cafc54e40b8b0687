"""A small release of NIH ChestX-ray14."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cxrdist.data.importers.nih14 import NIH14


def nih(root: Path, patients: int = 60) -> NIH14:
    """A release in small: patients with up to four images of several classes, and names that tell."""
    rng = np.random.default_rng(3)
    findings = [
        "No Finding",
        "Cardiomegaly",
        "Effusion|Mass",
        "Edema",
        "Pneumothorax",
        "Edema|Effusion",
        "Hernia",
    ]
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    (root / "images").mkdir(parents=True)
    for patient in range(patients):
        for study in range(1 + patient % 4):
            name = f"{70_077_000 + patient}_{study:03d}.png"
            finding = findings[(patient + 3 * study) % len(findings)]
            age, sex, view = 60 + patient, "MF"[patient % 2], ("PA", "AP")[study % 2]
            rows.append(f"{name},{finding},{study},{70_077_000 + patient},{age},{sex},{view}")
            Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).save(root / "images" / name)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    return NIH14(root=str(root))
