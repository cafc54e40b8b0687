"""16-bit images of anybody's making: a 12-bit film is not black, and 8-bit images stay as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.importers.common.base import Importer
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.errors import UserError
from tests.helpers.tars import write_tar

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
# 0, 16 ... 4080: the percentiles of these 256 pixels, nearest rank, are the 2nd and the 255th.
TWELVE_BIT = GREY.astype(np.uint16) * 16
STRETCHED = np.floor(np.clip((TWELVE_BIT - 16.0) / (254 * 16 - 16) * 255, 0, 255) + 0.5).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, image: bytes, **options: Any) -> Importer:
    (root / "Normal").mkdir(parents=True)
    (root / "Normal/a.png").write_bytes(image)
    return Folder(root=str(root), **options)


def csv(root: Path, image: bytes, **options: Any) -> Importer:
    root.mkdir()
    (root / "a.png").write_bytes(image)
    (root / "labels.csv").write_text("path,label\na.png,Normal\n")
    return CsvTable(root=str(root), **options)


def webdataset(root: Path, image: bytes, **options: Any) -> Importer:
    write_tar(root / "x.tar", ("a.png", image), ("a.cls", b"Normal"))
    return WebDataset(root=str(root), **options)


def pixels(importer: Importer) -> np.ndarray:
    (record,) = importer.records()
    return importer.pixels(record, 16, "pad")


@pytest.mark.parametrize("source", [folder, csv, webdataset])
def test_16_bit_images_are_stretched_unless_the_full_range_is_asked_for(
    source: Callable[..., Importer], tmp_path: Path
) -> None:
    stretched = source(tmp_path / "a", png(TWELVE_BIT))
    np.testing.assert_array_equal(pixels(stretched), STRETCHED)
    assert stretched.source_options()["intensity"] == "percentiles"
    # 4080 of 65535 is 15.9 of 255.
    full = pixels(source(tmp_path / "b", png(TWELVE_BIT), intensity="full"))
    np.testing.assert_array_equal(full, np.floor(TWELVE_BIT / 65535 * 255 + 0.5))
    assert full.max() == 16
    for intensity in ("percentiles", "full"):
        eight = source(tmp_path / intensity, png(GREY // 16), intensity=intensity)
        np.testing.assert_array_equal(pixels(eight), GREY // 16)
    with pytest.raises(UserError, match="intensity: 'ful' is not a choice; did you mean 'full'"):
        source(tmp_path / "c", png(GREY), intensity="ful")


def test_in_place_images_are_what_the_reader_of_a_set_makes_of_them(tmp_path: Path) -> None:
    image = png(TWELVE_BIT)
    importer = webdataset(tmp_path / "a", image, in_place=True)
    np.testing.assert_array_equal(pixels(importer), decode(image, "foreign-pad", 16))
    assert importer.source_options()["intensity"] == "full"
    with pytest.raises(UserError, match="percentiles does not go with --in-place"):
        webdataset(tmp_path / "b", image, in_place=True, intensity="percentiles")
