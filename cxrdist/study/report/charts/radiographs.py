"""Radiographs and sample grids for the report, read from shard sets and GAN runs, as small PNGs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cxrdist.data.shards.open import synthetic_place
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.study.report.reading.runs import ClsRun, Study

_TILE_PX = 160
_GRID_PX = 480


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Images of one class: [n, H, W] uint8 each, None if there are none to show."""

    name: str
    real: np.ndarray | None
    synthetic: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The paper's Fig. 3: real and synthetic images, a row per class."""

    rows: tuple[Pair, ...]
    """Empty if neither set can be shown."""
    run: ClsRun
    """The run whose sets are shown."""
    notes: tuple[str, ...]
    """A sentence for each thing that could not be shown."""


def pairs(study: Study, count: int = 4) -> Pairs:
    """The first ``count`` train images of every class and origin, from the sets that a run has read.

    A set that does not exist on this machine, or has changed since, is not shown; ``notes`` has the reason.
    """
    run = next((run for run in study.cls if run.summary["shards"].get("synthetic")), study.cls[0])
    sets = {"real": _open(run, "shards", "real"), "synthetic": _open(run, "synthetic", "synthetic")}
    notes = [found for found in sets.values() if isinstance(found, str)]
    rows = []
    if any(isinstance(found, ShardSet) for found in sets.values()):
        for name in study.classes:
            images = {origin: _read(found, name, origin, count) for origin, found in sets.items()}
            notes += [found for found in images.values() if isinstance(found, str)]
            shown = {origin: None if isinstance(found, str) else found for origin, found in images.items()}
            rows.append(Pair(name=name, **shown))
    return Pairs(rows=tuple(rows), run=run, notes=tuple(notes))


def _open(run: ClsRun, key: str, origin: str) -> ShardSet | str:
    """The set of an origin that a run has read, or a sentence why it is not shown."""
    digest = run.summary["shards"].get(origin)
    if not digest:
        return f"No run of this study read {origin} images."
    # The default place of the synthetic set is beside the real one.
    path = run.config.get(key) or synthetic_place(str(run.config.get("shards")))
    try:
        opened = ShardSet(path)
    except UserError as error:
        return f"The {origin} images are not shown here ({error})."
    if opened.digest != digest:
        return (
            f"The {origin} images are not shown here: {path} has changed since the run read it "
            f"(digest {opened.digest[:12]}, then {str(digest)[:12]})."
        )
    return opened


def _read(shards: ShardSet | str, name: str, origin: str, count: int) -> np.ndarray | str | None:
    """[n, H, W] uint8, or a sentence why they cannot be read; None if the set is not shown."""
    if isinstance(shards, str):
        return None
    try:
        images: np.ndarray = shards.images("train", name, origin, count)
    except UserError as error:
        return f"{name}: {error}."
    return images


def tile_png(image: np.ndarray) -> bytes:
    """One radiograph, [H, W] uint8 -> PNG, at most 160 px wide."""
    return _png(Image.fromarray(image), _TILE_PX)


def grid_png(path: Path) -> bytes:
    """A GAN's sample grid as a PNG, at most 480 px wide. Raises UserError if the file is not an image."""
    try:
        with Image.open(path) as image:
            return _png(image.convert("L"), _GRID_PX)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read as an image ({error}); restore the file, or delete it"
        ) from error


def _png(image: Image.Image, most_px: int) -> bytes:
    image.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def pairs_png(rows: Sequence[Pair]) -> bytes:
    """Fig. 3 as one PNG on white, for the Markdown report."""
    fig = Figure(figsize=(9.6, 0.4 + 1.12 * len(rows)), layout="constrained")
    panels = fig.subplots(len(rows), 2, squeeze=False)
    for row, (left, right) in zip(rows, panels, strict=True):
        for panel, images in ((left, row.real), (right, row.synthetic)):
            panel.set_axis_off()
            if images is None:
                panel.text(0.5, 0.5, "none to show", ha="center", va="center", transform=panel.transAxes)
            else:
                panel.imshow(_strip(images), cmap="gray", vmin=0, vmax=255)
        left.text(-0.03, 0.5, row.name, ha="right", va="center", transform=left.transAxes, parse_math=False)
    panels[0][0].set_title("real", fontsize=10, loc="left")
    panels[0][1].set_title("synthetic", fontsize=10, loc="left")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _strip(images: np.ndarray) -> np.ndarray:
    """[n, H, W] uint8 -> [H, n*W + gaps] uint8, white between."""
    gap = np.full((images.shape[1], max(1, images.shape[2] // 24)), 255, np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.concatenate(parts[:-1], axis=1)
