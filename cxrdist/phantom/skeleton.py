"""The bones: ribs, spine, clavicles, scapulae, humeri, jaw; in cm of bone along the beam."""

from __future__ import annotations

import numpy as np

from cxrdist.phantom.anatomy import Anatomy, Pose
from cxrdist.phantom.project import Array, Ellipsoid, Grid, Tubes, bezier
from cxrdist.phantom.thorax import Lung

_PAIRS = 11


def _pieces(grid: Grid, length_cm: float) -> int:
    """Number of points along a curve, for pieces about two pixels long and at most 0.8 cm."""
    return int(np.clip(length_cm / min(max(1.6 * grid.pixel_cm, 0.12), 0.8), 8, 400))


def _vertebra_z(anatomy: Anatomy, index: Array) -> Array:
    """Height of the middle of thoracic vertebra ``index`` (1 to 12); lower vertebrae are taller."""
    growth = (anatomy.dome_z - anatomy.apex_z) / 21.1
    return anatomy.apex_z + growth * (1.95 * (index - 1.0) + 0.045 * (index - 1.0) ** 2) - 0.2


def ribs(grid: Grid, anatomy: Anatomy, pose: Pose, lungs: tuple[Lung, Lung]) -> Tubes:
    """Each rib is a tilted half-ellipse around the chest: posterior part, flank, anterior part."""
    points = _pieces(grid, 36.0)
    angle = np.linspace(np.pi / 2 - 0.16, -0.98, points)  # from the spine round the flank towards the sternum
    index = np.arange(1, _PAIRS + 1, dtype=np.float64)[:, None]
    breath = 1.0 + 0.22 * (pose.inspiration - 0.95)
    drop = (
        np.interp(index, [1, 2, 3, 5, 8, 11], [3.8, 6.6, 9.0, 11.2, 12.0, 11.4]) * anatomy.rib_drop * breath
    )
    back_z = _vertebra_z(anatomy, index) * breath - 0.3
    parts = []
    for lung in lungs:
        flank_z = back_z + 0.5 * drop
        lateral = lung.edges(np.clip(flank_z, lung.apex_z + 0.4, lung.base_z - 0.1))[1]
        reach = np.where(index == 1, 6.3, np.maximum(lateral + 0.4, 7.2))
        reach = np.where(index >= 10, anatomy.lung_half_width * (1.0 - 0.03 * (index - 9)), reach)
        deep = np.interp(index, [1, 3, 6, 11], [3.6, 6.2, 8.3, 8.4])
        # Floating and false ribs end early, on the flank.
        stop = np.interp(index, [1, 7, 8, 9, 10, 11], [-0.98, -0.9, -0.75, -0.5, -0.2, 0.3])
        turn = np.pi / 2 - 0.16 + (stop - np.pi / 2 + 0.16) * (np.pi / 2 - 0.16 - angle) / (np.pi / 2 + 0.82)
        swing = pose.turn_cm * np.where(turn < 0, 0.8, 0.0) * np.abs(np.sin(turn))
        x = lung.side * reach * np.cos(turn) ** 0.92 + swing
        front = 0.5 * (1.0 - np.sin(turn))
        z = back_z + drop * front**1.08 - 0.9 * np.exp(-(((front - 0.06) / 0.08) ** 2))
        z = z + 0.013 * drop * np.sin(7.0 * turn + 1.3 * index + lung.side)
        y = deep * np.sin(turn)
        # A rib is flat, twice as tall as thick: seen edge-on at the flank, face-on in front and behind.
        flat = np.interp(index, [1, 2, 6, 11], [0.68, 0.66, 0.7, 0.52]) * (
            1.0 + 0.2 * np.clip(-np.sin(turn), 0, 1)
        )
        neck = np.clip((np.abs(x) - 1.6) / 2.6, 0.0, 1.0)
        radius = (0.36 + (flat - 0.36) * np.abs(np.sin(turn)) ** 0.7) * (0.7 + 0.3 * neck)
        # Towards the front the bone thins and becomes cartilage.
        cartilage = np.clip((0.1 - np.sin(turn)) / 0.75, 0.0, 1.0)
        weight = np.interp(index, [1, 3, 7, 11], [0.62, 0.85, 0.85, 0.4])
        weight = weight - np.interp(index, [1, 4, 8, 11], [0.42, 0.45, 0.65, 0.3]) * cartilage
        weight *= (0.35 + 0.65 * neck) * np.minimum(1.0, 12.0 * (1.0 - np.linspace(0.0, 1.0, points)) + 0.05)
        weight *= 1.0 + 0.08 * np.sin(2.9 * index + 1.7 * lung.side + 40.0 * anatomy.rib_drop)
        parts.append(Tubes.through(np.stack([x, y, z], axis=-1), radius, weight * anatomy.bone))
    return Tubes.together(parts)


