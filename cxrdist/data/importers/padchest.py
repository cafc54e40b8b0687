"""PadChest (Bustos et al., Medical Image Analysis 2020), in the layout of BIMCV."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cxrdist.data.imaging.radiograph import load_grey
from cxrdist.data.importers.common.attributes import attributes
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.inner_paths import plain_name
from cxrdist.data.importers.common.intensity import Intensity, check_intensity, tone_of
from cxrdist.data.importers.common.tables import Row, cell, find_table, merged, rows_of
from cxrdist.errors import OptionError, UserError, check_choice

TABLES = (
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    "PADCHEST_chest_x_ray_images_labels_160K.csv",
)
PROJECTIONS = ("PA", "AP", "AP_horizontal", "L", "COSTAL")
EXCLUDE = "exclude"
REMARKS = ("unchanged", EXCLUDE, "suboptimal study")
"""Labels about the report or the film, which are no findings."""
IMPLIED = {"hydropneumothorax": ("pneumothorax", "pleural effusion")}
"""A label with two parents in the source's tree of labels."""
INVERTED = "MONOCHROME1 in the table, so inverted: look at some"


@dataclass(frozen=True, kw_only=True)
class PadChest(FileImporter):
    """Import PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz) and the images, unpacked
    to <ImageDir>/ or all into the root.

    As in the source's tree of labels, loculated effusions, empyema and hemothorax count as pleural effusions, and a
    hydropneumothorax as an effusion and a pneumothorax. ``unchanged``, ``exclude`` and ``suboptimal study`` are not
    findings: images with no other label are left out. The age is the year of the study minus the year of birth.
    """

    views: tuple[str, ...] = ("PA", "AP")
    """Projections to keep: PA, AP, AP_horizontal (lying on the back), L (lateral), COSTAL (ribs)."""
    keep_suboptimal: bool = False
    """Keep images whose report calls the study suboptimal."""
    keep_pediatric: bool = False
    """Keep images that the table calls pediatric. A child's heart is wide without being enlarged."""
    intensity: Intensity = "percentiles"
    """How 16-bit grey becomes 8-bit: percentiles (the image's own percentiles 0.5 and 99.5 become black and white;
    many detectors have 12 bits, and their images would be nearly black otherwise) or full (0 and 65535 do)."""
    invert_monochrome1: bool = True
    """Invert images that the table calls MONOCHROME1 (low values are white), because the PNG files have the values of
    the DICOM files. A warning counts them: look at some."""

    name = "padchest"
    release = "PadChest"
    example = "cxrdist import padchest --root ~/PadChest --out shards/padchest --size 64 --views PA"
    targets: ClassVar = {
        "cardiomegaly": "Cardiomegaly",
        "pleural effusion": "Pleural Effusion",
        "loculated pleural effusion": "Pleural Effusion",
        "loculated fissural effusion": "Pleural Effusion",
        "empyema": "Pleural Effusion",
        "hemothorax": "Pleural Effusion",
        "pulmonary edema": "Pulmonary Edema",
        "pneumothorax": "Pneumothorax",
    }
    normal = "normal"

    def __post_init__(self) -> None:
        if not self.views:
            raise OptionError("views", f"names none; choose among {', '.join(PROJECTIONS)}")
        for view in self.views:
            check_choice("views", view, PROJECTIONS)
        check_intensity(self.intensity)

    def records(self) -> Iterator[Record]:
        return merged(self._rows())

    def _rows(self) -> Iterator[tuple[str, Record]]:
        root = Path(self.root)
        table = find_table(root, *TABLES)
        in_root = {path.name for path in root.iterdir()}
        for where, row in rows_of(table, ("ImageID", "PatientID", "Projection", "Labels")):
            image = plain_name(cell(row, "ImageID", where), "ImageID", where)
            folder = row.get("ImageDir", "")
            is_flat = image in in_root or not folder
            labels = labels_of(row["Labels"], where)
            findings = [label for label in labels if label not in REMARKS]
            implied = [parent for label in findings for parent in IMPLIED.get(label, ())]
            no_class = None if findings else f"nothing but {' and '.join(labels)}" if labels else "no labels"
            left_out = self._left_out(row, labels) or (no_class if EXCLUDE in labels else None)
            is_inverted = (
                self.invert_monochrome1 and row.get("PhotometricInterpretation_DICOM") == "MONOCHROME1"
            )
            of_image = attributes(
                where,
                patient=cell(row, "PatientID", where),
                view=row["Projection"],
                sex=row.get("PatientSex_DICOM", ""),
                age=_age(row),
            )
            of_image["notes"] = (*((INVERTED,) if is_inverted else ()), *of_image["notes"])
            yield (
                where,
                Record(
                    source_id=image,
                    findings=tuple(dict.fromkeys([*findings, *implied])),
                    uncounted=tuple(label for label in labels if label in REMARKS),
                    left_out=left_out,
                    no_class=None if left_out else no_class,
                    file=image if is_flat else f"{plain_name(folder, 'ImageDir', where)}/{image}",
                    **of_image,
                ),
            )

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        tone = tone_of(self.intensity, is_inverted=INVERTED in record.notes)
        return load_grey(Path(self.root) / record.file, size, fit, tone)

    def _left_out(self, row: Row, labels: tuple[str, ...]) -> str | None:
        if row["Projection"] not in self.views:
            return f"projection {row['Projection'] if row['Projection'] in PROJECTIONS else 'unknown'}"
        # The releases have PED or Yes for pediatric images; No, or an empty cell, for others.
        if not self.keep_pediatric and row.get("Pediatric", "") not in ("", "No"):
            return "pediatric"
        if not self.keep_suboptimal and "suboptimal study" in labels:
            return "suboptimal study"
        return None


def labels_of(text: str, where: str) -> tuple[str, ...]:
    """The labels of a cell such as ``['cardiomegaly', ' pleural effusion']``, without repetition; () if it is empty.

    Raises UserError for a cell that is not a list of texts.
    """
    if text in ("", "nan"):
        return ()
    try:
        labels = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where}: Labels is {text[:60]!r}, not a list such as ['normal']; correct the cell")
    labels = [" ".join(label.split()) for label in labels]
    if not all(label.isprintable() for label in labels):
        raise UserError(f"{where}: Labels has control characters; correct the cell")
    return tuple(dict.fromkeys(label for label in labels if label))


def _age(row: Row) -> str:
    """Age in whole years, right to within a year: only the year of birth is known."""
    years = [row.get(column, "")[:4] for column in ("StudyDate_DICOM", "PatientBirth")]
    if not all(len(year) == 4 and year.isdecimal() and year.isascii() for year in years):
        return ""
    return str(int(years[0]) - int(years[1]))
