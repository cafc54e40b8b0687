"""Devices in or on the patient: ECG leads, tubes, catheters, a pacemaker, sternal wires."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.phantom.anatomy import Anatomy, Pose, Stream, generator
from cxrdist.phantom.project import Array, Grid, Tubes, bezier
from cxrdist.phantom.signs import Signs

Curve = list[tuple[float, float]]
"""Four control points, (x, z) cm."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The devices of one study. Implants belong to the patient and are on all of the patient's films.

    The frequency of devices depends on the view, and through the view on the class. A chest tube occurs with a
    pneumothorax (one in three) or an effusion (one in eight). As on real films, a classifier can learn the devices
    instead of the signs.
    """

    pacemaker: bool
    sternal_wires: bool
    leads: int
    tracheal_tube: bool
    feeding_tube: bool
    central_line: str
    """"", "jugular" or "arm"."""
    chest_tube: int
    """-1 on the image's left, 1 on its right, 0 none."""
    shape_seed: int

    @staticmethod
    def of(seed: int, patient: int, study: int, anatomy: Anatomy, pose: Pose, signs: Signs) -> Lines:
        implant = generator(seed, patient, 0, Stream.IMPLANTS).random(2)
        draw = generator(seed, patient, study, Stream.LINES)
        bed = pose.view == "AP"
        leads, trachea, feeding, central, arm, drain = draw.random(6)
        intubated = trachea < (0.28 if bed else 0.0)
        sick = max(signs.collapse) or max(signs.fluid)
        side = int(np.sign(signs.collapse[1] - signs.collapse[0] + signs.fluid[1] - signs.fluid[0]))
        central_line = ("arm" if arm < 0.4 else "jugular") if central < (0.42 if bed else 0.05) else ""
        return Lines(
            pacemaker=bool(anatomy.age > 50 and implant[0] < 0.045),
            sternal_wires=bool(anatomy.age > 50 and implant[1] < 0.12),
            leads=int(draw.integers(2, 6)) if leads < (0.62 if bed else 0.05) else 0,
            tracheal_tube=bool(intubated),
            feeding_tube=bool(feeding < (0.7 if intubated else 0.1 if bed else 0.01)),
            central_line=central_line,
            chest_tube=side if sick and drain < (0.33 if max(signs.collapse) else 0.12) else 0,
            shape_seed=int(draw.integers(2**31)),
        )

    def chord(self, grid: Grid, anatomy: Anatomy, pose: Pose) -> Array:
        """[H, W] cm of bone-equivalent path length."""
        draw = np.random.default_rng(self.shape_seed)
        # Each device has its own stream, so that adding one does not move the others.
        leads, tube, feeding, central, drain, implants = draw.spawn(6)
        solid: list[Tubes] = []
        total = grid.zeros()
        if self.leads:
            solid += _leads(grid, anatomy, self.leads, leads)
        if self.tracheal_tube:
            end = tube.uniform(-6.0, -3.2)
            x = 0.8 * pose.turn_cm
            path: Curve = [(x + tube.normal(0, 1.0), -22.0), (x, -16.0), (x + 0.2, end - 4.0), (x + 0.1, end)]
            solid += [_line(grid, path, 0.08, 5.0), _line(grid, [(a + 0.8, b) for a, b in path], 0.06, 2.0)]
        if self.feeding_tube:
            low = anatomy.dome_z + feeding.uniform(3.0, 8.0)
            path = [(0.3, -22.0), (0.9 + pose.turn_cm, -8.0), (0.2, low - 6.0), (feeding.uniform(3, 7), low)]
            solid += [_line(grid, path, 0.11, 4.0)]
        if self.central_line:
            solid += [_line(grid, _central(self.central_line, central), 0.1, 5.0)]
        if self.chest_tube:
            half, high = anatomy.lung_half_width, drain.uniform(-9.0, -4.0)
            start = half + anatomy.wall_cm + 4.0, drain.uniform(2.0, 9.0)
            ways = [start, (half - 0.5, start[1] - 2.0), (half - 2.0, -2.0), (drain.uniform(4.5, 8.0), high)]
            path = [(self.chest_tube * a, b) for a, b in ways]
            solid += [_line(grid, path, 0.085, 8.0), _line(grid, path, 0.34, 0.7)]
        if self.sternal_wires:
            solid += _sternal_wires(grid, pose, implants)
        if self.pacemaker:
            can, wires = _pacemaker(grid, anatomy, pose, implants)
            total += can
            solid += wires
        if solid:
            total += Tubes.together(solid).chord(grid)
        return total


def _line(grid: Grid, path: Curve, radius: float, weight: float) -> Tubes:
    control = np.array([[(x, 0.0, z) for x, z in path]])
    return Tubes.through(bezier(control, int(np.clip(30 / grid.pixel_cm, 24, 240))), radius, weight)


