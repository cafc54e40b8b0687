"""Records of sources that may hold DICOM files, completed from the files' headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cxrdist.data.imaging.dicom import BURNED_IN_POLICIES, DicomHeader, notes, read_header, why_left_out
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common.base import Record
from cxrdist.errors import check_choice

# Recorded in manifests: changing it changes their digests.
NOTE_ONE_PATIENT = (
    "all DICOM files bear one PatientID, which tells nobody apart: each counts as a patient of its own"
)


def check_burned_in(policy: str) -> None:
    """Raises OptionError for a policy that is none of ``BURNED_IN_POLICIES``."""
    check_choice("burned_in", policy, BURNED_IN_POLICIES)


def with_header(record: Record, root: Path, burned_in: str) -> Record:
    """``with_attributes`` of the header of the record's file.

    No pixel is read. The record is unchanged if the file is missing or not DICOM. Raises UserError if pydicom is not
    installed.
    """
    try:
        header = read_header(root / record.file)
    except UndecodableImage:
        return record
    return with_attributes(record, header, burned_in)


def with_attributes(record: Record, header: DicomHeader, burned_in: str) -> Record:
    """The record with patient, view, sex and age from a DICOM header as far as the source leaves them unknown.

    The header may also leave the image out, or add notes. ``burned_in`` is a policy of ``BURNED_IN_POLICIES``.
    """
    return replace(
        record,
        patient_id=record.patient_id or header.patient_id or "",
        view=record.view or header.view,
        sex=record.sex or header.sex,
        age=header.age if record.age is None else record.age,
        left_out=record.left_out or why_left_out(header, burned_in),
        notes=(*record.notes, *notes(header)),
    )


def described(read: Iterable[tuple[Record, DicomHeader | None]], burned_in: str) -> Iterator[Record]:
    """``with_attributes`` of all records; the header is None for a file that is not DICOM.

    If all DICOM files have one PatientID, an anonymizer wrote it: it is ignored, and noted.
    """
    before, after = [], []
    for record, header in read:
        before.append(record)
        after.append(record if header is None else with_attributes(record, header, burned_in))
    named = [new.patient_id for old, new in zip(before, after) if new.patient_id != old.patient_id]
    is_constant = len(named) > 1 and len(set(named)) == 1
    for old, new in zip(before, after):
        if is_constant and new.patient_id != old.patient_id:
            yield replace(new, patient_id=old.patient_id, notes=(*new.notes, NOTE_ONE_PATIENT))
        else:
            yield new
