"""DICOM radiographs: reads an allow-list of tags, and decodes pixels to 8-bit grey.

pydicom and pylibjpeg come with the optional extra ``dicom`` and are imported when the first DICOM file is read.
"""

from cxrdist.data.imaging.dicom.header import (
    BURNED_IN_POLICIES,
    BurnedInPolicy,
    DicomHeader,
    notes,
    read_header,
    why_left_out,
)
from cxrdist.data.imaging.dicom.pixels import grey_of_dicom
from cxrdist.data.imaging.dicom.reading import HEAD_BYTES, is_dicom

__all__ = [
    "BURNED_IN_POLICIES",
    "HEAD_BYTES",
    "BurnedInPolicy",
    "DicomHeader",
    "grey_of_dicom",
    "is_dicom",
    "notes",
    "read_header",
    "why_left_out",
]
