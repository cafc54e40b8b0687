"""A contact sheet: the first images of every class and origin, side by side on a dark ground, as films are read.

Its text names only classes, counts and the sets: no key, no patient.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.schema import FORMAT, MANIFEST, ORIGINS, SPLITS, UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing.write_job import JOB_FILE
from cxrdist.data.storage.store import store_of, write_to
from cxrdist.errors import OptionError

GROUND = (14, 15, 18)
INK = (236, 235, 230)
SOFT = (146, 149, 158)
ACCENT = {"real": SOFT, "synthetic": (238, 204, 102), "phantom": (102, 204, 190)}
LEAST_TILE_PX, MOST_TILE_PX = 128, 512
MARGIN_PX, GAP_PX, CLASS_GAP_PX = 28, 4, 14
TITLE_SHARE, NAME_SHARE, TEXT_SHARE = 0.11, 0.075, 0.055
"""Heights of letters, as shares of an image's side."""
LEAST_TEXT_PX = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """The images of one class and origin of one set."""

    set_name: str
    class_name: str
    kind: str
    """real, synthetic or phantom."""
    samples: int
    """Of this class and origin in the split, shown or not."""
    images: np.ndarray
    """[n, H, W] uint8."""


def preview(places: Sequence[str], out: str, *, split: str = "train", count: int = 8) -> None:
    """Write a contact sheet of one or several sets as PNG.

    Each row shows the first ``count`` images of one class of one origin of one set. This is a random choice, since
    sets are sorted by salted hash. Images of 128 to 512 px are shown pixel by pixel, others enlarged or reduced by a
    whole number. Raises OptionError for a set without this split, and for an ``out`` within a shard set.
    """
    check_outside_of_sets(out)
    sets = [ShardSet(place) for place in places]
    rows = rows_of(sets, split, count)
    buffer = io.BytesIO()
    sheet(sets, rows, split).save(buffer, "PNG", optimize=True)
    folder, _, name = out.rpartition("/")
    write_to(store_of(folder or ("/" if out.startswith("/") else ".")), name, buffer.getvalue())


