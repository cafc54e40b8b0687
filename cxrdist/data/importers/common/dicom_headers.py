"""What DICOM files say of themselves, added to the records of a source that may hold some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cxrdist.data.imaging.dicom import BURNED_IN_POLICIES, DicomHeader, notes, read_header, why_left_out
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common.base import Record
from cxrdist.errors import check_choice

NOTE_ONE_PATIENT = (
    "all DICOM files bear one PatientID, which tells nobody apart: each counts as a patient of its own"
)


def check_burned_in(policy: str) -> None:
    """Raises OptionError for a policy that is none of ``BURNED_IN_POLICIES``."""
    check_choice("burned_in", policy, BURNED_IN_POLICIES)


def with_header(record: Record, root: Path, burned_in: str) -> Record:
    """The record with what its DICOM file says where the source says nothing; who is left out, and notes.

    No pixel is read. A file that is missing or no DICOM leaves the record as it is. ``burned_in`` is a policy of
    ``BURNED_IN_POLICIES``. Raises UserError where pydicom is not installed.
    """
    try:
        header = read_header(root / record.file)
    except UndecodableImage:
        return record
    return with_said(record, header, burned_in)


def with_said(record: Record, header: DicomHeader, burned_in: str) -> Record:
    """``with_header`` of a header that has been read."""
    return replace(
        record,
        patient_id=record.patient_id or header.patient_id or "",
        view=record.view or header.view,
        sex=record.sex or header.sex,
        age=header.age if record.age is None else record.age,
        left_out=record.left_out or why_left_out(header, burned_in),
        notes=(*record.notes, *notes(header)),
    )


def described(said: Iterable[tuple[Record, DicomHeader | None]], burned_in: str) -> Iterator[Record]:
    """The records with what their DICOM headers say where the source says nothing; None for any other file.

    A PatientID that all of them bear is taken for the work of an anonymizer, and names nobody.
    """
    before, after = [], []
    for record, header in said:
        before.append(record)
        after.append(record if header is None else with_said(record, header, burned_in))
    named = [new.patient_id for old, new in zip(before, after) if new.patient_id != old.patient_id]
    tells_nothing = len(named) > 1 and len(set(named)) == 1
    for old, new in zip(before, after):
        if tells_nothing and new.patient_id != old.patient_id:
            yield replace(new, patient_id=old.patient_id, notes=(*new.notes, NOTE_ONE_PATIENT))
        else:
            yield new