def _blade(drop: float, inward: float) -> list[tuple[float, float]]:
    """A scapula's upper inner corner, shoulder joint and lower tip, (|x|, z) cm."""
    return [
        (11.6 - 1.5 * inward, -10.2 + drop),
        (16.4 - inward, -9.4 + drop),
        (14.9 - 1.2 * inward, 3.2 + drop),
    ]


def long_bones(grid: Grid, anatomy: Anatomy, pose: Pose) -> Tubes:
    """Clavicles, the scapulae's edges and spines, and the humeri."""
    # In bed the beam tilts: clavicles look higher and straighter, and the scapulae lie over the lungs.
    lift, inward = (1.2, 1.9) if pose.view == "AP" else (0.0, 0.0)
    arm = anatomy.lung_half_width + anatomy.wall_cm + 1.7
    sides = []
    for side, lower, out in zip((-1.0, 1.0), pose.shoulder_cm, pose.arm_out):
        drop, out = anatomy.shoulder_drop + lower, 0.08 + 0.5 * out
        corner, glenoid, tip = _blade(drop, inward)
        flat = np.array(
            [
                ((1.9, -8.9 - lift), (6.5, -8.7 - 1.3 * lift), (10.5, -12.4 + drop), (16.4, -12.2 + drop)),
                (glenoid, (15.6 - inward, -5.5 + drop), (15.6 - inward, -1.0 + drop), tip),
                (corner, (11.3 - 1.5 * inward, -6.0 + drop), (12.5 - 1.5 * inward, -1.0 + drop), tip),
                (corner, (12.6 - inward, -12.4 + drop), (14.5, -12.6 + drop), glenoid),
                (
                    (11.9 - 1.4 * inward, -8.4 + drop),
                    (13.5 - inward, -9.6 + drop),
                    (15.8, -11.8 + drop),
                    (18.2, -11.4 + drop),
                ),
                (
                    (14.4 - inward, -10.6 + drop),
                    (14.8, -11.6 + drop),
                    (15.6, -11.4 + drop),
                    (16.0, -10.6 + drop),
                ),
                (
                    (arm - 0.3, -9.4 + drop),
                    (arm + 5 * out, -3.0),
                    (arm + 14 * out, 6.0),
                    (arm + 34 * out, 26.0),
                ),
            ]
        )
        control = np.stack([side * flat[..., 0], np.zeros(flat.shape[:2]), flat[..., 1]], axis=-1)
        control[0, :, 0] += pose.turn_cm * np.linspace(1.0, 0.3, 4)
        sides.append(control)
    radius = np.array([0.58, 0.5, 0.22, 0.25, 0.5, 0.45, 1.15])[:, None]
    weight = np.array([1.45, 1.1, 0.7, 0.8, 0.95, 0.95, 0.8])[:, None] * anatomy.bone
    points = _pieces(grid, 20.0)
    along = np.linspace(0.0, 1.0, points)
    # The ends of a clavicle are thickened; the other bones become thinner towards their ends.
    ends = 1.0 + 0.45 * np.clip(np.abs(2.0 * along - 1.0) - 0.5, 0.0, 0.5)
    fade = np.minimum(1.0, np.minimum(5.0 * (1.0 - along) + 0.1, 8.0 * along + 0.25))
    path = bezier(np.concatenate(sides), points)
    return Tubes.through(path, np.tile(radius, (2, 1)) * ends, np.tile(weight, (2, 1)) * fade)


def jaw(grid: Grid, pose: Pose) -> Tubes:
    """The mandible and its teeth, visible if the head reaches into the film."""
    around = np.linspace(-1.25, 1.25, _pieces(grid, 16.0))
    x = pose.turn_cm + 4.9 * np.sin(around)
    z = pose.chin_z_cm - 1.4 - 7.0 * (1.0 - np.cos(around))
    bone = np.stack([x, 0.0 * x, z], axis=-1)
    teeth = np.stack([pose.turn_cm + 0.62 * (x - pose.turn_cm), 0.0 * x, z - 2.2], axis=-1)
    return Tubes.through(np.stack([bone, teeth]), np.array([[0.9], [0.7]]), np.array([[1.1], [1.3]]))


