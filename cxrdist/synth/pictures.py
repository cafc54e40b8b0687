"""Pictures of the first images of a synthesis: those that are admitted, and those that each gate refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrdist.files import atomic_writer
from cxrdist.synth.probe import SHOWN, Probe

ADMITTED = "admitted"
LABEL_PX = 150
GAP_PX = 2
INK, GROUND = 40, 245


def write_pictures(folder: Path, probe: Probe) -> dict[str, Path]:
    """``admitted.png`` and ``refused-<gate>.png`` in a folder, a row per class; only those with an image."""
    gates = dict.fromkeys(gate for block in probe.blocks for gate in block.passed)
    written = {}
    for gate in (ADMITTED, *gates):
        shown = {name: images for name, images in probe.shown(gate).items() if images}
        if not shown:
            continue
        name = ADMITTED if gate == ADMITTED else f"refused-{gate}"
        written[name] = folder / f"{name}.png"
        with atomic_writer(written[name]) as file:
            Image.fromarray(rows_of(shown)).save(file, "PNG")
    return written


def rows_of(shown: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """A row of images [H, W] uint8 per name, with the name before it -> [H', W'] uint8."""
    size = next(iter(shown.values()))[0].shape[0]
    cell = size + GAP_PX
    picture = Image.new("L", (LABEL_PX + SHOWN * cell, len(shown) * cell), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for row, (name, images) in enumerate(shown.items()):
        draw.text((4, row * cell + size // 2 - 7), name, INK, font)
        for column, image in enumerate(images[:SHOWN]):
            picture.paste(Image.fromarray(image), (LABEL_PX + column * cell, row * cell))
    return np.asarray(picture)