def _leads(grid: Grid, anatomy: Anatomy, count: int, draw: np.random.Generator) -> list[Tubes]:
    """ECG wires and the snap electrodes at their ends."""
    half = anatomy.lung_half_width
    ends = [
        (-0.78 * half, -8.5),
        (0.78 * half, -8.0),
        (0.8 * half, 6.0),
        (-0.8 * half, 6.5),
        (0.3 * half, 2.0),
    ]
    parts = []
    ring = np.linspace(0.0, 2 * np.pi, 17)
    for x, z in ends[:count]:
        x, z = x + draw.normal(0, 1.5), z + draw.normal(0, 1.5)
        leave = np.sign(x) * (half + draw.uniform(4, 9)), draw.uniform(-14.0, 18.0)
        bend = x + draw.normal(0, 4), z + draw.uniform(1, 6)
        parts.append(
            _line(grid, [(x, z), bend, (leave[0] * 0.7, leave[1] + draw.normal(0, 4)), leave], 0.07, 6.0)
        )
        for radius, thick in ((0.5, 0.2), (0.22, 0.25)):
            snap = np.stack([x + radius * np.cos(ring), 0 * ring, z + radius * np.sin(ring)], axis=-1)
            parts.append(Tubes.through(snap[None], thick, 2.4))
    return parts


def _central(kind: str, draw: np.random.Generator) -> Curve:
    """A catheter into the superior vena cava, from the neck or along a vein of the right arm."""
    tip = -2.2 + draw.normal(0, 0.3), draw.uniform(-3.0, 2.5)
    if kind == "jugular":
        return [(-4.5 + draw.normal(0, 0.8), -22.0), (-4.6, -14.0), (-2.6, -10.0), tip]
    return [(-22.0, draw.uniform(-6.0, 0.0)), (-13.0, -13.5), (-1.5, -12.5), tip]


def _sternal_wires(grid: Grid, pose: Pose, draw: np.random.Generator) -> list[Tubes]:
    """Figure-of-eight loops that close the sternum after heart surgery, and surgical clips beside them."""
    parts = []
    turn = np.linspace(0.0, 2 * np.pi, 25)
    for z in np.linspace(-7.5, 5.0, int(draw.integers(5, 8))):
        x, tilt = pose.turn_cm + draw.normal(0, 0.15), draw.normal(0, 0.2)
        dx, dz = 0.75 * np.cos(turn), 0.32 * np.sin(turn) + draw.normal(0, 0.1)
        loop = np.stack([x + dx, 0 * turn, z + dz + tilt * dx], axis=-1)
        parts.append(Tubes.through(loop[None], 0.05, 9.0))
    for _ in range(int(draw.integers(0, 7))):
        x, z, tilt = draw.uniform(0.5, 5.0), draw.uniform(-4.0, 4.0), draw.uniform(-1.0, 1.0)
        clip = np.array([[(x, 0.0, z), (x + 0.4, 0.0, z + 0.4 * tilt)]])
        parts.append(Tubes.through(clip, 0.06, 9.0))
    return parts


def _pacemaker(
    grid: Grid, anatomy: Anatomy, pose: Pose, draw: np.random.Generator
) -> tuple[Array, list[Tubes]]:
    """The can below the left clavicle, its battery and header; leads to the right atrium and ventricle."""
    x, z = 0.68 * anatomy.lung_half_width + draw.normal(0, 0.5), -6.8 + draw.normal(0, 0.7)
    angle = draw.uniform(-0.5, 0.5)
    shell = grid.zeros()
    for dx, dz, ax, az, thick in (
        (0.0, 0.0, 2.4, 2.3, 0.9),  # the case
        (-0.5, -1.7, 1.6, 0.8, 0.5),  # the header, where the leads plug in
        (0.1, 0.9, 1.7, 0.75, 2.2),  # the battery
        (-0.5, -0.5, 0.9, 0.45, 1.0),  # the circuit
    ):
        cos, sin = np.cos(angle), np.sin(angle)
        shell += _plate(grid, x + dx * cos - dz * sin, z + dz * cos + dx * sin, ax, az, angle) * np.float32(
            thick
        )
    heart = anatomy.dome_z - 1.5
    vein = (-2.6 + pose.turn_cm, -8.0)
    wires = [
        _line(grid, [(x - 1.0, z - 1.6), (x - 2.0, -13.5), (1.0, -10.5), vein], 0.085, 8.0),
        _line(grid, [vein, (-3.4, -3.0), (-3.6, heart - 1.0), (5.0, heart)], 0.085, 8.0),
        _line(grid, [(5.0, heart), (5.6, heart + 0.1), (6.0, heart + 0.1), (6.4, heart)], 0.16, 11.0),
        _line(grid, [vein, (-3.0, -3.0), (-4.6, 2.5), (-2.6, 0.8)], 0.085, 8.0),
    ]
    return shell, wires


def _plate(grid: Grid, x: float, z: float, ax: float, az: float, angle: float) -> Array:
    """1 inside a rounded rectangle of half sides ``ax`` and ``az``, 0 outside, with an edge one pixel wide."""
    at = grid.window(x, z, ax + az, ax + az)
    dx, dz = grid.x[at] - np.float32(x), (grid.z[at[0]] - np.float32(z))[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (dx * cos + dz * sin) / np.float32(ax), (dz * cos - dx * sin) / np.float32(az)
    u, v = u * u, v * v
    inside = 1.0 - np.sqrt(np.sqrt(u * u + v * v))
    total = grid.zeros()
    total[at] = np.clip(inside * np.float32(min(ax, az) / grid.pixel_cm) + 0.5, 0.0, 1.0)
    return total