def humeral_heads(grid: Grid, anatomy: Anatomy, pose: Pose) -> Array:
    total = grid.zeros()
    shoulder = anatomy.lung_half_width + anatomy.wall_cm + 1.2
    for side, lower in zip((-1, 1), pose.shoulder_cm):
        ball = Ellipsoid(x=side * shoulder, z=-9.5 + anatomy.shoulder_drop + lower, ax=2.3, az=2.4, ay=2.0)
        at, squared = ball.chord_squared(grid)
        total[at] += np.sqrt(squared) * np.float32(0.2 * anatomy.bone)
    return total


def shoulder_blades(grid: Grid, anatomy: Anatomy, pose: Pose) -> Array:
    """The thin plates between the scapulae's edges."""
    inward = 1.9 if pose.view == "AP" else 0.0
    total = grid.zeros()
    for side, lower in zip((-1, 1), pose.shoulder_cm):
        drop = anatomy.shoulder_drop + lower
        corners = _blade(drop, inward)
        at = grid.window(side * 13.5, -3.5 + drop, 6.0, 8.5)
        x, z = side * grid.x[at], grid.z[at[0]][:, None]
        inside: Array | float = 1.0
        for (x0, z0), (x1, z1) in zip(corners, corners[1:] + corners[:1]):
            length = np.hypot(x1 - x0, z1 - z0)
            distance = ((z - z0) * ((x1 - x0) / length) - (x - x0) * ((z1 - z0) / length)).astype(np.float32)
            inside = inside * np.clip(0.5 + distance / 0.5, 0.0, 1.0)
        total[at] += np.float32(0.36 * anatomy.bone) * inside
    return total


def spine(grid: Grid, anatomy: Anatomy) -> Array:
    """Vertebral bodies with end plates and discs, pedicles, transverse and spinous processes."""
    at = grid.window(0.0, 0.0, 4.6, 60.0)
    z = grid.z.astype(np.float64)
    index = np.linspace(-5.0, 19.0, 193)
    level = np.interp(z, _vertebra_z(anatomy, index), index)  # 3.0 is the middle of T3
    pitch = 2.1 + 0.07 * np.clip(level, -4, 17)
    phase = ((level + 0.5) % 1.0 - 0.5).astype(np.float32)[:, None]  # -0.5 .. 0.5 within a vertebra
    tall = (phase * pitch[:, None]).astype(np.float32)
    bend = anatomy.scoliosis * np.sin(0.22 * z + 0.6)
    wide = (1.55 + 0.045 * np.clip(level, -2, 16)).astype(np.float32)[:, None]
    x = (grid.x[at] - bend[:, None]).astype(np.float32)
    u2 = (x / (wide * (1.0 + 0.10 * (2 * phase) ** 4))) ** 2
    bodies = np.maximum(1.0 - u2 * np.sqrt(u2), 0.0) ** 0.7
    edge = np.abs(phase)
    bodies *= np.where(edge < 0.41, 1.0 + 0.2 * np.exp(-(((edge - 0.37) / 0.05) ** 2)), 0.8).astype(
        np.float32
    )
    away = np.abs(x)
    pedicle = np.exp(-(((away - 0.62 * wide) / 0.3) ** 2) - ((tall + 0.35) / 0.42) ** 2)
    hollow = np.exp(-(((away - 0.62 * wide) / 0.17) ** 2) - ((tall + 0.35) / 0.25) ** 2)
    spinous = np.exp(-((x / 0.26) ** 2) - ((tall - 0.75) / 0.55) ** 2)
    reach = np.clip((away - 0.8 * wide) / 0.3, 0.0, 1.0) * np.clip((wide + 1.7 - away) / 0.3, 0.0, 1.0)
    transverse = (reach * np.clip(0.25 * level, 0.25, 1.0).astype(np.float32)[:, None]) * np.exp(
        -(((tall + 0.35 + 0.12 * (away - wide)) / 0.42) ** 2)
    )
    total = grid.zeros()
    strength = (anatomy.bone * (0.75 + 0.02 * np.clip(level, 0.0, 12.0))).astype(np.float32)[:, None]
    total[at] = strength * (1.25 * bodies + 0.6 * pedicle - 0.35 * hollow + 0.7 * spinous + 0.4 * transverse)
    return total
