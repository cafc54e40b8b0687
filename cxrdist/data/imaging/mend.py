"""PNG and JPEG files whose pixels are whole, though something beside the pixels is not: a copy that decodes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from cxrdist.data.imaging.errors import MAX_PIXELS
from cxrdist.data.imaging.repairs import repaired

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
WRONG_CHECKSUM = "wrong checksum of a PNG chunk beside the pixels, which was ignored"
WRONG_SUM_OF_PIXELS = "wrong checksum of the compressed pixels of a PNG, all of which are there"
NO_END_CHUNK = "no IEND chunk at the end of a PNG"
NO_END_MARKER = "no end marker at the end of a JPEG"
METADATA_IGNORED = "metadata that cannot be read, which was ignored"

_END_CHUNK = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_END_MARKER = b"\xff\xd9"
_JFIF, _ADOBE, _LAST_APP, _COMMENT = 0xE0, 0xEE, 0xEF, 0xFE
_START_OF_SCAN = 0xDA
_SUM_BYTES, _PIECE_BYTES = 4, 2**16
_MOST_UNPACKED_BYTES = 8 * MAX_PIXELS + 2**24
"""Of 16 bits with colour and transparency, and a byte for each row."""
_SEQUENTIAL = (0xC0, 0xC1)


def mended(data: bytes) -> bytes | None:
    """A copy of a file that does not decode, without its metadata and with its end; None if that cannot help.

    The repairs are noted. The caller decodes the copy; it may fail as well.
    """
    if data.startswith(PNG_MAGIC):
        return _mended_png(data)
    if data.startswith(JPEG_MAGIC):
        return _mended_jpeg(data)
    return None


def _mended_png(data: bytes) -> bytes:
    """Without ancillary chunks (PNG specification, 5.4), but for a transparency that is whole, and with the right
    checksum of the compressed pixels."""
    kept, last = [PNG_MAGIC], b""
    for kind, chunk in _with_right_sum([*_chunks(data)]):
        last = kind
        is_ancillary = bool(kind[0] & 0x20)
        is_whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if not is_ancillary or (kind == b"tRNS" and is_whole):
            kept.append(chunk)
        elif not is_whole:
            repaired(WRONG_CHECKSUM)
        else:
            repaired(METADATA_IGNORED)
    if last != b"IEND":
        repaired(NO_END_CHUNK)
        kept.append(_END_CHUNK)
    return b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The type and the bytes of each whole chunk, to IEND or the end of the file."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield kind, data[at:end]
        if kind == b"IEND":
            return
        at = end


def _with_right_sum(chunks: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The chunks; the pixels with the checksum of zlib (RFC 1950) that they have, if each chunk of them is whole."""
    places = [i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT"]
    bodies = [chunks[i][1] for i in places]
    if not all(zlib.crc32(c[4:-4]) == int.from_bytes(c[-4:], "big") for c in bodies):
        return chunks  # the pixels may be damaged
    packed = b"".join(c[8:-4] for c in bodies)
    sum_of_all = _sum_of(packed)
    if sum_of_all is None or packed[-4:] == sum_of_all:
        return chunks
    repaired(WRONG_SUM_OF_PIXELS)
    body = b"IDAT" + packed[:-4] + sum_of_all
    whole = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    others = [chunk for i, chunk in enumerate(chunks) if i not in places]
    return [*others[: places[0]], (b"IDAT", whole), *others[places[0] :]]


def _sum_of(packed: bytes) -> bytes | None:
    """The checksum that belongs at the end of packed pixels; None if they do not end just before it, or are more than
    the largest image has."""
    stream, total, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), zlib.adler32(b""), 0
    try:
        for at in range(2, len(packed), _PIECE_BYTES):
            piece = stream.decompress(packed[at : at + _PIECE_BYTES])
            total, unpacked = zlib.adler32(piece, total), unpacked + len(piece)
            if unpacked > _MOST_UNPACKED_BYTES:
                return None
            if stream.eof:
                left = len(stream.unused_data) + max(0, len(packed) - at - _PIECE_BYTES)
                return total.to_bytes(4, "big") if left == _SUM_BYTES else None
    except zlib.error:
        pass
    return None


def _mended_jpeg(data: bytes) -> bytes | None:
    """Without comments and application segments, but for those that say how colours are stored (JFIF, Adobe)."""
    kept, at, components = [data[:2]], 2, 0
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] != _START_OF_SCAN:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SEQUENTIAL:
            components = data[at + 9]
        if marker == _COMMENT or (_JFIF < marker <= _LAST_APP and marker != _ADOBE):
            repaired(METADATA_IGNORED)
        else:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    scans = data[at:]
    if not scans.endswith(_END_MARKER):
        # Of a file of several scans, a progressive one for example, whole scans may be missing as well.
        is_one_scan = components and scans[4:5] == bytes([components])
        scans += _END_MARKER
        if not is_one_scan or not _has_all_pixels(b"".join([*kept, scans])):
            return None
        repaired(NO_END_MARKER)
    return b"".join([*kept, scans])


def _has_all_pixels(data: bytes) -> bool:
    """Whether the end marker comes after the last pixel: Pillow fills missing ones with grey, and says nothing."""
    import simplejpeg  # here, since only damaged JPEGs need it

    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError:
        return False
    return True
