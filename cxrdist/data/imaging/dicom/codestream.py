"""Reads the image size from the header of a compressed frame, before the frame is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.repairs import repaired

AFTER_END = "bytes after the end of the compressed pixels, which were ignored"
END = b"\xff\xd9"
_JPEG_START, _JPEG2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  "
_START_OF_SCAN, _START_OF_DATA = b"\xff\xda", b"\xff\x93"
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # not DHT, JPG, DAC; F7 is JPEG-LS
_HIERARCHICAL = 0xDE


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One compressed frame."""

    code: bytes
    """The codestream from its first to its last marker, without padding."""
    rows: int
    columns: int
    precision: int
    """Bits per sample."""
    components: int
    is_signed: bool = False
    """True if the codestream says that its samples are signed; JPEG and JPEG-LS never do."""


def kind_of(code: bytes) -> str:
    """What a compressed frame is, by its first bytes: "jpeg" (JPEG or JPEG-LS), "jpeg2000", or "" for others."""
    if code.startswith(_JPEG_START):
        return "jpeg"
    return "jpeg2000" if code.startswith((_JPEG2000_START, _JP2_START)) else ""


def jpeg_frame(code: bytes) -> Frame:
    """Parses the frame header of JPEG (ISO/IEC 10918-1, B.2.2) or JPEG-LS (ISO/IEC 14495-1, C.2.2).

    Raises UndecodableImage if the codestream is incomplete.
    """
    code = _start_to_end(code, _JPEG_START, _START_OF_SCAN)
    at = 2
    while at + 10 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", code, at + 4)
            return Frame(code=code, rows=rows, columns=columns, precision=precision, components=components)
        if marker == _HIERARCHICAL:
            break
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    raise UndecodableImage("truncated or damaged")


def jpeg2000_frame(code: bytes) -> Frame:
    """Parses the SIZ segment of JPEG 2000 (ISO/IEC 15444-1, A.5.1).

    A JP2 container around the codestream is removed: DICOM forbids it, but some software writes it. Raises
    UndecodableImage if the codestream is incomplete.
    """
    code = _start_to_end(code[max(0, code.find(_JPEG2000_START)) :], _JPEG2000_START, _START_OF_DATA)
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    components, depth = struct.unpack_from(">HB", code, 40)
    return Frame(
        code=code,
        rows=bottom - top,
        columns=right - left,
        precision=(depth & 0x7F) + 1,
        components=components,
        is_signed=depth >= 0x80,
    )


def _start_to_end(code: bytes, start: bytes, data: bytes) -> bytes:
    """Removes what follows a codestream.

    Raises UndecodableImage if the start or end marker is missing: decoders return a partial image for a truncated
    codestream and report no error. The end comes after the last ``data``, the marker that the samples follow: other
    codestreams, of a thumbnail for example, may lie before it. Compressed samples never look like a marker.
    """
    code = code.rstrip(b"\0\xff")
    end = code.rfind(END)
    if not code.startswith(start) or end < max(code.rfind(data), 0):
        raise UndecodableImage("truncated or damaged")
    if end + len(END) < len(code):
        repaired(AFTER_END)
    return code[: end + len(END)]
