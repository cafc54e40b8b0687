"""DICOM files for tests: built with pydicom, and full of things that must never come out."""

from __future__ import annotations

import io
import itertools
import warnings
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SECRETS = ("Doe", "Jane", "MRN4711", "19581103", "Mercy", "ACC9", "1.2.826.0.1.77")
"""Parts of the identifying values that every file built here bears."""

DX_IMAGE = "1.2.840.10008.5.1.4.1.1.1.1"


def dicom_file(
    pixels: np.ndarray,
    syntax: str = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    bits_stored: int | None = None,
    pixel_vr: str = "OW",
    **values: Any,
) -> bytes:
    """A DX image of [H, W] integer pixels; ``frame`` is the same compressed. ``values`` are further elements, by
    keyword; None takes one away."""
    bits = pixels.dtype.itemsize * 8
    stored = bits if bits_stored is None else bits_stored
    data = Dataset()
    data.SOPClassUID = DX_IMAGE
    data.SOPInstanceUID = data.StudyInstanceUID = "1.2.826.0.1.77"
    data.PatientName = "Doe^Jane"
    data.PatientID = "MRN4711"
    data.PatientBirthDate = data.StudyDate = "19581103"
    data.InstitutionName = "Mercy Hospital"
    data.AccessionNumber = "ACC9"
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = bits
    data.BitsStored = stored
    data.HighBit = stored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    is_little_endian = syntax != ExplicitVRBigEndian
    if frame is not None:
        data.PixelData = encapsulate([frame])
        data["PixelData"].is_undefined_length = True
    else:
        words = pixels.astype(pixels.dtype.newbyteorder("<" if is_little_endian else ">")).tobytes()
        words += b"\0" * (len(words) % 2)
        if not is_little_endian and bits == 8 and pixel_vr == "OW":
            # Two pixels make a word, the first its lower half (PS3.5, annex D): on disk they change places.
            words = np.frombuffer(words, "<u2").astype(">u2").tobytes()
        data.PixelData = words
    data["PixelData"].VR = "OB" if frame is not None else pixel_vr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong values are what some tests are about
        for keyword, value in values.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        data,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=is_little_endian,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def item(**values: Any) -> Dataset:
    """An item of a sequence."""
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def lut(descriptor: list[int], entries: list[int] | bytes) -> Dataset:
    """A lookup table; ``bytes`` are written as OW, as they are."""
    table = item(LUTDescriptor=descriptor, LUTData=entries)
    table["LUTDescriptor"].VR = "US" if descriptor[1] >= 0 else "SS"
    table["LUTData"].VR = "OW" if isinstance(entries, bytes) else "US"
    return table


def jpeg_lossless(pixels: np.ndarray, precision: int, predictor: int = 1) -> bytes:
    """[H, W] unsigned as lossless JPEG, process 14 (ISO/IEC 10918-1, annex H): each sample's difference from its
    neighbour on the left (predictor 1) or above (2), as the number of its bits and those bits."""
    image = pixels.astype(int)
    bits = ""
    for row, column in itertools.product(*map(range, image.shape)):
        if row == column == 0:
            predicted = 1 << (precision - 1)
        elif row == 0 or (column > 0 and predictor == 1):
            predicted = image[row, column - 1]
        else:
            predicted = image[row - 1, column]
        difference = int((image[row, column] - predicted + 0x8000) % 0x10000 - 0x8000)
        length = abs(difference).bit_length()
        bits += f"{length:05b}"
        if 0 < length < 16:
            bits += f"{difference if difference > 0 else difference + (1 << length) - 1:0{length}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    size = image.shape[0].to_bytes(2, "big") + image.shape[1].to_bytes(2, "big")
    # One Huffman table whose 17 codes, of 5 bits each, are the lengths themselves.
    huffman = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3\0\x0b" + bytes([precision]) + size + b"\x01\x01\x11\0",
            b"\xff\xc4" + (2 + len(huffman)).to_bytes(2, "big") + huffman,
            b"\xff\xda\0\x08\x01\x01\0" + bytes([predictor]) + b"\0\0",
            scan,
            b"\xff\xd9",
        ]
    )
