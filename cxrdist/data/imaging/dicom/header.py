"""What is read of a DICOM file besides its pixels: a white-list of tags, and who is left out for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cxrdist.data.deidentify import told_age
from cxrdist.data.imaging.dicom.reading import read_tags, reading
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.errors import UserError, nearest

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

WHITE_LIST = (
    "PatientID",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "ViewCodeSequence",
    "BurnedInAnnotation",
    "PresentationIntentType",
)
"""All that is ever read. Each but the first can only turn out as one of a few fixed words, or as an age."""

BURNED_IN_POLICIES = ("drop", "strict", "keep")
"""What becomes of images with text in their pixels: ``drop`` leaves out those that say so, ``strict`` all that
do not say NO, ``keep`` none."""

NOT_FOR_PRESENTATION = "not for presentation"
BURNED_IN = "text burned into its pixels"
MAY_BE_BURNED_IN = "not said to be free of burned-in text"
NOTE_BURNED_IN = "text is burned into their pixels, by their own word (BurnedInAnnotation YES)"
NOTE_NOT_SAID = (
    "not said whether text is burned into their pixels (no BurnedInAnnotation): "
    "look at them with `cxrdist shards preview`"
)

_VIEWS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "LLD": "LLD",
    "RLD": "RLD",
    "LLO": "LLO",
    "RLO": "RLO",
}
_VIEW_CODES = {
    # PS3.16 CID 4010, in SNOMED CT and in the SNOMED-RT codes that older files bear.
    "272479007": "PA",
    "R-10214": "PA",
    "R-40888": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
    "399173006": "LATERAL",
    "R-10236": "LATERAL",
    "399198007": "LATERAL",
    "R-10232": "LATERAL",
}
_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
"""How many of each of PatientAge's units make a year."""


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """All that leaves a DICOM file besides its pixels."""

    patient_id: str | None = field(repr=False)
    """PatientID, for nothing but to be hashed with a salt; None where it is absent or empty."""
    view: str | None
    """PA, AP, LATERAL, or a decubitus (LLD, RLD) or oblique (LLO, RLO) view; None for any other word."""
    sex: str | None
    """M or F."""
    age: int | None
    """Whole years; 90 from 90 up. From PatientAge alone: dates are not read."""
    burned_in: bool | None
    """Whether text is burned into the pixels, by the file's own word; None where it does not say."""
    for_presentation: bool | None
    """False for raw detector values (FOR PROCESSING); None where the file does not say."""


def read_header(file: str | PathLike[str] | BinaryIO) -> DicomHeader:
    """The white-listed tags of a DICOM file, without reading a pixel.

    Raises UndecodableImage where the file is missing or is not DICOM, UserError where pydicom is not installed.
    """
    if not isinstance(file, (str, PathLike)):
        with reading():
            return _header(read_tags(file, WHITE_LIST)[0])
    try:
        with Path(file).open("rb") as opened:
            return read_header(opened)
    except (FileNotFoundError, NotADirectoryError):
        raise UndecodableImage("missing", str(file)) from None
    except IsADirectoryError:
        raise UndecodableImage("a folder, not a file", str(file)) from None
    except UndecodableImage as error:
        raise UndecodableImage(error.reason, str(file)) from None


def why_left_out(header: DicomHeader, burned_in: str) -> str | None:
    """The reason for which an image is left out under a policy of ``BURNED_IN_POLICIES``, or None.

    Raises UserError for an unknown policy.
    """
    if burned_in not in BURNED_IN_POLICIES:
        raise UserError(
            f"unknown policy {burned_in!r} for burned-in text{nearest(burned_in, BURNED_IN_POLICIES)}"
        )
    if header.for_presentation is False:
        return NOT_FOR_PRESENTATION
    if header.burned_in and burned_in != "keep":
        return BURNED_IN
    if header.burned_in is None and burned_in == "strict":
        return MAY_BE_BURNED_IN
    return None


def notes(header: DicomHeader) -> tuple[str, ...]:
    """What must be counted and said of an image that is kept: most files do not say whether text is burned in."""
    if header.burned_in is None:
        return (NOTE_NOT_SAID,)
    return (NOTE_BURNED_IN,) if header.burned_in else ()


def _header(tags: Dataset) -> DicomHeader:
    sex = _word(tags, "PatientSex")
    return DicomHeader(
        patient_id=str(tags.get("PatientID") or "").strip() or None,
        view=_VIEWS.get(_word(tags, "ViewPosition")) or _coded_view(tags),
        sex=sex if sex in ("M", "F") else None,
        age=_age_years(_word(tags, "PatientAge")),
        burned_in={"YES": True, "NO": False}.get(_word(tags, "BurnedInAnnotation")),
        for_presentation={"FOR PRESENTATION": True, "FOR PROCESSING": False}.get(
            _word(tags, "PresentationIntentType")
        ),
    )


def _word(tags: Dataset, keyword: str) -> str:
    return str(tags.get(keyword) or "").strip().upper()


def _coded_view(tags: Dataset) -> str | None:
    items = tags.get("ViewCodeSequence")
    return _VIEW_CODES.get(_word(items[0], "CodeValue")) if items else None


def _age_years(text: str) -> int | None:
    """Whole years from "058Y", "013M", "006W" or "009D" (PS3.5, 6.2); None where it cannot be."""
    match = re.fullmatch(r"([0-9]{1,3})([YMWD])", text)
    if match is None:
        return None
    years = int(match[1]) // _YEAR[match[2]]
    return told_age(years)
