"""Drawn images in folders, and files that declare more than they hold."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"Normal": 14, "Pneumothorax": 8, "Pleural Effusion": 10}


def draw_folder(root: Path, counts: dict[str, int], size: int = 32) -> Path:
    """``root/<class>/*.png``: bright bars whose side tells the class, with noise."""
    rng = np.random.default_rng(7)
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(20, 90, (size, size), np.uint8)
            image[:, 8 * c : 8 * c + 8] += np.uint8(120)
            Image.fromarray(image).save(root / name / f"{i:03d}.png")
    return root


def png_declaring(width: int, height: int) -> bytes:
    """A PNG whose header says width x height, with a right checksum, and almost no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
