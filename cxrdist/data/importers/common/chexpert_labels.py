"""What CheXpert and MIMIC-CXR-JPG share: 14 observations that the CheXpert labeler read from a report.

A cell is 1 (positive), 0 (negative), -1 (uncertain) or empty (not mentioned, which counts as negative): Irvin et
al., AAAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

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
UncertainWay = Literal["drop", "zero", "one"]
UNCERTAIN_WAYS = get_args(UncertainWay)
Views = Literal["frontal", "lateral", "all"]
VIEWS = get_args(Views)
UNCERTAIN_FINDING = "uncertain finding"

_VALUES = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1, "": 0}


class Labels(NamedTuple):
    """One row of labels, as the fields of a Record; a finding that stays uncertain is ``Pneumonia (uncertain)``."""

    findings: tuple[str, ...]
    uncounted: tuple[str, ...]
    no_class: str | None


@dataclass(frozen=True, kw_only=True)
class CheXpertLabelled(FileImporter):
    """A source whose tables have the 14 observations as columns."""

    views: Views = "frontal"
    """Views to keep: frontal, lateral or all."""
    uncertain: UncertainWay = "drop"
    """How uncertain findings (-1) count: zero (negative), one (positive) or drop (an image with an uncertain target
    is left out; any other uncertain finding counts as a finding beside the target, as in the labeler's own No
    Finding)."""
    count_unspecific: bool = False
    """Count Enlarged Cardiomediastinum, Lung Opacity and Support Devices as findings: then they exclude an image
    under --label-rule strict, and an image with No Finding beside one of them is not Normal. By default they do not
    count: the first two are parents of Cardiomegaly and Edema in the tree of labels, and a device is no disease (the
    labeler reports No Finding beside one)."""

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
        """The labels of a row. Raises UserError for a cell with any other value than 1, 0, -1 and empty."""
        values = {name: self._value(row, name, where) for name in OBSERVATIONS}
        positive = {name for name, value in values.items() if value == 1}
        found = {name: name for name in OBSERVATIONS if name in positive}
        no_class = None
        if self.uncertain == "drop":
            uncertain = [name for name, value in values.items() if value == -1]
            found |= {name: f"{name} (uncertain)" for name in uncertain}
            if any(name in self.targets or name == NO_FINDING for name in uncertain):
                no_class = UNCERTAIN_FINDING
        # An opacity contradicts No Finding, so it counts there: the image is not a clean normal one.
        uncounted = () if self.count_unspecific else (DEVICES,) if NO_FINDING in positive else UNSPECIFIC
        return Labels(
            findings=tuple(text for name, text in found.items() if name not in uncounted),
            uncounted=tuple(text for name, text in found.items() if name in uncounted),
            no_class=no_class,
        )

    def _value(self, row: Row, name: str, where: str) -> int:
        if row[name] not in _VALUES:
            raise UserError(
                f"{where}: {name} is {row[name]!r}, neither 1, 0, -1 nor empty; download the table again"
            )
        value = _VALUES[row[name]]
        return {"drop": -1, "zero": 0, "one": 1}[self.uncertain] if value == -1 else value

    def left_out_view(self, view: str) -> str | None:
        """Why an image of a "frontal", "lateral" or other view is left out; None if it is kept."""
        return None if self.views in ("all", view) else f"{view} view"
