"""Reads the allowed tags of a DICOM header, and decides from them which images to exclude."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args

from cxrdist.data.deidentify import capped_age
from cxrdist.data.imaging.dicom.reading import read_tags, reading
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.errors import UserError, nearest

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ALLOWED_TAGS = (
    "PatientID",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "ViewCodeSequence",
    "BurnedInAnnotation",
    "PresentationIntentType",
)
"""The only tags ever read. Apart from PatientID, each is reduced to one of a few fixed values or to an age."""

BurnedInPolicy = Literal["drop", "strict", "keep"]
BURNED_IN_POLICIES = get_args(BurnedInPolicy)
"""How to treat images that may have text burned into their pixels: ``drop`` excludes those with BurnedInAnnotation
YES, ``strict`` all without BurnedInAnnotation NO, ``keep`` none."""

# Manifests keep these texts, and digests hash them: other words would make another set of the same images.
NOT_FOR_PRESENTATION = "not for presentation"
BURNED_IN = "text burned into its pixels"
MAY_BE_BURNED_IN = "not said to be free of burned-in text"
NOTE_BURNED_IN = "text is burned into their pixels, by their own word (BurnedInAnnotation YES)"
NOTE_MAY_BE_BURNED_IN = (
    "not said whether text is burned into their pixels (no BurnedInAnnotation): "
    "look at them with `cxrdist shards preview`"
)

NO_VIEW = "a view that is not understood, left out of its metadata"
NO_SEX = "a sex that is not understood, left out of its metadata"
NO_AGE = "an age that is not understood or not possible, left out of its metadata"

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
    "POSTEROANTERIOR": "PA",
    "POSTERIORANTERIOR": "PA",
    "ANTEROPOSTERIOR": "AP",
    "ANTERIORPOSTERIOR": "AP",
}
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}
_VIEW_CODES = {
    # PS3.16 CID 4010, in SNOMED CT and in the SNOMED-RT codes that older files use.
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
"""Units per year, for each unit of PatientAge."""


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """The metadata taken from a DICOM file."""

    patient_id: str | None = field(repr=False)
    """PatientID, to be hashed with a salt and used for nothing else; None if absent or empty."""
    view: str | None
    """PA, AP, LATERAL, or a decubitus (LLD, RLD) or oblique (LLO, RLO) view; None for any other value."""
    sex: str | None
    """M or F; None for any other value."""
    age: int | None
    """Whole years, capped at 90; from PatientAge only, since dates are not read."""
    burned_in: bool | None
    """Whether text is burned into the pixels, according to BurnedInAnnotation; None if it is neither YES nor NO."""
    unread: tuple[str, ...] = ()
    """Notes on attributes that say something that is not understood."""
    for_presentation: bool | None
    """False for raw detector values (FOR PROCESSING); None if PresentationIntentType is absent or unknown."""


def read_header(file: str | PathLike[str] | BinaryIO) -> DicomHeader:
    """Reads the tags of ``ALLOWED_TAGS`` from a DICOM file; pixels are not read.

    Raises UndecodableImage if the file is missing or is not DICOM, UserError if pydicom is not installed.
    """
    if not isinstance(file, (str, PathLike)):
        with reading():
            return _header(read_tags(file, ALLOWED_TAGS)[0])
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
    """Returns the reason to exclude an image under a policy of ``BURNED_IN_POLICIES``, or None to keep it.

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
    """Returns the notes that the import report counts for an image that is kept."""
    if header.burned_in is None:
        return (NOTE_MAY_BE_BURNED_IN, *header.unread)
    return (*((NOTE_BURNED_IN,) if header.burned_in else ()), *header.unread)


def _header(tags: Dataset) -> DicomHeader:
    position, sex, age = (_text(tags, keyword) for keyword in ("ViewPosition", "PatientSex", "PatientAge"))
    view = _VIEWS.get(re.sub("[ _-]", "", position)) or _coded_view(tags)
    known_sex, years = _SEXES.get(sex), _age_years(age)
    unread = {
        NO_VIEW: position and view is None,
        NO_SEX: known_sex is None and sex not in ("O", ""),
        NO_AGE: age and years is None,
    }
    return DicomHeader(
        patient_id=str(tags.get("PatientID") or "").strip() or None,
        view=view,
        sex=known_sex,
        age=years,
        unread=tuple(note for note, is_unread in unread.items() if is_unread),
        burned_in={"YES": True, "NO": False}.get(_text(tags, "BurnedInAnnotation")),
        for_presentation={"FOR PRESENTATION": True, "FOR PROCESSING": False}.get(
            _text(tags, "PresentationIntentType")
        ),
    )


def _text(tags: Dataset, keyword: str) -> str:
    return str(tags.get(keyword) or "").strip().upper()


def _coded_view(tags: Dataset) -> str | None:
    items = tags.get("ViewCodeSequence")
    return _VIEW_CODES.get(_text(items[0], "CodeValue")) if items else None


def _age_years(text: str) -> int | None:
    """Whole years from "058Y", "013M", "006W" or "009D" (PS3.5, 6.2), or from "58", "58 Y" or "58.0" as many files
    have it; None for any other text."""
    match = re.fullmatch(r"0*([0-9]{1,3})(?:\.0*)? ?([YMWD]?)", text)
    if match is None:
        return None
    years = int(match[1]) // _YEAR[match[2] or "Y"]
    return capped_age(years)
