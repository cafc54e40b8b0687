"""Files that are no film: what they are is said, and what to do. Films that decoders spoil in silence."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging import wide_png
from cxrdist.data.imaging.codecs import whole_jpeg
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.faults import RefusedSource
from cxrdist.data.imaging.other_files import ADVICE
from cxrdist.data.imaging.radiograph import decode, grey_of
from cxrdist.data.imaging.repairs import noting
from cxrdist.data.importers.common.intensity import tone_of
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from tests.data.imaging.test_repaired import GREY_ALPHA, RGBA, SIXTEEN, channels, png_16

SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
NOISE = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)


def saved(image: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


PNG = saved(SMOOTH, "PNG")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (saved(SMOOTH, "TIFF"), "a TIFF image"),
        (saved(SMOOTH, "BMP"), "a BMP image"),
        (saved(SMOOTH, "GIF"), "a GIF image"),
        (saved(SMOOTH, "WEBP"), "a WebP image"),
        (saved(SMOOTH, "JPEG2000"), "a JPEG 2000 image"),
        (saved(SMOOTH, "JPEG2000", no_jp2=True), "a JPEG 2000 image"),
        (PNG.replace(b"\r\n", b"\n"), "a PNG that was copied as text"),
        (b"%PDF-1.7\n", "a PDF"),
        (bytes(344) + b"n+1\0", "a NIfTI volume"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><html>', "a web page"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive or an Excel workbook"),
        (gzip.compress(PNG), "compressed with gzip"),
        (b"\0" + PNG, "not an image of a known format"),
    ],
)
def test_what_a_file_is(data: bytes, what: str) -> None:
    with pytest.raises(UndecodableImage, match=f"^{what}$"):
        grey_of(data, 64)
    assert what in ADVICE or what.startswith("not an image")


def test_a_jpeg_of_12_bits_is_named() -> None:
    encaps = pytest.importorskip("pydicom.encaps")
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    dataset = dcmread(str(get_testdata_file("JPGExtended.dcm", download=False)))
    with pytest.raises(UndecodableImage, match=r"^a JPEG of 12 bits$"):
        grey_of(encaps.get_frame(dataset.PixelData, 0, number_of_frames=1), 64)


def test_the_advice_of_a_refusal_fits_the_files(tmp_path: Path, inline: None) -> None:
    lines = ["path,label"]
    for i in range(20):
        (tmp_path / f"{i}.bmp").write_bytes(saved(NOISE, "BMP"))
        lines.append(f"{i}.bmp,{'AB'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    made = IngestOptions(out=str(tmp_path / "set"), size=16, workers=1, find_duplicates=False)
    with pytest.raises(RefusedSource, match=r"[0-9]\.bmp: a BMP image\): convert them to PNG, 16-bit grey"):
        ingest(CsvTable(root=str(tmp_path)), made)


# JPEGs that end early. Pillow fills them with grey.


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_lacks_pixels_before_its_end_marker_is_refused(mode: str, how: dict[str, object]) -> None:
    whole = saved(Image.fromarray(NOISE).convert(mode), "JPEG", quality=90, **how)
    grey_of(whole, 64)
    for at in (len(whole) // 2, len(whole) * 3 // 4, len(whole) - 40):
        cut = whole[:at].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(UndecodableImage, match=r"^truncated or damaged$"):
            grey_of(cut, 64)


@pytest.mark.parametrize("how", [{"subsampling": i} for i in range(3)] + [{"progressive": True}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_of_a_jpeg_are_decoded_once_and_are_those_of_pillow(
    mode: str, how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = np.random.default_rng(6).integers(0, 256, (61, 61, 3), dtype=np.uint8)
    data = saved(Image.fromarray(colours).convert(mode), "JPEG", quality=80, **how)
    expected = grey_of(data, 61, is_checked=True)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", None)
    assert np.array_equal(grey_of(data, 61), expected)


def test_a_lossless_jpeg_overflows_no_buffer() -> None:
    pytest.importorskip("pydicom")
    from tests.helpers.dicom_files import jpeg_lossless

    pixels = whole_jpeg(jpeg_lossless(SMOOTH, 8))
    assert pixels is None or np.array_equal(pixels, SMOOTH)


@pytest.mark.parametrize("junk", [b"\0\0\0", b"\x11\x22"])
def test_bytes_between_the_segments_of_a_jpeg_are_no_damage(junk: bytes) -> None:
    whole = saved(SMOOTH, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    at = whole.index(b"\xff\xdb")
    for data in (whole[:at] + junk + whole[at:], whole[:-2] + junk + whole[-2:]):
        assert np.array_equal(grey_of(data, 64), expected)


def test_what_an_index_vouches_for_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(SMOOTH, "JPEG", quality=95)
    expected = grey_of(data, 64)
    monkeypatch.setattr("simplejpeg.decode_jpeg", None)
    assert np.array_equal(decode(data, "foreign-pad", 64), expected)


# Pictures that their transparency hides.


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_that_hides_the_whole_picture_is_ignored(mode: str) -> None:
    image = Image.fromarray(SMOOTH).convert(mode)
    image.putalpha(0)
    with noting() as noted:
        found = grey_of(saved(image, "PNG"), 64)
    assert np.array_equal(found, SMOOTH) and noted == [wide_png.ALL_TRANSPARENT]


@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGBA])
def test_so_is_that_of_16_bits(colour_type: int) -> None:
    opaque = channels(SIXTEEN, colour_type)
    hidden = opaque.copy()
    hidden[:, :, -1] = 0
    with noting() as noted:
        found = grey_of(png_16(hidden, colour_type), 32, tone=tone_of("full"))
    assert np.array_equal(found, grey_of(png_16(opaque, colour_type), 32, tone=tone_of("full")))
    assert noted == [wide_png.ALL_TRANSPARENT]


def test_transparency_that_leaves_something_is_obeyed() -> None:
    image = Image.fromarray(SMOOTH).convert("LA")
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:20] = 255
    image.putalpha(Image.fromarray(alpha))
    with noting() as noted:
        found = grey_of(saved(image, "PNG"), 64)
    assert np.array_equal(found[:20], SMOOTH[:20]) and not found[20:].any() and noted == []
