"""The soft parts: body, lungs, diaphragm, heart and great vessels, airways, stomach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.phantom.anatomy import Anatomy, Pose, Stream, generator
from cxrdist.phantom.project import Array, Ellipsoid, Grid, heap, stack, union
from cxrdist.phantom.signs import Signs


@dataclass(frozen=True, kw_only=True)
class Lung:
    """Outline of one lung: its medial and lateral edge at each height. Lengths in cm."""

    side: int
    """-1 on the image's left (the patient's right), 1 on its right."""
    apex_z: float
    base_z: float
    dome_z: float
    half_width: float
    half_depth: float
    dome_peak: float
    widest: float
    roundness: float
    rim: float = 0.0
    """Width of the air at the apex of a collapsed lung, as a fraction of the lung's width; 0 without collapse."""

    def height_fraction(self, z: Array) -> Array:
        """0 at the apex, 1 at the costophrenic angle."""
        return (z - self.apex_z) / (self.base_z - self.apex_z)

    def edges(self, z: Array) -> tuple[Array, Array]:
        """Medial and lateral edge, as distances from the midline; medial == lateral outside the lung."""
        t = self.height_fraction(z)
        top = 4.6 * self.rim
        t = np.where(t < 1, (z - self.apex_z - top) / (self.base_z - self.apex_z - top), t)
        shoulder = np.clip(1.0 - t / self.widest, 0.0, 1.0)
        apex_x, medial = 5.2, 0.9
        lateral = apex_x + (self.half_width - apex_x) * np.sqrt(
            np.clip(1.0 - shoulder**self.roundness, 0.0, 1.0)
        )
        lateral -= 0.35 * np.clip(t - max(0.86, self.widest), 0.0, 0.2) / 0.14
        inner = apex_x - (apex_x - medial) * np.sqrt(1.0 - np.clip(1.0 - t / 0.2, 0.0, 1.0) ** 2)
        # In an upright patient, air collects at the apex; the flank of the lung stays round.
        within = np.clip(t, 0.0, 1.0)
        give = (1.0 - 0.8 * within**6) * (1.12 - 0.35 * np.sin(np.pi * within))
        lateral -= self.rim * (lateral - inner) * give
        lateral = np.maximum(lateral, inner)
        outside = (t <= 0) | (t >= 1)
        return np.where(outside, apex_x, inner), np.where(outside, apex_x, lateral)

    def chord(self, grid: Grid) -> Array:
        """[H, W] cm, before the diaphragm and the mediastinum are subtracted."""
        z = grid.z.astype(np.float64)
        inner, lateral = self.edges(z)
        t = np.clip(self.height_fraction(z), 0.0, 1.0)
        depth = self.half_depth * np.sqrt(np.clip(1.0 - (1.0 - np.minimum(t / 0.62, 1.0)) ** 2.4, 0.0, 1.0))
        depth *= 1.0 - t**9
        return stack(grid, self.side * 0.5 * (inner + lateral), 0.5 * (lateral - inner), depth, power=3)

    def dome(self, grid: Grid) -> Array:
        """The abdomen under this hemidiaphragm, cm: half an ellipsoid, and its section all the way down."""
        centre_x, high = self.dome_peak * self.half_width, self.base_z - self.dome_z + 2.2
        u = self.side * grid.x - np.float32(centre_x)
        # Steep down to the costophrenic angle, gentle towards the heart.
        u *= np.where(u > 0, np.float32(1.0 / (self.half_width - centre_x + 0.6)), np.float32(0.9 / centre_x))
        v = np.minimum((grid.z - np.float32(self.dome_z + high)) / np.float32(high), 0.0)[:, None]
        inside = np.maximum(1.0 - u * u - v * v, 0.0)
        return np.sqrt(inside) * np.float32(2.9 * self.half_depth)


