"""Numbers of a DICOM header that may be written as text, also as text that the standard forbids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxrdist.data.imaging.repairs import repaired

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DECIMAL_COMMA = "number with a decimal comma in the header"
NOT_A_NUMBER = "text in the header where a number belongs, which was ignored"


def first_number(tags: Dataset, keyword: str) -> float | None:
    """The first number of an element; None if it is absent, empty or no number (noted).

    pydicom converts text when it is asked for a value, and raises for text that is no number: so that is read as the
    bytes of the file.
    """
    if keyword not in tags:
        return None
    element = tags.get_item(keyword)
    assert element is not None
    value = element.value
    is_text = element.VR in ("DS", "IS") or (element.VR is None and keyword in TEXT_NUMBERS)
    if not (is_text and isinstance(value, bytes)):
        value = tags.get(keyword)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0] if value else None
        return None if value is None or value == "" else _number(str(value))
    return _number(value.decode("ascii", "replace").split("\\")[0].strip(" \0"))


TEXT_NUMBERS = ("RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth")
"""Elements of value representation DS, which files of implicit value representation do not say."""


def _number(text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        repaired(NOT_A_NUMBER)
        return None
    repaired(DECIMAL_COMMA)
    return number
