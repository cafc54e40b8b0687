"""The phantom's signs: on the ground truth, on what is projected, and on the films."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist.phantom import CLASSES, Study, describe, render
from cxrdist.phantom.anatomy import Stream, generator
from cxrdist.phantom.project import Grid
from cxrdist.phantom.render import Layers, layers
from cxrdist.phantom.scene import Scene


def film(patient: int, label: str, *, size: int = 64) -> Study:
    return render(seed=0, patient=patient, study=0, label=label, size=size)


# Signs, on the ground truth.


def test_truth_separates_the_classes() -> None:
    for patient in range(60):
        truth = {label: Scene.of(0, patient, 0, label).truth() for label in CLASSES}
        assert truth["Cardiomegaly"]["cardiothoracic_ratio"] > 0.5 > truth["Normal"]["cardiothoracic_ratio"]
        assert truth["Pneumothorax"]["cardiothoracic_ratio"] < 0.5
        assert truth["Pulmonary Edema"]["cardiothoracic_ratio"] > truth["Normal"]["cardiothoracic_ratio"]
        for label in CLASSES:
            for sign, of in {
                "fluid_level": "Pleural Effusion",
                "meniscus_cm": "Pleural Effusion",
                "edema": "Pulmonary Edema",
                "septal_lines": "Pulmonary Edema",
                "pneumothorax_area": "Pneumothorax",
            }.items():
                assert (truth[label][sign] > 0) == (label == of), (patient, label, sign)
            assert (truth[label]["severity"] > 0) == (label != "Normal")
            assert truth[label]["pneumothorax_area"] < 0.7


def test_mild_disease_touches_health() -> None:
    truth = {label: [Scene.of(0, p, 0, label).truth() for p in range(150)] for label in CLASSES}
    ratio = {label: [t["cardiothoracic_ratio"] for t in truths] for label, truths in truth.items()}
    assert 0.48 < max(ratio["Normal"]) < 0.5 < min(ratio["Cardiomegaly"]) < 0.52
    assert min(ratio["Pulmonary Edema"]) < max(ratio["Normal"])
    assert min(t["fluid_level"] for t in truth["Pleural Effusion"]) < 0.06
    assert min(t["edema"] for t in truth["Pulmonary Edema"]) < 0.2
    assert min(t["pneumothorax_area"] for t in truth["Pneumothorax"]) < 0.1
    for label in CLASSES[:1] + CLASSES[2:]:
        severity = np.array([t["severity"] for t in truth[label]])
        assert np.histogram(severity, bins=4, range=(0, 1))[0].min() >= 3, "a quarter of the range is empty"


# Signs, measured in pixels of what is projected.


def parts(patient: int, label: str, size: int = 192) -> tuple[Scene, Grid, Layers]:
    scene = Scene.of(0, patient, 0, label)
    grid = scene.grid(size)
    return scene, grid, layers(scene, grid, generator(0, patient, 0, Stream.FILM))


@pytest.mark.parametrize("label", ["Normal", "Cardiomegaly"])
def test_cardiothoracic_ratio_measured_on_the_silhouettes(label: str) -> None:
    for patient in range(8):
        scene, grid, part = parts(patient, label)
        heart, chest = np.ptp(grid.x[part.heart > 0]), np.ptp(grid.x[part.chest > 0])
        # Each edge may miss half a pixel.
        tolerance = 1.5 * grid.pixel_cm / chest
        assert abs(heart / chest - scene.truth()["cardiothoracic_ratio"]) < tolerance
        assert (heart / chest > 0.5) == (label == "Cardiomegaly")


def test_fluid_climbs_along_the_lateral_wall_and_blunts_the_angle() -> None:
    for patient in range(12):
        scene, grid, part = parts(patient, "Pleural Effusion")
        _, _, dry = parts(patient, "Normal")
        assert not dry.fluid.any()
        lung = scene.chest[int(np.argmax(scene.signs.fluid))]
        wet = part.fluid > 0.5 * np.maximum(part.lungs, 0.1)
        out = np.broadcast_to(lung.side * grid.x / lung.half_width, wet.shape)  # 1 at the lateral wall
        top = {}
        for name, low, high in (("wall", 0.85, 0.97), ("middle", 0.4, 0.5)):
            rows = np.nonzero((wet & (out > low) & (out < high)).any(1))[0]
            top[name] = float(grid.z[rows[0]]) if rows.size else np.inf
        # The angle, where the lung is lowest, is filled; from there the surface falls towards the middle.
        assert top["wall"] < lung.base_z - 0.045 * (lung.base_z - lung.apex_z)
        assert top["middle"] - top["wall"] > 0.2 * scene.signs.meniscus_cm, (patient, top)


def test_no_markings_beyond_the_pleural_line() -> None:
    for patient in range(10):
        scene, grid, part = parts(patient, "Pneumothorax")
        side = scene.lungs[int(scene.signs.collapse[1] > 0)].side
        chest = (part.chest > 1.0) & (side * grid.x > 0)
        rim = chest & (part.lungs == 0)
        truth = scene.truth()["pneumothorax_area"]
        # The truth's area includes what heart and diaphragm hide.
        assert 0.8 * truth < rim.sum() / chest.sum() < 1.6 * truth
        assert part.markings[rim].max() == 0.0
        _, _, whole = parts(patient, "Normal")
        assert (whole.markings[rim] > 0).mean() > 0.1, "a healthy lung has markings there"
        assert (whole.lungs == whole.chest).all()


def test_edema_is_haze_at_the_hila_and_lines_at_the_wall() -> None:
    checked = 0
    for patient in range(40):
        scene, grid, part = parts(patient, "Pulmonary Edema", size=160)
        if scene.signs.edema < 0.4 or scene.pose != Scene.of(0, patient, 0, "Normal").pose:
            continue
        checked += 1
        _, _, clear = parts(patient, "Normal", size=160)
        lungs = (part.lungs > 3.0) & (clear.lungs > 3.0)
        extra = (part.soft - clear.soft) / np.maximum(part.lungs, 1.0)
        far = np.hypot(np.abs(grid.x) - 5.5, grid.z[:, None] - 1.0)
        assert extra[lungs & (far < 4.0)].mean() > 1.5 * extra[lungs & (far > 9.0)].mean() > 0
        lung = scene.chest[0]
        corner = (-grid.x > 0.85 * lung.half_width) & (grid.z[:, None] > lung.base_z - 7.5) & (part.chest > 0)
        assert part.markings[corner].sum() > clear.markings[corner].sum()
    assert checked >= 5


# Signs, on the films.


def alike(label: str, *, size: int, count: int) -> list[tuple[Study, Study]]:
    """(with the sign, Normal) of the same patients, where both were taken the same way."""
    pairs = []
    for patient in range(100):
        if describe(0, patient, 0, label)[0] == describe(0, patient, 0, "Normal")[0]:
            pairs.append((film(patient, label, size=size), film(patient, "Normal", size=size)))
        if len(pairs) == count:
            return pairs
    raise AssertionError("too few pairs")


def test_fluid_whitens_a_costophrenic_angle() -> None:
    for wet, dry in alike("Pleural Effusion", size=64, count=12):
        difference = wet.pixels.astype(float) - dry.pixels
        lateral = difference[42:56, 5:20].max(), difference[42:56, 44:59].max()
        # Without the fluid the two films are the same, byte for byte; the mildest blunt the angle a little.
        assert max(lateral) > (50 if wet.truth["severity"] > 0.3 else 10), (lateral, wet.truth)


def test_air_beyond_the_pleural_line_is_darker() -> None:
    for air, dry in alike("Pneumothorax", size=96, count=12):
        if air.truth["pneumothorax_area"] > 0.12:  # a thinner rim is too few pixels to measure
            darker = (dry.pixels.astype(float) - air.pixels)[: 96 * 3 // 4] > 12
            assert darker.mean() > 0.02, air.truth


def test_edema_clouds_the_lungs_around_the_hila() -> None:
    for cloudy, clear in alike("Pulmonary Edema", size=64, count=8):
        lungs = np.r_[14:26, 40:50]
        haze = cloudy.pixels[24:40][:, lungs].mean() - clear.pixels[24:40][:, lungs].mean()
        assert haze > 4, (haze, cloudy.truth)


def test_a_large_heart_is_wide_on_the_film() -> None:
    for large, usual in alike("Cardiomegaly", size=64, count=8):
        beside = (large.pixels.astype(float) - usual.pixels)[34:46, 16:50]
        assert beside.max() > 40, large.truth