def lungs_of(anatomy: Anatomy, pose: Pose) -> tuple[Lung, Lung]:
    """The lungs without collapse: the image's left, then its right."""
    right_dome = anatomy.dome_z - 7.0 * (1.0 - pose.inspiration)
    both = []
    for side in (-1, 1):
        dome = right_dome + (anatomy.left_dome_drop if side > 0 else 0.0)
        both.append(
            Lung(
                side=side,
                apex_z=anatomy.apex_z + side * anatomy.apex_skew_cm,
                dome_peak=anatomy.dome_peak[side > 0],
                widest=anatomy.widest,
                roundness=anatomy.roundness,
                base_z=right_dome + anatomy.recess_cm + 0.4 * (side > 0),
                dome_z=dome,
                half_width=anatomy.lung_half_width,
                half_depth=anatomy.lung_half_depth,
            )
        )
    return both[0], both[1]


def hilum(lung: Lung) -> tuple[float, float]:
    """Where the lung's vessels enter, (x, z) cm; the left hilum lies a little higher."""
    t = 0.475 if lung.side < 0 else 0.44
    return (-3.2 if lung.side < 0 else 3.4), lung.apex_z + t * (lung.base_z - lung.apex_z)


def heart_of(anatomy: Anatomy, pose: Pose, signs: Signs, base_z: float) -> list[Ellipsoid]:
    """The heart's chambers, scaled so that the silhouette has the cardiothoracic ratio of ``signs``."""
    tilt = anatomy.heart_tilt
    chambers = [
        Ellipsoid(x=-1.2, z=-6.4, ax=2.9, az=5.2, ay=4.0, angle=0.16),  # right atrium
        Ellipsoid(x=2.8, z=-4.6, ax=6.0, az=3.5, ay=5.2, angle=tilt),  # left ventricle
        Ellipsoid(x=0.9, z=-3.6, ax=4.6, az=3.4, ay=5.0, angle=0.15),  # right ventricle
        Ellipsoid(x=0.9, z=-8.0, ax=3.3, az=4.2, ay=4.0, angle=-0.3),  # left atrium
    ]
    left = min(c.x - c.reach_x for c in chambers)
    right = max(c.x + c.reach_x for c in chambers)
    scale = signs.cardiothoracic_ratio * 2.0 * anatomy.lung_half_width / (right - left)
    # A large pneumothorax pushes the heart to the other side.
    shift = 0.55 * pose.turn_cm + 0.25 + 2.0 * (signs.collapse[0] - signs.collapse[1]) * signs.severity
    return [
        Ellipsoid(
            x=c.x * scale + shift,
            z=base_z + c.z * scale,
            ax=c.ax * scale,
            az=c.az * scale,
            ay=c.ay * scale**0.5,
            angle=c.angle,
        )
        for c in chambers
    ]


def cardiothoracic_ratio(heart: list[Ellipsoid], lungs: tuple[Lung, Lung]) -> float:
    """Widest heart over widest chest, both as projected."""
    width = max(c.x + c.reach_x for c in heart) - min(c.x - c.reach_x for c in heart)
    return width / sum(lung.half_width for lung in lungs)


def great_vessels(
    anatomy: Anatomy, pose: Pose, top_of_heart: float, lungs: tuple[Lung, Lung]
) -> list[Ellipsoid]:
    wide, turn = anatomy.aorta, 0.7 * pose.turn_cm
    arch_z = -5.6 - 0.8 * (wide - 1.0)
    down = top_of_heart - arch_z
    parts = [
        Ellipsoid(x=1.6 * wide, z=arch_z, ax=1.8 * wide, az=1.75 * wide, ay=3.2),  # aortic arch, the "knob"
        Ellipsoid(
            x=-0.9 * wide, z=arch_z + 2.6, ax=2.2 * wide, az=4.2, ay=3.4, angle=0.05
        ),  # ascending aorta
        Ellipsoid(
            x=1.75, z=arch_z + 0.5 * down + 1.6, ax=2.0, az=4.4, ay=3.4, angle=-0.35
        ),  # pulmonary trunk
        Ellipsoid(
            x=1.3 * wide, z=1.5, ax=1.55 * wide, az=9.5, ay=2.6, angle=-0.02 * wide
        ),  # descending aorta
        Ellipsoid(x=-1.8, z=-5.2, ax=1.4, az=5.0, ay=2.6, angle=0.05),  # superior vena cava
        Ellipsoid(x=0.2, z=-11.5, ax=2.6, az=6.5, ay=2.7),  # thoracic inlet
    ]
    for lung, low, size in zip(lungs, (1.3, -0.2), (1.0, 0.9)):
        x, z = hilum(lung)  # the pulmonary arteries at the hilum
        parts.append(
            Ellipsoid(x=1.2 * x, z=z + low, ax=0.95 * size, az=2.3 * size, ay=1.9, angle=lung.side * -0.38)
        )
        parts.append(Ellipsoid(x=1.05 * x, z=z - 1.0, ax=1.25 * size, az=0.9, ay=1.1, angle=lung.side * -0.3))
    return [part.moved(x=turn) for part in parts]


