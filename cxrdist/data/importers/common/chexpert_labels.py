"""What CheXpert and MIMIC-CXR-JPG share: 14 observations, read from a report by the CheXpert labeler.

A cell is 1 (positive), 0 (negative), -1 (uncertain) or empty (not mentioned, which counts as negative): Irvin et
al., AAAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from cxrdist.data.importers.common.base import FileImporter
from cxrdist.data.importers.common.tables import Row
from cxrdist.errors import UserError, check_choice

NO_FINDING = "No Finding"
DEVICES = "Support Devices"
UNSPECIFIC = ("Enlarged Cardiomediastinum", "Lung Opacity", DEVICES)
OBSERVATIONS = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    DEVICES,
)
UNCERTAIN_WAYS = ("drop", "zero", "one")
VIEWS = ("frontal", "lateral", "all")
UNCERTAIN_FINDING = "uncertain finding"

_VALUES = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1, "": 0}


class Labels(NamedTuple):
    """One row of labels, as a Record says them; an uncertain one that counts is ``Pneumonia (uncertain)``."""

    findings: tuple[str, ...]
    uncounted: tuple[str, ...]
    left_out: str | None


@dataclass(frozen=True, kw_only=True)
class CheXpertLabelled(FileImporter):
    """A source whose tables hold the 14 observations."""

    views: str = "frontal"
    """frontal, lateral or all."""
    uncertain: str = "drop"
    """What an uncertain finding (-1) is: drop (where it is a target, the image is left out; any other counts as a
    finding beside the target, as it does for the labeler's own No Finding), zero (negative) or one (positive)."""
    count_unspecific: bool = False
    """Count Enlarged Cardiomediastinum, Lung Opacity and Support Devices as other findings: beside a target under
    --label-rule strict, and beside No Finding, which then is not Normal. By default they do not count: the first two
    are the parents of Cardiomegaly and Edema among the labels, so they come with them, and a device is no disease:
    the labeler itself says No Finding beside one."""

    targets: ClassVar = {
        "Cardiomegaly": "Cardiomegaly",
        "Pleural Effusion": "Pleural Effusion",
        "Edema": "Pulmonary Edema",
        "Pneumothorax": "Pneumothorax",
    }
    normal = NO_FINDING

    def __post_init__(self) -> None:
        check_choice("views", self.views, VIEWS)
        check_choice("uncertain", self.uncertain, UNCERTAIN_WAYS)

    def labels_of(self, row: Row, where: str) -> Labels:
        """Raises UserError for a cell that is none of the four."""
        values = {name: self._value(row, name, where) for name in OBSERVATIONS}
        said = {name for name, value in values.items() if value == 1}
        found = {name: name for name in OBSERVATIONS if name in said}
        left_out = None
        if self.uncertain == "drop":
            doubtful = [name for name, value in values.items() if value == -1]
            found |= {name: f"{name} (uncertain)" for name in doubtful}
            if any(name in self.targets or name == NO_FINDING for name in doubtful):
                left_out = UNCERTAIN_FINDING
        # An opacity beside No Finding would be a contradiction, and such an image is not a clean normal one.
        uncounted = () if self.count_unspecific else (DEVICES,) if NO_FINDING in said else UNSPECIFIC
        return Labels(
            findings=tuple(text for name, text in found.items() if name not in uncounted),
            uncounted=tuple(text for name, text in found.items() if name in uncounted),
            left_out=left_out,
        )

    def _value(self, row: Row, name: str, where: str) -> int:
        if row[name] not in _VALUES:
            raise UserError(
                f"{where}: {name} is {row[name]!r}, neither 1, 0, -1 nor empty; download the table again"
            )
        value = _VALUES[row[name]]
        return {"drop": -1, "zero": 0, "one": 1}[self.uncertain] if value == -1 else value

    def left_out_view(self, view: str) -> str | None:
        """Why an image is left out that shows a "frontal", "lateral" or other view; None where it is not."""
        return None if self.views in ("all", view) else f"{view} view"