def check_outside_of_sets(out: str) -> None:
    """Raises OptionError if ``out`` lies in a shard set, which holds no other files."""
    if "://" in out:
        folders = [out.rpartition("/")[0]]
    else:
        folders = [str(folder) for folder in Path(out).absolute().parents]
    for folder in folders:
        store = store_of(folder)
        try:
            is_set = store.exists(JOB_FILE) or json.loads(store.read(MANIFEST))["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_set:
            raise OptionError(
                "out",
                f"{out} lies in the shard set {folder}, which holds no other files; name a file elsewhere",
            )


def rows_of(sets: Sequence[ShardSet], split: str, count: int) -> list[Row]:
    """The rows of all sets, class by class in the order of the first set that has it; unlabelled images last."""
    names = list(dict.fromkeys(name for shards in sets for name in shards.classes))
    rows = []
    for shards in sets:
        if not any(stratum.split == split for stratum in shards.strata):
            there = ", ".join(s for s in SPLITS if s in shards.manifest.counts)
            raise OptionError("split", f"{shards} has no {split} split; it has {there}")
    for name in [*names, UNLABELLED]:
        for shards in sets:
            for origin in ORIGINS:
                if Stratum(split, name, origin) in shards.strata:
                    is_phantom = shards.manifest.provenance.is_phantom
                    rows.append(
                        Row(
                            set_name=name_of(shards),
                            class_name=name,
                            kind="phantom" if is_phantom else origin,
                            samples=shards.stratum(split, name, origin).samples,
                            images=shards.images(split, name, origin, count),
                        )
                    )
    return rows


# ---- drawing


def sheet(sets: Sequence[ShardSet], rows: Sequence[Row], split: str) -> Image.Image:
    """The whole contact sheet, RGB."""
    strips = [strip(row.images) for row in rows]
    tile_px = min(strip.height for strip in strips)
    labels = [label_of(row, split, tile_px, is_alone=len(sets) == 1) for row in rows]
    header = header_of(sets, split, tile_px)
    gaps = [CLASS_GAP_PX if a.class_name != b.class_name else GAP_PX for a, b in itertools.pairwise(rows)]
    left = MARGIN_PX + max(map(width_px, labels)) + MARGIN_PX
    width = max(left + max(strip.width for strip in strips), MARGIN_PX + width_px(header))
    y = MARGIN_PX + height_px(header)
    height = y + sum(strip.height for strip in strips) + sum(gaps)
    image = Image.new("RGB", (width + MARGIN_PX, height + MARGIN_PX), GROUND)
    draw = ImageDraw.Draw(image)
    write(draw, (MARGIN_PX, MARGIN_PX - GAP_PX), header)
    for films, label, gap in zip(strips, labels, [*gaps, 0]):
        write(draw, (MARGIN_PX, y + (films.height - height_px(label)) // 2), label)
        image.paste(films, (left, y))
        y += films.height + gap
    return image


def strip(images: np.ndarray) -> Image.Image:
    """[n, H, W] uint8, side by side."""
    tiles = [shown(image) for image in images]
    films = Image.new("RGB", (len(tiles) * (tiles[0].width + GAP_PX) - GAP_PX, tiles[0].height), GROUND)
    for column, tile in enumerate(tiles):
        films.paste(tile, (column * (tile.width + GAP_PX), 0))
    return films


Line = tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int]]


def label_of(row: Row, split: str, tile_px: int, *, is_alone: bool) -> list[Line]:
    text = font("", TEXT_SHARE * tile_px)
    return [
        (row.class_name, font("Bold", NAME_SHARE * tile_px), INK),
        (row.kind, text, ACCENT[row.kind]),
        (f"{row.samples:,} in {split}", text, SOFT),
        *([] if is_alone else [(row.set_name, text, SOFT)]),
    ]


def header_of(sets: Sequence[ShardSet], split: str, tile_px: int) -> list[Line]:
    title, text = font("Bold", TITLE_SHARE * tile_px), font("", TEXT_SHARE * tile_px)
    lines: list[Line] = []
    for shards in sets:
        kind, description = kind_of(shards)
        size, encoding = shards.image_size, shards.manifest.encoding
        pixels = f"{size} x {size} px, {encoding}{scale_of(size)}"
        lines.append((name_of(shards), title, INK))
        lines.append((description, font("", NAME_SHARE * tile_px), ACCENT[kind]))
        lines.append((f"{shards.digest[:12]}   {pixels}, {split} split", text, SOFT))
        lines.append(("", text, SOFT))
    return lines


def name_of(shards: ShardSet) -> str:
    """The last part of the set's path: the rest may reveal more than the user wants to show."""
    return str(shards).rstrip("/").rsplit("/", 1)[-1]


def kind_of(shards: ShardSet) -> tuple[str, str]:
    """real, synthetic or phantom, and a short description for the title."""
    provenance, lineage = shards.manifest.provenance, shards.manifest.lineage
    if lineage.kind == "synthetic":
        return (
            "synthetic",
            f"synthetic images, no patients; their generators learned from {str(lineage.real_digest)[:12]}",
        )
    if provenance.is_phantom:
        return "phantom", "phantom: computed images, no patients"
    return "real", provenance.release or ""


def shown(pixels: np.ndarray) -> Image.Image:
    """[H, W] uint8 as it appears on the sheet: images of 128 to 512 px pixel by pixel."""
    image, size = Image.fromarray(pixels), len(pixels)
    if size < LEAST_TILE_PX:
        times = -(-LEAST_TILE_PX // size)
        return image.resize((size * times, size * times), Image.Resampling.NEAREST)
    return image.reduce(-(-size // MOST_TILE_PX)) if size > MOST_TILE_PX else image


def scale_of(size: int) -> str:
    if size < LEAST_TILE_PX:
        return f" (shown x {-(-LEAST_TILE_PX // size)})"
    return f" (shown at 1/{-(-size // MOST_TILE_PX)})" if size > MOST_TILE_PX else ""


def write(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[Line]) -> None:
    x, y = at
    for text, face, colour in lines:
        draw.text((x, y), text, font=face, fill=colour)
        y += line_px(face)


def line_px(face: ImageFont.FreeTypeFont) -> int:
    return round(face.size * 1.4)


def height_px(lines: Sequence[Line]) -> int:
    return sum(line_px(face) for _, face, _ in lines)


def width_px(lines: Sequence[Line]) -> int:
    return round(max(face.getlength(text) for text, face, _ in lines))


@cache
def font(weight: str, letter_px: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows Latin, Greek and Cyrillic class names."""
    import matplotlib

    name = f"DejaVuSans{'-' if weight else ''}{weight}.ttf"
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, max(round(letter_px), LEAST_TEXT_PX)
    )