def mediastinum(
    grid: Grid, heart: list[Ellipsoid], vessels: list[Ellipsoid], lungs: tuple[Lung, Lung]
) -> Array:
    """Everything between the lungs, cm of depth: the heart and vessels on a column around the spine."""
    z = grid.z
    waist = 1.9 + 0.5 * np.clip((z - 2.0) / 8.0, 0.0, 1.0) + 0.5 * np.clip((-9.0 - z) / 4.0, 0.0, 1.0)
    depth = lungs[0].half_depth * (0.72 - 0.2 * np.clip((-6.0 - z) / 5.0, 0.0, 1.0))
    column = stack(grid, np.zeros_like(z), waist, depth, power=2)
    solid = union(grid, heart + vessels)
    return np.sqrt(column * column + 1.2 * solid * solid)


def body(grid: Grid, anatomy: Anatomy, pose: Pose) -> Array:
    """Torso, neck, shoulders, arms and breasts, cm of depth."""
    z = grid.z.astype(np.float64)
    wall, half = anatomy.wall_cm, anatomy.lung_half_width
    centre = np.zeros_like(z)
    up = np.clip((-4.0 - z) / 11.0, 0.0, 1.0)
    waist = np.clip((z - 6.0) / 14.0, -0.3, 1.0)
    width = (half + wall - 0.5 * waist * (2.4 - 0.5 * wall)) * np.sqrt(np.clip(1.0 - up**2.6, 0.0, 1.0))
    depth = (anatomy.lung_half_depth + 0.55 * wall + 0.9) * (
        1.0 - 0.85 * up**1.5 + 0.16 * np.clip((z - 5.0) / 8.0, 0.0, 1.0)
    )
    torso = stack(grid, centre, width, depth, power=2)
    flare = np.clip((z + 22.0 - anatomy.shoulder_drop - 0.5 * sum(pose.shoulder_cm)) / 10.0, 0.0, 1.2)
    neck_width = 5.9 + 0.45 * wall + 14.0 * flare**1.7
    neck = stack(
        grid, centre, neck_width, (5.6 + 0.3 * wall) * np.clip((-5.0 - z) / 7.0, 0.0, 1.0) ** 0.5, power=3
    )
    squared = torso * torso + neck * neck
    for side, lower, out in zip((-1, 1), pose.shoulder_cm, pose.arm_out):
        drop = anatomy.shoulder_drop + lower
        girdle = Ellipsoid(
            x=side * 12.5, z=-8.6 + drop, ax=9.5, az=4.6 + 0.3 * wall, ay=4.4, angle=side * 0.25
        )
        at, chord = girdle.chord_squared(grid)
        squared[at] += chord
        below = z + 10.5 - drop
        arm_x = half + wall + 1.9 + (0.08 + 0.5 * out) * below
        arm_wide = (3.9 + 0.35 * wall) * np.sqrt(
            np.clip(1.0 - np.clip(-below / 3.0, 0.0, 1.0) ** 2, 0.0, 1.0)
        )
        fold = Ellipsoid(
            x=side * (half + 0.6 * wall), z=-4.5 + drop, ax=3.4 + 0.3 * wall, az=9.0, ay=3.4, angle=side * 0.2
        )
        at, chord = fold.chord_squared(grid)  # the muscles in front of and behind the armpit
        squared[at] += chord
        arm = stack(grid, side * arm_x, arm_wide * (below > -3.0), 4.0 + 0.0 * z)
        squared += arm * arm
    head = Ellipsoid(x=pose.turn_cm, z=pose.chin_z_cm - 7.5, ax=6.0, az=7.5, ay=6.5)
    at, chord = head.chord_squared(grid)
    squared[at] += chord
    total = np.sqrt(squared)
    if anatomy.breast > 0.05:
        size = anatomy.breast**0.5
        for side in (-1, 1):
            breast = Ellipsoid(
                x=side * (0.55 * half + 0.9 * size),
                z=4.4 + 3.2 * anatomy.breast,
                ax=6.8 * size,
                az=6.4 * size,
                ay=2.7 * anatomy.breast,
                angle=side * 0.3,
            )
            at, chord = breast.chord_squared(grid)
            fade = np.clip((grid.z[at[0]] - (breast.z - breast.az)) / (1.9 * breast.az), 0.0, 1.0)
            total[at] += np.sqrt(chord) * (fade * fade)[:, None]
    return total


