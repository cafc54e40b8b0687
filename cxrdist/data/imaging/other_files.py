"""Files that are no PNG, JPEG or DICOM: what they are, and what to do about them."""

from __future__ import annotations

import re

GZIP = "compressed with gzip"
UNKNOWN = "not an image of a known format"
_CONVERT = "convert them to PNG, 16-bit grey ones with all their bits"
ADVICE = {
    "a TIFF image": _CONVERT,
    "a BMP image": _CONVERT,
    "a GIF image": _CONVERT,
    "a WebP image": _CONVERT,
    "a JPEG 2000 image": _CONVERT,
    "a JPEG of 12 bits": _CONVERT,
    "a JPEG of 16 bits": _CONVERT,
    "a PNG that was copied as text": "copy or download them again, in binary mode",
    "a NIfTI volume": "export its images as PNG",
    "a PDF": "export its images as PNG",
    "a pointer of Git LFS": "fetch the files with `git lfs pull`",
    "a web page": "download it again: the server sent a page, perhaps for a login",
    "a ZIP archive or an Excel workbook": "unpack it; or save the workbook as CSV in UTF-8",
    GZIP: "decompress it with `gunzip`",
}
"""What a file is -> what to do. Manifests record the keys."""
_STARTS = (
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x89PNG", "a PNG that was copied as text"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"%PDF-", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\x1f\x8b", GZIP),
)
_WEB_PAGE = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html|head|script)[\s>]", re.IGNORECASE)
_BMP_UNUSED = slice(6, 10)
TEXTS = frozenset(("a PDF", "a pointer of Git LFS", "a web page", GZIP))
"""Kinds that are known by a longer text, or by bytes that no text has. The others hold a zero byte early on."""
_NIFTI_MAGIC_AT = 344


def kind_of_file(data: bytes) -> str | None:
    """What a file that is no PNG is by its first bytes, a key of ``ADVICE``; None if they do not say."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP image"
    if data.startswith(b"BM") and data[_BMP_UNUSED] == bytes(4):
        return "a BMP image"
    if data[_NIFTI_MAGIC_AT : _NIFTI_MAGIC_AT + 4] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume"
    if _WEB_PAGE.match(data[:512].removeprefix(b"\xef\xbb\xbf")):
        return "a web page"
    return next((kind for start, kind in _STARTS if data.startswith(start)), None)
