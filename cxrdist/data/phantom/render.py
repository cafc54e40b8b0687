"""One phantom radiograph: anatomy and signs -> path lengths -> film.

Anatomy (patient)   Pose (study)   Signs (class)
         \\              |              /
   lungs, heart, vessels, bones: cm along the beam, [H, W] each
                         |
      exposure -> scatter -> noise -> tone -> marker -> uint8
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrdist.data.phantom import film, marks, skeleton, thorax, vessels
from cxrdist.data.phantom.anatomy import Anatomy, Pose, Stream, generator
from cxrdist.data.phantom.lines import Lines
from cxrdist.data.phantom.project import Array, Grid, Tubes
from cxrdist.data.phantom.signs import Signs
from cxrdist.data.phantom.technique import Technique
from cxrdist.data.phantom.thorax import Lung


@dataclass(frozen=True, kw_only=True)
class Study:
    """A rendered study."""

    pixels: np.ndarray
    """[size, size] uint8."""
    view: str
    sex: str
    age: int
    truth: dict[str, float]
    """``cardiothoracic_ratio``; ``fluid_level``, the deeper side's, as a fraction of the lung's height;
    ``pneumothorax_area``, as a fraction of that lung's projected area; ``severity``, 0 to 1."""


def render(*, seed: int, patient: int, study: int, label: str, size: int) -> Study:
    """The film of one study, ``size`` x ``size`` pixels (32 to 1024), ``label`` one of ``CLASSES``.

    A function of its arguments alone. The same study under two labels shares patient, pose and noise where
    both are taken in the same view: the films then differ by the signs only.
    """
    anatomy = Anatomy.of(seed, patient)
    pose = Pose.of(seed, patient, study, label)
    technique = Technique.of(seed, patient, study, pose.view)
    signs = Signs.of(seed, patient, study, label, anatomy, pose)
    lines = Lines.of(seed, patient, study, anatomy, pose, signs)
    full = thorax.lungs_of(anatomy, pose)
    now = replace(full[0], rim=signs.collapse[0]), replace(full[1], rim=signs.collapse[1])
    heart = thorax.heart_of(anatomy, pose, signs, full[1].dome_z + 1.7)
    factor = max(-(-128 // size), 2 if size <= 128 else 1)
    grid = Grid(
        size=size * factor,
        half_width_cm=pose.half_width_cm,
        centre_x_cm=pose.centre_x_cm,
        centre_z_cm=pose.centre_z_cm,
        lean=pose.lean,
    )
    draw = generator(seed, patient, study, Stream.FILM)
    soft = _soft_tissue(grid, anatomy, pose, signs, full, now, heart, draw)
    bone = _bones(grid, anatomy, pose, full)
    bone += lines.chord(grid, anatomy, pose)
    signal = film.expose(soft, bone, scatter=technique.scatter)
    lead = film.reduce(marks.marker(grid, pose, technique, draw), factor)
    shown = film.develop(film.reduce(signal, factor), draw, technique)
    shown = film.collimate(shown, technique)
    shown += lead * (0.97 - shown)
    marks.stamp(shown, technique)
    return Study(
        pixels=np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8),
        view=pose.view,
        sex=anatomy.sex,
        age=anatomy.age,
        truth={
            "cardiothoracic_ratio": thorax.cardiothoracic_ratio(heart, full),
            "fluid_level": max(signs.fluid),
            "pneumothorax_area": max(_rim_area(a, b) for a, b in zip(full, now)),
            "severity": signs.severity,
        },
    )


def _rim_area(full: Lung, now: Lung) -> float:
    """Projected area of the air around a collapsed lung, as a fraction of the whole lung's."""
    if not now.rim:
        return 0.0
    z = np.linspace(full.apex_z, full.base_z, 512)
    width_full, width_now = (np.subtract(*lung.edges(z)[::-1]) for lung in (full, now))
    return 1.0 - float(width_now.sum() / width_full.sum())


def _soft_tissue(
    grid: Grid,
    anatomy: Anatomy,
    pose: Pose,
    signs: Signs,
    full: tuple[Lung, Lung],
    now: tuple[Lung, Lung],
    heart: list[thorax.Ellipsoid],
    draw: np.random.Generator,
) -> Array:
    """Water-equivalent cm of everything but bone."""
    soft = thorax.body(grid, anatomy, pose)
    top_of_heart = min(c.z - c.reach_z for c in heart)
    middle = thorax.mediastinum(grid, heart, thorax.great_vessels(anatomy, pose, top_of_heart), full)
    texture = film.smooth_noise(draw, grid.size, 110)
    mottle = film.smooth_noise(draw, grid.size, 26)
    lungness = grid.zeros()
    # Their own stream: marker and grain are then the same with and without edema.
    lines = draw.spawn(1)[0]
    blood = [vessels.trees(grid, anatomy, full, now, signs)]
    for lung, filled, level in zip(full, now, signs.fluid):
        other = lung.dome(grid) + middle
        chest = np.maximum(lung.chord(grid) - other, 0.0)
        lung_cm = np.minimum(np.maximum(filled.chord(grid) - other, 0.0), chest) if filled.rim else chest
        density = np.float32(0.24 + 0.06 * (1.0 - pose.inspiration) + 0.25 * filled.rim) * (
            1.0 + np.float32(0.09) * texture
        )
        if signs.edema:
            density = density + np.float32(signs.edema) * _haze(grid, lung, mottle, texture)
            blood.append(vessels.septal_lines(lung, signs, lines))
        density = np.minimum(density, 0.95)
        if level:
            wet = _fluid(grid, lung, level, signs.meniscus_cm)
            density = density + (1.0 - density) * wet
        soft += lung_cm * density - chest
        if filled.rim:
            # The lung still lies before and behind part of the rim.
            soft += np.float32(0.06) * (chest - lung_cm)
        lungness += np.clip(lung_cm / 5.0, 0.0, 1.0) * (1.0 - density)
    blood_cm = Tubes.together(blood).chord(grid)
    # Behind one another near the hila, they crowd rather than add up.
    blood_cm /= 1.0 + blood_cm * np.float32(0.22)
    soft += blood_cm * (np.float32(2.5) * lungness)
    for lung in now:
        if lung.rim:
            soft += _pleural_line(grid, lung) * np.float32(1.6)
    soft -= thorax.airways(grid, pose)
    soft -= thorax.gas(grid, anatomy, pose, full)
    return np.maximum(soft, 0.0)


def _bones(grid: Grid, anatomy: Anatomy, pose: Pose, lungs: tuple[Lung, Lung]) -> Array:
    hollow = [skeleton.ribs(grid, anatomy, pose, lungs), skeleton.long_bones(grid, anatomy, pose)]
    bone = Tubes.together(hollow).chord(grid, marrow=0.77)
    bone += skeleton.humeral_heads(grid, anatomy, pose)
    bone += skeleton.shoulder_blades(grid, anatomy, pose)
    bone += skeleton.spine(grid, anatomy)
    return bone


def _haze(grid: Grid, lung: Lung, mottle: Array, texture: Array) -> Array:
    """Edema's extra density: bat wings around the hila, some of it patchy, more below than above."""
    x0, z0 = vessels.hilum(lung)
    u = (grid.x - np.float32(x0 * 1.5)) / np.float32(5.0)
    v = ((grid.z - np.float32(z0 + 2.0)) / np.float32(6.0))[:, None]
    return np.exp(-(u * u + v * v)) * (0.42 + 0.12 * mottle + 0.05 * texture) + np.float32(0.09)


def _fluid(grid: Grid, lung: Lung, level: float, meniscus_cm: float) -> Array:
    """Share of the lung's depth that fluid has taken, 0..1: a level that climbs along the lateral wall."""
    _, lateral = lung.edges(grid.z.astype(np.float64))
    surface = lung.base_z - level * (lung.base_z - lung.apex_z)
    away = np.maximum(lateral.astype(np.float32)[:, None] - lung.side * grid.x, 0.0)
    below = (
        grid.z[:, None] - np.float32(surface) + np.float32(meniscus_cm) * np.exp(away * np.float32(-1 / 3.4))
    )
    share = np.clip(below / np.float32(3.2) + 0.45, 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _pleural_line(grid: Grid, lung: Lung) -> Array:
    """The visceral pleura of a collapsed lung, seen on edge."""
    top = lung.apex_z + 4.6 * lung.rim
    z = top + (lung.base_z - top) * np.linspace(0.02, 0.95, max(60, int(24 / grid.pixel_cm))) ** 2
    _, lateral = lung.edges(z)
    points = np.stack([lung.side * lateral, np.zeros_like(z), z], axis=-1)
    return Tubes.through(points[None], 0.085).chord(grid)