def airways(grid: Grid, pose: Pose) -> Array:
    """Trachea and main bronchi, cm of air."""
    turn = 0.8 * pose.turn_cm
    z = grid.z.astype(np.float64)
    t = np.clip((z + 20.0) / 18.6, 0.0, 1.0)
    wide = 0.9 * (z < -1.4) * np.sqrt(np.clip((-1.4 - z) / 0.8, 0.0, 1.0))
    windpipe = stack(grid, turn * t - 0.35 * t**2, wide, 1.15 + 0.0 * z)
    bronchi = [
        Ellipsoid(x=turn - 1.5, z=-0.5, ax=1.9, az=0.7, ay=1.0, angle=-0.95),
        Ellipsoid(x=turn + 1.7, z=-0.2, ax=2.5, az=0.62, ay=0.9, angle=0.62),
    ]
    return np.maximum(windpipe, heap(grid, bronchi))


def gas(grid: Grid, anatomy: Anatomy, pose: Pose, lungs: tuple[Lung, Lung]) -> Array:
    """Air in the stomach, with a fluid level in an upright patient, and in the colon; cm."""
    draw = generator(anatomy.inner_seed, 0, 0, Stream.GAS)
    left = lungs[1]
    size = draw.uniform(0.3, 1.15)
    bubble = Ellipsoid(
        x=left.half_width * draw.uniform(0.38, 0.6),
        z=left.dome_z + 0.9 + 1.2 * size,
        ax=3.3 * size,
        az=1.5 * size + 0.2,
        ay=1.5 * size * draw.uniform(0.3, 1.0),
        angle=draw.normal(0, 0.12),
    )
    total = grid.zeros()
    at, squared = bubble.chord_squared(grid)
    air = np.sqrt(squared)
    if pose.view == "PA":
        level = bubble.z + draw.uniform(0.0, 0.9) * bubble.az
        air = air * np.clip((level - grid.z[at[0]]) / grid.pixel_cm + 0.5, 0.0, 1.0)[:, None]
    total[at] += air
    loops = []
    for _ in range(int(draw.integers(0, 4))):
        loops.append(
            Ellipsoid(
                x=draw.uniform(2.0, 11.0) * (1 if draw.random() < 0.75 else -1),
                z=left.dome_z + draw.uniform(6.5, 11.0),
                ax=draw.uniform(0.7, 2.4),
                az=draw.uniform(0.5, 1.2),
                ay=draw.uniform(0.3, 1.0),
                angle=draw.uniform(-1, 1),
            )
        )
    if draw.random() < 0.6:
        # The left flexure of the colon: a chain of pouches below the spleen.
        count = int(draw.integers(3, 8))
        along = np.linspace(0.0, 1.0, count)
        reach, low = draw.uniform(4.0, 9.0), left.dome_z + draw.uniform(2.5, 7.0)
        for t in along:
            loops.append(
                Ellipsoid(
                    x=left.half_width * 0.78 - reach * t + draw.normal(0, 0.3),
                    z=low + 3.0 * (t - 0.4) ** 2 + draw.normal(0, 0.4),
                    ax=draw.uniform(0.7, 1.6),
                    az=draw.uniform(0.6, 1.5),
                    ay=draw.uniform(0.2, 1.1),
                    angle=draw.uniform(-1, 1),
                )
            )
    return np.maximum(total, union(grid, loops))
