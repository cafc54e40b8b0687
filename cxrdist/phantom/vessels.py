"""Markings of the lungs: branching vessels that taper from the hila, and the septal lines of edema."""

from __future__ import annotations

import numpy as np

from cxrdist.phantom.anatomy import Anatomy, Stream, generator
from cxrdist.phantom.project import Array, Grid, Tubes, bezier
from cxrdist.phantom.signs import Signs
from cxrdist.phantom.thorax import Lung, hilum

_LEVELS = 6


def _trees(anatomy: Anatomy, lungs: tuple[Lung, Lung], depth: int) -> list[tuple[Array, Array, Array]]:
    """For each level of branching: control points [N, 4, 3], radii [N, 2] and lung (0 or 1, [N]), without disease."""
    draw = generator(anatomy.inner_seed, 0, 0, Stream.VESSELS)
    # Directions from straight out (0) to down (+) and up (-): more and larger vessels go down.
    angle = np.tile([-1.35, -1.05, -0.7, -0.25, 0.15, 0.55, 0.85, 1.1, 1.3, 1.55], 2) + draw.normal(
        0, 0.1, 20
    )
    radius = np.tile([0.30, 0.36, 0.28, 0.26, 0.30, 0.34, 0.46, 0.62, 0.44, 0.34], 2) * draw.uniform(
        0.85, 1.15, 20
    )
    lung = np.repeat([0, 1], 10)
    roots = np.abs(np.array([hilum(one) for one in lungs]))[:, 0], np.array([hilum(one)[1] for one in lungs])
    x = roots[0][lung] - 0.9 + draw.normal(0, 0.3, 20)
    z = roots[1][lung] + np.sin(angle) * 0.8 + draw.normal(0, 0.3, 20)
    length = draw.uniform(2.6, 4.8, 20)
    levels = []
    for _ in range(depth):
        count = x.size
        bend = draw.normal(0.0, 0.28, count)
        turn = angle[:, None] + bend[:, None] * np.array([0.0, 0.5, 1.0])
        step = length[:, None] / 3.0
        nodes = np.empty((count, 4, 3))
        nodes[:, 0] = np.stack([x, np.zeros(count), z], axis=-1)
        nodes[:, 1:, 0] = x[:, None] + np.cumsum(np.cos(turn) * step, axis=1)
        nodes[:, 1:, 1] = 0.0
        nodes[:, 1:, 2] = z[:, None] + np.cumsum(np.sin(turn) * step, axis=1)
        x, z = np.tile(nodes[:, 3, 0], 2), np.tile(nodes[:, 3, 2], 2)
        nodes[..., 0] *= np.where(lung, 1.0, -1.0)[:, None]
        levels.append((nodes, np.stack([radius, radius * 0.84], axis=-1), lung))
        # Two children each: one continues, one branches off at a wide angle; both turn away from the hilum.
        share, spread, sign, shrink = draw.random((4, count))
        share, spread = 0.5 + 0.22 * share, np.where(sign < 0.5, -1.0, 1.0) * (0.45 + 0.5 * spread)
        lung = np.tile(lung, 2)
        angle = np.concatenate([angle + bend - spread * (1 - share) * 0.8, angle + bend + spread])
        outward = np.arctan2(z - roots[1][lung], x - roots[0][lung] + 0.4)
        angle += 0.22 * ((outward - angle + np.pi) % (2 * np.pi) - np.pi)
        radius = np.concatenate([radius * 0.9 * np.sqrt(share + 0.22), radius * 0.9 * np.sqrt(1.02 - share)])
        length = np.tile(length * (0.62 + 0.36 * shrink), 2)
    return levels


def _squeeze(points: Array, full: Lung, now: Lung) -> Array:
    """Moves points with a collapsed lung: their relative position between its edges stays the same."""
    z = points[..., 2]
    # There are no edges above the apex and below the base: use the nearest ones.
    inner, lateral = full.edges(np.clip(z, full.apex_z + 0.2, full.base_z - 0.2))
    # Clip vessels that would leave the lung at its tip to its edge.
    share = np.clip((np.abs(points[..., 0]) - inner) / np.maximum(lateral - inner, 0.3), -1.5, 1.1)
    top = 4.6 * now.rim
    moved_z = full.base_z - (full.base_z - z) * (1.0 - top / (full.base_z - full.apex_z))
    new_inner, new_lateral = now.edges(np.clip(moved_z, full.apex_z + top + 0.2, full.base_z - 0.2))
    return np.stack(
        [now.side * (new_inner + share * (new_lateral - new_inner)), points[..., 1], moved_z], axis=-1
    )


def trees(
    grid: Grid, anatomy: Anatomy, full: tuple[Lung, Lung], now: tuple[Lung, Lung], signs: Signs
) -> Tubes:
    """The vessels of both lungs as tubes of blood."""
    parts = []
    # Branches far below the film's resolution only cost time.
    depth = _LEVELS if grid.pixel_cm < 0.2 else _LEVELS - 1
    levels = _trees(anatomy, full, depth)
    for first, last, length_cm in ((0, 2, 3.0), (2, 4, 2.0), (4, depth, 1.3)):
        control, radius, lung = (np.concatenate(part) for part in zip(*levels[first:last]))
        seen = radius[:, 0] ** 2 > 0.017 * grid.pixel_cm
        control, radius, lung = control[seen], radius[seen], lung[seen]
        points = int(np.clip(length_cm / max(1.4 * grid.pixel_cm, 0.12), 1, 24)) + 1
        path = bezier(control, points)
        for side in (0, 1):
            if now[side].rim:
                path[lung == side] = _squeeze(path[lung == side], full[side], now[side])
        taper = np.linspace(0.0, 1.0, points)
        wide = radius[:, :1] * (1 - taper) + radius[:, 1:] * taper
        if signs.edema:
            # In failure the vessels of the upper lobes fill as well.
            high = np.clip((hilum(full[0])[1] - path[..., 2]) / 4.0, 0.0, 1.0)
            wide = wide * (1.0 + 0.5 * signs.edema * high + 0.12 * signs.edema)
        parts.append(Tubes.through(path, wide))
    return Tubes.together(parts)


def septal_lines(lung: Lung, signs: Signs, draw: np.random.Generator) -> Tubes:
    """Kerley B: short horizontal lines at the lateral wall, low down; a few longer A lines to the hilum."""
    count = signs.septal_lines
    z = lung.base_z - draw.uniform(0.8, 7.5, count)
    _, lateral = lung.edges(z)
    length = draw.uniform(0.9, 2.0, count)
    tilt = draw.normal(0.0, 0.12, count)
    start = lateral - 0.1
    x = np.stack([start, start - length / 3, start - 2 * length / 3, start - length], axis=-1)
    zz = z[:, None] + tilt[:, None] * (start[:, None] - x)
    long = max(1, count // 4)
    x0, z0 = hilum(lung)
    way = draw.uniform(-1.1, 0.3, long)
    near, far = draw.uniform(1.5, 3.0, long), draw.uniform(4.5, 6.5, long)
    steps = near[:, None] + (far - near)[:, None] * np.linspace(0, 1, 4)
    ax = np.abs(x0) + np.cos(way)[:, None] * steps
    az = z0 + np.sin(way)[:, None] * steps
    control = np.stack(
        [lung.side * np.concatenate([x, ax]), np.zeros((count + long, 4)), np.concatenate([zz, az])], -1
    )
    return Tubes.through(bezier(control, 8), 0.11)
