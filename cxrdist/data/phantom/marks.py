"""What is on a film besides the patient: the side marker, and leads of the ECG."""

from __future__ import annotations

import numpy as np

from cxrdist.data.phantom.anatomy import Anatomy, Pose
from cxrdist.data.phantom.project import Array, Grid, Tubes, bezier

_STROKES = {
    "L": [[(-0.5, -1.0), (-0.5, 1.0), (0.6, 1.0)]],
    "R": [[(-0.5, 1.0), (-0.5, -1.0), (0.4, -0.9), (0.5, -0.3), (-0.4, 0.05)], [(-0.1, 0.05), (0.6, 1.0)]],
    "A": [[(-0.6, 1.0), (0.0, -1.0), (0.6, 1.0)], [(-0.35, 0.3), (0.35, 0.3)]],
    "P": [[(-0.5, 1.0), (-0.5, -1.0), (0.4, -0.9), (0.5, -0.3), (-0.4, 0.1)]],
}


def _letter(name: str) -> Array:
    """Strokes of 16 points each, [strokes, 16, 2], two units high."""
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


def marker(grid: Grid, pose: Pose, draw: np.random.Generator) -> Array:
    """Lead letters in an upper corner, 0..1 opaque: L on the image's right or R on its left, "AP" in bed."""
    side = -1.0 if pose.marker_right else 1.0
    high, inset, down = draw.uniform([1.0, 1.4, 1.3], [1.5, 3.2, 3.0])
    turn = draw.normal(0.0, 0.25)
    strokes = 0.5 * high * _LETTERS["R" if pose.marker_right else "L"]
    if pose.view == "AP":
        small = [
            0.35 * high * _LETTERS[name] + (x * high, 1.7 * high) for name, x in (("A", -0.45), ("P", 0.45))
        ]
        strokes = np.concatenate([strokes, *small])
    strokes = strokes @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    # The marker hangs in the film's frame, not in the patient's: undo the lean.
    z = grid.centre_z_cm - grid.half_width_cm + down
    x = grid.centre_x_cm + side * (grid.half_width_cm - inset) - grid.lean * z
    points = np.stack([x + strokes[..., 0], np.zeros(strokes.shape[:2]), z + strokes[..., 1]], axis=-1)
    chord = Tubes.through(points, 0.1 * high).chord(grid)
    return np.minimum(chord / np.float32(0.12 * high), 1.0)


def leads(grid: Grid, anatomy: Anatomy, draw: np.random.Generator) -> Array:
    """ECG wires and their electrodes, cm of something as dense as bone."""
    half = anatomy.lung_half_width
    ends = [(-0.72 * half, -8.5), (0.72 * half, -8.0), (0.75 * half, 5.0), (-0.7 * half, 5.5)]
    count = int(draw.integers(2, 5))
    control, dots = [], []
    for x, z in ends[:count]:
        x, z = x + draw.normal(0, 1.2), z + draw.normal(0, 1.2)
        leave = (np.sign(x) * (half + draw.uniform(3, 8)), draw.uniform(-14.0, 16.0))
        knots = [
            (x, z),
            (x + draw.normal(0, 4), z + draw.uniform(1, 6)),
            (leave[0] * 0.7, leave[1] + draw.normal(0, 4)),
            leave,
        ]
        control.append([(a, 0.0, b) for a, b in knots])
        ring = np.linspace(0.0, 2 * np.pi, 17)
        dots.append(np.stack([x + 0.55 * np.cos(ring), 0 * ring, z + 0.55 * np.sin(ring)], axis=-1))
    wires = Tubes.through(bezier(np.array(control), int(np.clip(24 / grid.pixel_cm, 24, 160))), 0.075, 3.5)
    rings = Tubes.through(np.array(dots), 0.16, 2.2)
    return Tubes.together([wires, rings]).chord(grid)
