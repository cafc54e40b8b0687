"""Marks on a film: the lead side marker, and the word PHANTOM in small letters."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cxrdist.phantom.anatomy import Pose
from cxrdist.phantom.project import Array, Grid, Tubes
from cxrdist.phantom.technique import Technique

WORD_FROM_PIXELS = 128
_STROKES = {
    "L": [[(-0.5, -1.0), (-0.5, 1.0), (0.6, 1.0)]],
    "R": [[(-0.5, 1.0), (-0.5, -1.0), (0.4, -0.9), (0.5, -0.3), (-0.4, 0.05)], [(-0.1, 0.05), (0.6, 1.0)]],
    "A": [[(-0.6, 1.0), (0.0, -1.0), (0.6, 1.0)], [(-0.35, 0.3), (0.35, 0.3)]],
    "P": [[(-0.5, 1.0), (-0.5, -1.0), (0.4, -0.9), (0.5, -0.3), (-0.4, 0.1)]],
    "H": [[(-0.5, -1.0), (-0.5, 1.0)], [(0.5, -1.0), (0.5, 1.0)], [(-0.5, 0.0), (0.5, 0.0)]],
    "N": [[(-0.5, 1.0), (-0.5, -1.0), (0.5, 1.0), (0.5, -1.0)]],
    "T": [[(-0.6, -1.0), (0.6, -1.0)], [(0.0, -1.0), (0.0, 1.0)]],
    "O": [
        [
            (-0.55, 0.0),
            (-0.4, -0.8),
            (0.0, -1.0),
            (0.4, -0.8),
            (0.55, 0.0),
            (0.4, 0.8),
            (0.0, 1.0),
            (-0.4, 0.8),
            (-0.55, 0.0),
        ]
    ],
    "M": [[(-0.6, 1.0), (-0.6, -1.0), (0.0, 0.5), (0.6, -1.0), (0.6, 1.0)]],
}


def _letter(name: str) -> Array:
    """The strokes of a letter, 16 points each, [strokes, 16, 2], two units high."""
    strokes = []
    for stroke in _STROKES[name]:
        nodes = np.array(stroke)
        at = np.linspace(0.0, len(nodes) - 1.0, 16)
        knots = np.arange(len(nodes))
        strokes.append(
            np.stack([np.interp(at, knots, nodes[:, 0]), np.interp(at, knots, nodes[:, 1])], axis=-1)
        )
    return np.stack(strokes)


_LETTERS = {name: _letter(name) for name in _STROKES}


def marker(grid: Grid, pose: Pose, technique: Technique, draw: np.random.Generator) -> Array:
    """Opacity, 0..1, of the lead letters in an upper corner: L on the image's right or R on its left, "AP" in bed."""
    side = -1.0 if technique.marker_right else 1.0
    high, inset, down = draw.uniform([0.9, 1.4, 1.3], [1.4, 3.0, 3.0])
    left, right, top, _ = technique.collimated
    inset += 2.0 * grid.half_width_cm * (left if side < 0 else right)
    down += 2.0 * grid.half_width_cm * top
    turn = draw.normal(0.0, 0.25)
    strokes = 0.5 * high * _LETTERS["R" if technique.marker_right else "L"]
    initials, ring = draw.random(2)
    names = draw.choice(list(_LETTERS), 2)
    if initials < 0.45:  # initials of the radiographer
        small = [
            0.22 * high * _LETTERS[name] + (x * high, 1.0 * high) for name, x in zip(names, (-0.25, 0.25))
        ]
        strokes = np.concatenate([strokes, *small])
    elif ring < 0.25:
        around = np.linspace(0.0, 2.0 * np.pi, 16)
        circle = np.stack([np.cos(around), np.sin(around)], axis=-1)[None]
        strokes = np.concatenate([strokes, 0.9 * high * circle])
    if pose.view == "AP":
        small = [
            0.35 * high * _LETTERS[name] + (x * high, 1.8 * high) for name, x in (("A", -0.45), ("P", 0.45))
        ]
        strokes = np.concatenate([strokes, *small])
    cos, sin = np.cos(turn), np.sin(turn)
    across, down_ = strokes[..., 0], strokes[..., 1]
    strokes = np.stack([across * cos - down_ * sin, across * sin + down_ * cos], axis=-1)
    # The marker is aligned with the film, not with the patient: undo the lean.
    z = grid.centre_z_cm - grid.half_width_cm + down
    x = grid.centre_x_cm + side * (grid.half_width_cm - inset) - grid.lean * z
    points = np.stack([x + strokes[..., 0], np.zeros(strokes.shape[:2]), z + strokes[..., 1]], axis=-1)
    chord = Tubes.through(points, 0.1 * high).chord(grid)
    return np.minimum(chord / np.float32(0.12 * high), 1.0)


@lru_cache(maxsize=8)
def _word(size: int) -> Array:
    """Opacity, [h, w] 0..1, of the word PHANTOM: about 2 % of the film high, and at least 6 pixels to be legible."""
    high = max(6.0, 0.021 * size)
    strokes = [0.5 * high * _LETTERS[name] + (0.88 * high * k, 0.0) for k, name in enumerate("PHANTOM")]
    points = np.concatenate(strokes)
    columns, rows = int((6.0 * 0.88 + 0.75) * high) + 5, int(high) + 4
    side = max(rows, columns)
    sheet = Grid(size=side, half_width_cm=side / 2, centre_x_cm=0.0, centre_z_cm=0.0, lean=0.0)
    flat = points + np.array([2.5 + 0.3 * high, 0.5 * rows]) - 0.5 * side
    path = np.stack([flat[..., 0], np.zeros(flat.shape[:2]), flat[..., 1]], axis=-1)
    ink = Tubes.through(path, 0.075 * high).chord(sheet)[:rows]
    # Opaque along the middle of each stroke, even if a stroke is thinner than a pixel.
    return np.minimum(ink / np.quantile(ink[ink > 0], 0.9), 1.0).astype(np.float32)


def stamp(shown: Array, technique: Technique) -> None:
    """Writes the word PHANTOM onto the film, in place: on the side without the marker, whatever the class."""
    size = shown.shape[0]
    if size < WORD_FROM_PIXELS:
        return
    ink = _word(size)
    rows, columns = ink.shape
    edge = size // 32
    top = edge if technique.word_above else size - edge - rows
    left = size - edge - columns if technique.marker_right else edge
    at = shown[top : top + rows, left : left + columns]
    # Light letters, or dark ones if the film is light there.
    at += ink * (np.float32(0.95 if at.mean() < 0.6 else 0.1) - at)
