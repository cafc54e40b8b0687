"""One phantom radiograph: anatomy and signs -> path lengths -> film.

Anatomy (patient)   Pose, Technique, Lines (study)   Signs (class)
         \\                        |                     /
      lungs, heart, vessels, bones, lines: cm along the beam, [H, W] each
                                  |
      exposure -> scatter -> noise -> tone -> borders -> marker -> uint8

Reproducibility: with one version of numpy on one type of CPU, a film has the same bytes in every process and order
of rendering. Nothing uses BLAS, so its build and threads do not matter. numpy selects the code of exp, log, sin and
power by the features of the CPU, and results differ in the last bits: on another type of CPU a pixel may, rarely,
round to the neighbouring grey level. Measured with numpy 2.4 on one CPU with features disabled: of 2,785,280 pixels
none differs between AVX-512 and AVX2, and 10 between AVX-512 and SSE4.2, each by one level. A set's digest is
therefore guaranteed to be the same only on one type of CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.errors import OptionError, UserError, nearest
from cxrdist.phantom import film, marks, skeleton, thorax, vessels
from cxrdist.phantom.anatomy import CLASSES, Stream, generator
from cxrdist.phantom.project import Array, Grid, Tubes, union
from cxrdist.phantom.scene import Scene
from cxrdist.phantom.thorax import Lung

SIZES = 16, 1024


@dataclass(frozen=True, kw_only=True)
class Study:
    """A rendered study."""

    pixels: np.ndarray
    """[size, size] uint8."""
    view: str
    sex: str
    age: int
    truth: dict[str, float]
    """``cardiothoracic_ratio``; ``fluid_level`` of the deeper side, as a fraction of the lung's height;
    ``meniscus_cm``, by which the fluid is higher at the lateral wall; ``edema``, the haze at the hila, 0 to 1;
    ``septal_lines`` per lung; ``pneumothorax_area``, as a fraction of that lung's projected area; ``severity``,
    0 to 1. Each except the ratio is 0 if the sign is absent."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Path lengths through parts of the chest, [H, W] float32 cm: summed into the film, and measured by tests."""

    heart: Array
    chest: Array
    """Space for both lungs, without the mediastinum and the diaphragm."""
    lungs: Array
    """Lung within that space; the rest is air around a collapsed lung."""
    fluid: Array
    markings: Array
    """Vessels and septal lines, as far as they lie in aerated lung."""
    soft: Array
    """Water-equivalent of everything except bone."""


