"""View, sex, age and patient of a radiograph, from the free text of tables and JSON; what cannot be read is noted."""

from __future__ import annotations

import re
from typing import TypedDict

from cxrdist.data.deidentify import capped_age
from cxrdist.data.imaging.dicom.header import NO_AGE, NO_SEX, NO_VIEW
from cxrdist.errors import UserError

_VIEW_WORD = (
    "PA|AP|L|R|LL|RL|LAT|LATERAL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|FRONTAL|POSTEROANTERIOR|ANTEROPOSTERIOR|LEFT|RIGHT|"
    "AXIAL|LORDOTIC|OBLIQUE|DECUBITUS|HORIZONTAL|SUPINE|ERECT|UPRIGHT|SITTING|PORTABLE|XTABLE|SWIMMERS|COSTAL"
)
_VIEW = re.compile(rf"(?:{_VIEW_WORD})(?:[ _-](?:{_VIEW_WORD}))*")
_LONG_VIEWS = {
    "POSTEROANTERIOR": "PA",
    "POSTERO-ANTERIOR": "PA",
    "POSTERIOR-ANTERIOR": "PA",
    "POSTERIOR ANTERIOR": "PA",
    "ANTEROPOSTERIOR": "AP",
    "ANTERO-POSTERIOR": "AP",
    "ANTERIOR-POSTERIOR": "AP",
    "ANTERIOR POSTERIOR": "AP",
}
_SEX = {"M": "M", "MALE": "M", "MAN": "M", "F": "F", "FEMALE": "F", "WOMAN": "F"}
_AGE = re.compile(
    r"([0-9]{1,4})(?:[.,][0-9]*)? ?(?:(Y|YR|YRS|YEAR|YEARS)|(M|MO|MONTHS?)|(W|WEEKS?)|(D|DAYS?))?\.?"
)
_PER_YEAR = (1, 12, 52, 365)
UNKNOWN = frozenset(
    ("", "NAN", "NONE", "NULL", "NA", "N/A", "<NA>", "NAT", "-", "--", "?", "UNKNOWN", "UNSPECIFIED")
)
"""What tables write, in capitals, where they know nothing."""
_NO_CLASS = frozenset(("NAN", "NULL", "<NA>", "#N/A", "NAT"))
"""Those of ``UNKNOWN`` that no class is named after."""
_OTHER_SEX = frozenset(("O", "OTHER", "U", "X", "D", "DIVERSE"))
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+?[0-9]+")

NO_PATIENT = "nan, none or the like in place of a patient: each counts as a patient of its own"


class Attributes(TypedDict):
    """Fields of a Record."""

    patient_id: str
    view: str | None
    sex: str | None
    age: int | None
    notes: tuple[str, ...]


def attributes(where: str, *, patient: str = "", view: str = "", sex: str = "", age: str = "") -> Attributes:
    """Texts of a source as fields of a ``Record``. Texts that say something that is not understood are noted.

    Raises UserError, beginning with ``where``, for the name of a patient that stands for several.
    """
    found: Attributes = {
        "patient_id": patient_name(patient, where),
        "view": view_of(view),
        "sex": sex_of(sex),
        "age": age_years(age),
        "notes": (),
    }
    notes = []
    if found["view"] is None and not is_unknown(view):
        notes.append(NO_VIEW)
    if found["sex"] is None and not is_unknown(sex) and sex.strip().upper() not in _OTHER_SEX:
        notes.append(NO_SEX)
    if found["age"] is None and not is_unknown(age):
        notes.append(NO_AGE)
    if patient.strip() and not found["patient_id"]:
        notes.append(NO_PATIENT)
    return {**found, "notes": tuple(notes)}


def is_unknown(text: str) -> bool:
    """True for "", "nan" and other ways to say nothing."""
    return text.strip().upper() in UNKNOWN


def view_of(text: str) -> str | None:
    """The projection in capitals, such as PA or AP_HORIZONTAL, if the text has such words alone; None otherwise."""
    upper = text.strip().upper()
    return _LONG_VIEWS.get(upper) or (upper if _VIEW.fullmatch(upper) else None)


def sex_of(text: str) -> str | None:
    """M or F, from texts such as "M", "male" or "Female"; None for anything else."""
    return _SEX.get(text.strip().upper())


def age_years(text: str) -> int | None:
    """Age in whole years from texts such as "58", "58.0", "58y", "58 years", "058Y", "013M" or "009D"; None for
    anything else."""
    match = _AGE.fullmatch(text.strip().upper())
    if match is None:
        return None
    per_year = next((count for unit, count in zip(match.groups()[1:], _PER_YEAR) if unit), 1)
    return capped_age(int(match[1]) // per_year)


def patient_name(text: str, where: str) -> str:
    """The source's name of a patient; "" if it names none. A whole number is written without a fraction, since
    pandas writes 17 as 17.0 into columns with gaps.

    Raises UserError for a number that a spreadsheet shortened: it may stand for several patients.
    """
    text = text.strip()
    if is_unknown(text):
        return ""
    if _SHORTENED.fullmatch(text):
        raise UserError(
            f"{where}: the patient {text!r} is a number that a spreadsheet shortened, so patients cannot be told "
            "apart: save that column as text"
        )
    return _whole(text)


def class_name(text: str) -> str:
    """The name of a class; "" for nan and the like. A whole number is written without a fraction, as that of a
    patient, so that 1 and 1.0 are one class."""
    text = text.strip()
    return "" if text.upper() in _NO_CLASS else _whole(text)


def _whole(text: str) -> str:
    number, _, fraction = text.partition(".")
    return number if number.isdecimal() and fraction and not fraction.strip("0") else text
