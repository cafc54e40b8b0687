"""Reads the image size from the header of a compressed frame, before the frame is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cxrdist.data.imaging.errors import UndecodableImage

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


def jpeg_frame(code: bytes) -> Frame:
    """Parses the frame header of JPEG (ISO/IEC 10918-1, B.2.2) or JPEG-LS (ISO/IEC 14495-1, C.2.2).

    Raises UndecodableImage if the codestream is incomplete.
    """
    code = _start_to_end(code, b"\xff\xd8")
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
    code = _start_to_end(code[max(0, code.find(b"\xff\x4f\xff\x51")) :], b"\xff\x4f\xff\x51")
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    components, depth = struct.unpack_from(">HB", code, 40)
    return Frame(
        code=code,
        rows=bottom - top,
        columns=right - left,
        precision=(depth & 0x7F) + 1,
        components=components,
    )


def _start_to_end(code: bytes, start: bytes) -> bytes:
    """Removes the padding after a codestream.

    Raises UndecodableImage if the start or end marker is missing: decoders return a partial image for a truncated
    codestream and report no error.
    """
    code = code.rstrip(b"\0\xff")
    if not code.startswith(start) or not code.endswith(b"\xff\xd9"):
        raise UndecodableImage("truncated or damaged")
    return code