def render(*, seed: int, patient: int, study: int, label: str, size: int) -> Study:
    """Renders the film of one study, ``size`` x ``size`` pixels (16 to 1024), ``label`` one of ``CLASSES``.

    The same study with two labels shares patient, pose, technique and noise if both labels draw the same view: the
    films then differ only by the signs and the devices that belong to them. Raises UserError for another size or
    label.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise OptionError("size", f"must be from {SIZES[0]} to {SIZES[1]} pixels for phantoms, not {size}")
    if label not in CLASSES:
        raise UserError(f"phantom: unknown class {label!r}{nearest(label, CLASSES)}")
    scene = Scene.of(seed, patient, study, label)
    factor = max(-(-128 // size), 2 if size <= 128 else 1)
    grid = scene.grid(size * factor)
    draw = generator(seed, patient, study, Stream.FILM)
    soft = layers(scene, grid, draw).soft
    bone = _bones(grid, scene) + scene.lines.chord(grid, scene.anatomy, scene.pose)
    lead = film.reduce(marks.marker(grid, scene.pose, scene.technique, draw), factor)
    signal = film.reduce(film.expose(soft, bone, scatter=scene.technique.scatter), factor)
    shown = film.collimate(film.develop(signal, draw, scene.technique), scene.technique)
    shown += lead * (np.float32(0.97) - shown)
    marks.stamp(shown, scene.technique)
    return Study(
        pixels=np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8),
        view=scene.pose.view,
        sex=scene.anatomy.sex,
        age=scene.anatomy.age,
        truth=scene.truth(),
    )


def layers(scene: Scene, grid: Grid, draw: np.random.Generator) -> Layers:
    """Computes everything except bone. ``draw`` is the film's stream, which starts with the lungs' texture."""
    anatomy, pose, signs = scene.anatomy, scene.pose, scene.signs
    soft = thorax.body(grid, anatomy, pose)
    top_of_heart = min(c.z - c.reach_z for c in scene.heart)
    vessels_of_mediastinum = thorax.great_vessels(anatomy, pose, top_of_heart, scene.chest)
    middle = thorax.mediastinum(grid, scene.heart, vessels_of_mediastinum, scene.chest)
    texture = film.smooth_noise(draw, grid.size, 110)
    mottle = film.smooth_noise(draw, grid.size, 26)
    unrest = film.smooth_noise(draw, grid.size, 9)
    chest, lungs, fluid, aerated = (grid.zeros() for _ in range(4))
    # Septal lines have their own stream, so that marker and grain are the same with and without edema.
    lines = draw.spawn(1)[0]
    blood = [vessels.trees(grid, anatomy, scene.chest, scene.lungs, signs)]
    for full, lung, level in zip(scene.chest, scene.lungs, signs.fluid):
        other = full.dome(grid) + middle
        chest_cm = np.maximum(full.chord(grid) - other, 0.0)
        lung_cm = np.minimum(np.maximum(lung.chord(grid) - other, 0.0), chest_cm) if lung.rim else chest_cm
        density = np.float32(0.24 + 0.06 * (1.0 - pose.inspiration) + 0.25 * lung.rim) * (
            1.0 + np.float32(0.09) * texture
        )
        if signs.edema:
            density = density + np.float32(signs.edema) * _haze(grid, full, mottle, texture)
            blood.append(vessels.septal_lines(full, signs, lines))
        density = np.minimum(density, 0.95)
        if level:
            wet = _fluid(grid, full, level, signs.meniscus_cm)
            fluid += lung_cm * wet
            density = density + (1.0 - density) * wet
        soft += lung_cm * density - chest_cm
        chest += chest_cm
        lungs += lung_cm
        aerated += np.clip(lung_cm * np.float32(0.2), 0.0, 1.0) * (1.0 - density)
    blood_cm = Tubes.together(blood).chord(grid)
    # Near the hila vessels overlap, and their densities saturate instead of adding up.
    markings = blood_cm / (1.0 + blood_cm * np.float32(0.22)) * (np.float32(2.5) * aerated)
    soft += markings
    for lung in scene.lungs:
        if lung.rim:
            soft += _pleural_line(grid, lung) * np.float32(1.6)
    # Muscle, fat, bowel and breast are uneven; air outside the body is not.
    uneven = np.float32(0.3) * mottle + np.float32(0.13) * texture + np.float32(0.45) * unrest
    soft += uneven * np.clip(soft * np.float32(0.08), 0.0, 1.0)
    soft -= thorax.airways(grid, pose)
    soft -= thorax.gas(grid, anatomy, pose, scene.chest)
    return Layers(
        heart=union(grid, scene.heart),
        chest=chest,
        lungs=lungs,
        fluid=fluid,
        markings=markings,
        soft=np.maximum(soft, 0.0),
    )


def _bones(grid: Grid, scene: Scene) -> Array:
    anatomy, pose = scene.anatomy, scene.pose
    hollow = [skeleton.ribs(grid, anatomy, pose, scene.chest), skeleton.long_bones(grid, anatomy, pose)]
    hollow.append(skeleton.jaw(grid, pose))
    bone = Tubes.together(hollow).chord(grid, marrow=0.77)
    bone += skeleton.humeral_heads(grid, anatomy, pose)
    bone += skeleton.shoulder_blades(grid, anatomy, pose)
    bone += skeleton.spine(grid, anatomy)
    return bone


def _haze(grid: Grid, lung: Lung, mottle: Array, texture: Array) -> Array:
    """Edema's extra density: bat wings around the hila, some of it patchy, more below than above."""
    x0, z0 = thorax.hilum(lung)
    u = (grid.x - np.float32(x0 * 1.5)) / np.float32(5.0)
    v = ((grid.z - np.float32(z0 + 2.0)) / np.float32(6.0))[:, None]
    return np.exp(-(u * u + v * v)) * (0.42 + 0.12 * mottle + 0.05 * texture) + np.float32(0.09)


def _fluid(grid: Grid, lung: Lung, level: float, meniscus_cm: float) -> Array:
    """Share of the lung's depth filled by fluid, 0..1: a level that rises along the lateral wall."""
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
