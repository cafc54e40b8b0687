from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.cli.shards import preview as preview_command
from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools import preview as module
from cxrdist.data.tools.preview import GAP_PX, GROUND, MARGIN_PX, preview, rows_of, sheet, shown, strip
from cxrdist.errors import UserError
from tests.helpers.pixel_sets import flat, forge


def films_of(image: np.ndarray, tile_px: int, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The tiles of a sheet, found from its right lower corner, where the last row ends; rows of one class each."""
    bottom, right = image.shape[0] - MARGIN_PX, image.shape[1] - MARGIN_PX
    tiles = []
    for row in range(rows):
        y = bottom - (rows - row) * tile_px - (rows - 1 - row) * module.CLASS_GAP_PX
        x = [right - (columns - c) * tile_px - (columns - 1 - c) * GAP_PX for c in range(columns)]
        tiles.append([image[y : y + tile_px, left : left + tile_px] for left in x])
    return tiles


def test_a_row_shows_the_first_images_of_its_class_pixel_by_pixel(tiny_set: Path, tmp_path: Path) -> None:
    """32 px images are shown four times as large."""
    preview([str(tiny_set)], str(tmp_path / "sheet.png"), count=3)
    image = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert tuple(image[0, 0]) == GROUND
    shards = ShardSet(tiny_set)
    for name, tiles in zip(shards.classes, films_of(image, 128, rows=3, columns=3)):
        for tile, film in zip(tiles, shards.images("train", name, "real", 3)):
            assert np.array_equal(tile, np.repeat(film.repeat(4, 0).repeat(4, 1)[..., None], 3, 2))


def test_the_same_set_gives_the_same_bytes(tiny_set: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        preview([str(tiny_set)], str(tmp_path / name))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert (image.mode, image.info) == ("RGB", {})


@pytest.mark.parametrize(
    ("size", "shown_px"), [(16, 128), (64, 128), (100, 200), (128, 128), (256, 256), (512, 512), (1024, 512)]
)
def test_films_keep_their_pixels_from_128_to_512(size: int, shown_px: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size), np.uint8)
    tile = np.asarray(shown(pixels))
    assert tile.shape == (shown_px, shown_px)
    if shown_px >= size:
        assert np.array_equal(tile[:: shown_px // size, :: shown_px // size], pixels)
    else:
        blocks = pixels.reshape(shown_px, 2, shown_px, 2).mean((1, 3))
        assert np.abs(tile - blocks).max() <= 0.5


def test_a_strip_has_gaps_of_the_ground(tiny_set: Path) -> None:
    images = np.stack([np.full((128, 128), value, np.uint8) for value in (10, 200)])
    pixels = np.asarray(strip(images))
    assert pixels.shape == (128, 256 + GAP_PX, 3)
    assert (pixels[:, :128] == 10).all() and (pixels[:, 128 + GAP_PX :] == 200).all()
    assert (pixels[:, 128 : 128 + GAP_PX] == GROUND).all()


def test_rows_are_classes_and_in_them_sets_and_origins(tiny_set: Path, tmp_path: Path) -> None:
    other = forge(
        tmp_path / "other",
        {
            ("train", "Pneumothorax", "real"): [[(flat(1), {}), (flat(2), {})]],
            ("train", "Pneumothorax", "synthetic"): [[(flat(3), {})]],
            ("train", "Nodule", "synthetic"): [[(flat(4), {})]],
            ("val", "Normal", "real"): [[(flat(5), {})]],
        },
    )
    sets = [ShardSet(tiny_set), ShardSet(other)]
    rows = rows_of(sets, "train", 3)
    assert [(r.class_name, r.set_name, r.kind, r.samples, len(r.images)) for r in rows] == [
        ("Normal", "tiny", "real", 8, 3),
        ("Pleural Effusion", "tiny", "real", 6, 3),
        ("Pneumothorax", "tiny", "real", 4, 3),
        ("Pneumothorax", "other", "real", 2, 2),
        ("Pneumothorax", "other", "synthetic", 1, 1),
        ("Nodule", "other", "synthetic", 1, 1),
    ]
    image = sheet(sets, rows, "train")
    films_px = 6 * 128 + 2 * GAP_PX + 3 * module.CLASS_GAP_PX
    assert image.height > films_px + MARGIN_PX and image.width > 3 * 128


def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written on sheets from now on."""
    written: list[str] = []
    write = module.write

    def listening(draw: object, at: object, lines: list[module.Line]) -> None:
        written.extend(text for text, _, _ in lines if text)
        write(draw, at, lines)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write", listening)
    return written


def test_the_title_says_what_it_is_and_labels_count(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = texts(monkeypatch)
    preview([str(tiny_set)], str(tmp_path / "a.png"), split="val", count=2)
    digest = ShardSet(tiny_set).digest[:12]
    assert written == [
        "tiny",
        "folder of images",
        f"{digest}   32 x 32 px, png (shown x 4), val split",
        *["Normal", "real", "3 in val"],
        *["Pleural Effusion", "real", "2 in val"],
        *["Pneumothorax", "real", "2 in val"],
    ]


@pytest.mark.parametrize(
    ("provenance", "lineage", "kind", "told"),
    [
        (
            {"is_phantom": True, "release": "phantom"},
            {"kind": "real"},
            "phantom",
            "phantom: computed images, no patients",
        ),
        (
            {"is_phantom": False, "release": "generated images"},
            {"kind": "synthetic", "real_digest": "0123456789abcdef", "split": "train"},
            "synthetic",
            "synthetic images, no patients; their generators learned from 0123456789ab",
        ),
        ({"release": "NIH ChestX-ray14"}, {"kind": "real"}, "real", "NIH ChestX-ray14"),
    ],
)
def test_what_is_no_film_of_a_patient_says_so(
    tiny_set: Path, provenance: dict[str, object], lineage: dict[str, object], kind: str, told: str
) -> None:
    shards = ShardSet(tiny_set)
    value = shards.manifest.json_value() | {"provenance": provenance, "lineage": lineage}
    shards.manifest = Manifest.model_validate(value)
    assert module.kind_of(shards) == (kind, told)
    if kind == "phantom":
        assert {row.kind for row in rows_of([shards], "train", 1)} == {"phantom"}


def test_nothing_is_written_into_a_shard_set(tiny_set: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "copy"))
    before = sorted(p.name for p in copy.iterdir())
    for out in (copy / "sheet.png", copy / "deeper" / "sheet.png"):
        with pytest.raises(UserError, match=r"copy is a shard set, which holds nothing else"):
            preview([str(tiny_set)], str(out))
    (copy / "manifest.json").rename(copy / ".job.json")
    with pytest.raises(UserError, match="is a shard set"):
        preview([str(tiny_set)], str(copy / "sheet.png"))
    (copy / ".job.json").rename(copy / "manifest.json")
    assert sorted(p.name for p in copy.iterdir()) == before
    # A manifest.json of anything else is none of our business.
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
    preview([str(tiny_set)], str(tmp_path / "web" / "sheet.png"), count=1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": "tset"}, "--split tset: unknown; did you mean 'test'?"),
        ({"count": 0}, "--count: must be 1 or more, not 0"),
        ({"out": "sheet.jpg"}, "--out sheet.jpg: the sheet is a PNG; name a file that ends in .png"),
    ],
)
def test_options_are_checked(tiny_set: Path, changes: dict[str, object], told: str) -> None:
    words: dict[str, object] = {"out": "sheet.png"} | changes
    with pytest.raises(UserError) as caught:
        preview([str(tiny_set)], **words)  # type: ignore[arg-type]
    assert str(caught.value) == told


def test_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    place = forge(tmp_path / "set", {("train", "Normal", "synthetic"): [[(flat(1), {})]]})
    with pytest.raises(UserError, match=r"set has no val split: choose one with --split \(it has train\)"):
        preview([place], str(tmp_path / "sheet.png"), split="val")


def test_the_command_takes_several_sets_and_writes_where_it_is_told(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    preview_command([str(tiny_set), "--count", "1"])
    assert capsys.readouterr().out == "preview: preview.png\n"
    with Image.open("preview.png") as one:
        lower = one.height
    preview_command([str(tiny_set), str(tiny_set), "--count", "1", "--out", "new/both.png"])
    with Image.open("new/both.png") as both:
        assert both.height > lower + 3 * 128
