"""What the .json and .cls members of external tars say: the fields of a sample, its label and its patient."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from cxrdist.data.importers.common.attributes import class_name
from cxrdist.data.importers.common.texts import letters_of, plain_text
from cxrdist.errors import is_plain

PATIENT_FIELDS = ("patient_id", "patient")
"""Names of the patient in a .json; the second is that of sets that cxrdist wrote."""


# Recorded in manifests.
SEVERAL_PATIENTS = (
    "several fields that may be the patient, such as PatientID and Patient ID; see --patient-field"
)


def patient_field_of(values: dict[str, Any]) -> str | None:
    """The name of the field with the patient: one of ``PATIENT_FIELDS``, or nearly one, such as PatientID; None if
    several are, and say different things."""
    told = [name for name, value in values.items() if value not in (None, "")]
    for known in PATIENT_FIELDS:
        alike = [name for name in told if letters_of(name) == letters_of(known)]
        if known in told:
            return known
        if alike:
            return alike[0] if all(values[name] == values[alike[0]] for name in alike) else None
    return PATIENT_FIELDS[0]


def label_of(value: Any) -> str | None:
    """The class that a label names: text, a number, or JSON of either, in a list of its own or as one of several
    numbers that is 1 (one-hot). "" or None for anything else."""
    if isinstance(value, str) and value.strip()[:1] in ("[", '"'):
        with contextlib.suppress(ValueError, RecursionError):  # of a name that begins so
            value = json.loads(value)
    if isinstance(value, list):
        if len(value) == 1:
            value = value[0]
        elif all(number in (0, 1) for number in value) and value.count(1) == 1:
            value = value.index(1)
        else:
            return None
    text = text_of(value)
    return None if text is None else class_name(text)


def fields_of(data: bytes | None) -> dict[str, Any] | None:
    """The fields of a .json; None if it is no JSON object. A number, a text or a list of some alone is the label."""
    if data is None:
        return {}
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    alone = values if isinstance(values, list) and values else [values]
    if all(isinstance(value, int | float | str) for value in alone):
        return {"label": values}
    return values if isinstance(values, dict) else None


def text_of(value: Any) -> str | None:
    """Text, stripped, from text or a whole number; "" from nothing; None from anything else."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables with gaps write 17 as 17.0
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    return plain_text(value) if is_plain(value.strip()) else None
