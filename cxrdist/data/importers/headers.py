"""What DICOM files say of themselves, added to the records of a source whose images are DICOM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cxrdist.data.dicom import BURNED_IN_POLICIES, notes, read_header, why_left_out
from cxrdist.data.images import UndecodableImage
from cxrdist.data.importers.base import Record
from cxrdist.errors import UserError, nearest


def check_burned_in(policy: str) -> None:
    """Raises UserError for a policy that is none of ``BURNED_IN_POLICIES``."""
    if policy not in BURNED_IN_POLICIES:
        raise UserError(f"--burned-in {policy}: unknown{nearest(policy, BURNED_IN_POLICIES)}")


def with_header(record: Record, root: Path, burned_in: str) -> Record:
    """The record with what its DICOM file says where the source says nothing; who is left out, and notes.

    No pixel is read. A file that is missing or no DICOM leaves the record as it is. ``burned_in`` is a policy of
    ``BURNED_IN_POLICIES``. Raises UserError where pydicom is not installed.
    """
    try:
        header = read_header(root / record.file)
    except UndecodableImage:
        return record
    return replace(
        record,
        patient_id=record.patient_id or header.patient_id or "",
        view=record.view or header.view,
        sex=record.sex or header.sex,
        age=header.age if record.age is None else record.age,
        left_out=record.left_out or why_left_out(header, burned_in),
        notes=(*record.notes, *notes(header)),
    )
