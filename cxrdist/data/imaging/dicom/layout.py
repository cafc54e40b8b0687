"""The pixel format that a DICOM header declares, checked before a pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxrdist.data.imaging.dicom.numbers import first_number
from cxrdist.data.imaging.errors import MAX_PIXELS, UndecodableImage
from cxrdist.data.imaging.repairs import repaired

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COLOUR = "colour, not grey"
IN_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
LAYOUT_TAGS = (
    "BurnedInAnnotation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
OVERLAY_BITS = tuple(range(0x60000102, 0x60200102, 0x20000))
"""The tags OverlayBitPosition, one for each of 16 overlays."""
NO_FRAMES = "number of frames 0, read as 1"
BITS_STORED = "BitsStored absent or not possible, read as BitsAllocated"
HIGH_BIT = "HighBit not possible, read as BitsStored - 1"
REPRESENTATION = "PixelRepresentation neither 0 nor 1, read as 0 (unsigned)"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The pixel format of a data set (PS3.5, 8.1.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    overlay_bits: int
    """The bits above HighBit that hold overlays, by the header: 1 << each."""
    is_colour: bool
    interpretation: str
    """PhotometricInterpretation, in capitals."""
    is_burned_in: bool
    """Whether the header says that text is burned into the pixels."""

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """Of native pixels."""
        return self.pixels * self.bits_allocated // 8 * (3 if self.is_colour else 1)


def layout_of(tags: Dataset) -> Layout:
    """Raises UndecodableImage for colour, several frames, more than MAX_PIXELS, and what cannot be pixels."""
    if "PixelData" not in tags:
        raise UndecodableImage("no pixel data")
    rows, columns = _whole(tags, "Rows", 1, 65535), _whole(tags, "Columns", 1, 65535)
    if rows * columns > MAX_PIXELS:
        raise UndecodableImage(f"more than {MAX_PIXELS // 1_000_000} megapixels")
    frames = first_number(tags, "NumberOfFrames")
    if frames == 0:
        repaired(NO_FRAMES)
    elif frames not in (None, 1):
        raise UndecodableImage("several frames, not one")
    interpretation = str(tags.get("PhotometricInterpretation") or "").strip().upper()
    samples = tags.get("SamplesPerPixel", 1)
    is_colour = samples == 3 and interpretation in IN_COLOUR
    if not is_colour and (samples != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2")):
        raise UndecodableImage(COLOUR if interpretation else "no PhotometricInterpretation")
    allocated = _whole(tags, "BitsAllocated", 1, 64)
    if allocated not in (8, 16):
        raise UndecodableImage(f"{allocated} bits allocated per pixel, not 8 or 16")
    stored = tags.get("BitsStored")
    if not (isinstance(stored, int) and 1 <= stored <= allocated):
        repaired(BITS_STORED)
        stored = allocated
    high_bit = tags.get("HighBit", stored - 1)
    if not (isinstance(high_bit, int) and stored - 1 <= high_bit < allocated):
        repaired(HIGH_BIT)
        high_bit = stored - 1
    representation = tags.get("PixelRepresentation")
    if representation not in (0, 1):
        repaired(REPRESENTATION)
    return Layout(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        is_signed=representation == 1,
        overlay_bits=_overlay_bits(tags, high_bit),
        is_colour=is_colour,
        interpretation=interpretation,
        is_burned_in=str(tags.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )


def _overlay_bits(tags: Dataset, high_bit: int) -> int:
    positions = {tags[tag].value for tag in OVERLAY_BITS if tag in tags}
    return sum(1 << at for at in positions if isinstance(at, int) and high_bit < at < 16)


def _whole(tags: Dataset, keyword: str, least: int, most: int) -> int:
    value = tags.get(keyword)
    if not isinstance(value, int):
        raise UndecodableImage(f"no {keyword}")
    if not least <= value <= most:
        raise UndecodableImage(f"{keyword} is {value}, not {least} to {most}")
    return value
