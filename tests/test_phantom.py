"""The phantom: exact counts, the same bytes for the same ids, and signs that can be measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cxrdist.data.importers.phantom import Phantom, class_counts
from cxrdist.data.phantom import CLASSES, Study, describe, marks, render
from cxrdist.data.phantom.anatomy import Stream, generator
from cxrdist.data.phantom.project import Grid
from cxrdist.data.phantom.render import Layers, layers
from cxrdist.data.phantom.scene import Scene
from cxrdist.errors import UserError


def film(patient: int, label: str, *, study: int = 0, size: int = 64) -> Study:
    return render(seed=0, patient=patient, study=study, label=label, size=size)


def test_counts_are_the_papers_at_the_papers_total() -> None:
    assert class_counts(56_420) == {
        "Cardiomegaly": 17_098,
        "Normal": 15_781,
        "Pleural Effusion": 14_510,
        "Pulmonary Edema": 5_018,
        "Pneumothorax": 4_013,
    }


def test_counts_by_largest_remainder_at_1128() -> None:
    records = Phantom().records()
    assert Counter(r.label for r in records) == {
        "Cardiomegaly": 342,
        "Normal": 316,
        "Pleural Effusion": 290,
        "Pulmonary Edema": 100,
        "Pneumothorax": 80,
    }
    assert len({r.source_id for r in records}) == 1128


@pytest.mark.parametrize("images", [1, 2, 3, 7, 99])
def test_small_counts_sum_to_the_total(images: int) -> None:
    assert sum(class_counts(images).values()) == images
    assert len(Phantom(images=images).records()) == images


def test_patients_repeat_and_some_change_class() -> None:
    labels_of: dict[str, list[str | None]] = {}
    described: dict[str, set[tuple[str | None, int | None]]] = {}
    for r in Phantom().records():
        assert r.source_id.startswith(r.patient_id + "-")
        labels_of.setdefault(r.patient_id, []).append(r.label)
        described.setdefault(r.patient_id, set()).add((r.sex, r.age))
    studies = Counter(len(labels) for labels in labels_of.values())
    assert set(studies) == {1, 2, 3, 4}
    assert studies[1] > sum(studies.values()) / 2
    assert any(labels[0] == "Normal" and labels[-1] == "Pleural Effusion" for labels in labels_of.values())
    assert all(len(who) == 1 for who in described.values())


def test_a_subset_of_classes_keeps_the_very_same_records() -> None:
    two = ("Normal", "Pneumothorax")
    assert Phantom(images=300, classes=two).records() == [
        r for r in Phantom(images=300).records() if r.label in two
    ]


def test_user_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="unknown class 'Pneumotorax'; did you mean 'Pneumothorax'"):
        Phantom(classes=("Normal", "Pneumotorax"))
    with pytest.raises(UserError, match="images is 0"):
        Phantom(images=0)
    with pytest.raises(UserError, match="seed is -1"):
        Phantom(seed=-1)
    with pytest.raises(UserError, match="classes is empty"):
        Phantom(classes=())


def test_records_say_what_the_film_says() -> None:
    source = Phantom(seed=3, images=12)
    for record in source.records():
        _, patient, study = record.source_id.split("-")
        assert record.label is not None
        shown = render(seed=3, patient=int(patient), study=int(study), label=record.label, size=32)
        assert (record.view, record.sex, record.age) == (shown.view, shown.sex, shown.age)
        assert describe(3, int(patient), int(study), record.label) == (shown.view, shown.sex, shown.age)
        assert np.array_equal(source.pixels(record, 32), shown.pixels)


def test_same_ids_same_bytes_in_any_order() -> None:
    ids = [(patient, study, label) for patient in (1, 2) for study in (0, 1) for label in CLASSES]
    forward = {i: film(i[0], i[2], study=i[1], size=48).pixels.tobytes() for i in ids}
    np.random.seed(5)
    backward = {i: film(i[0], i[2], study=i[1], size=48).pixels.tobytes() for i in reversed(ids)}
    assert forward == backward
    assert len(set(forward.values())) == len(ids)


def test_another_seed_is_another_film() -> None:
    first, second = (render(seed=s, patient=1, study=0, label="Normal", size=32).pixels for s in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("size", [16, 32, 33, 100, 200, 512, 1024])
def test_any_size_is_the_same_chest(size: int) -> None:
    pixels = film(4, "Cardiomegaly", size=size).pixels
    assert pixels.shape == (size, size) and pixels.dtype == np.uint8
    assert pixels.min() < 40 and pixels.max() > 200
    # The smaller film against the means of the larger, where both have the same pixels' edges.
    cells = 16 if size % 16 == 0 else np.gcd(size, 200) if size % 100 == 0 else 0
    if cells:
        reference = film(4, "Cardiomegaly", size=200 if size % 100 == 0 else 128).pixels
        a, b = (
            p.reshape(cells, len(p) // cells, cells, -1).mean((1, 3)).ravel() for p in (pixels, reference)
        )
        assert np.corrcoef(a, b)[0, 1] > 0.99


@pytest.mark.parametrize("size", [15, 1025, 2048])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"--size {size}: phantoms are rendered from 16 to 1024 pixels"):
        film(0, "Normal", size=size)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(UserError, match="unknown class 'Pneumotorax'; did you mean 'Pneumothorax'"):
        film(0, "Pneumotorax")


def test_repeat_studies_share_the_patient_and_nothing_else() -> None:
    for patient in range(20):
        first, second = (Scene.of(0, patient, study, "Normal") for study in (0, 1))
        assert first.anatomy == second.anatomy
        assert first.lines.pacemaker == second.lines.pacemaker
        assert first.lines.sternal_wires == second.lines.sternal_wires
        assert first.pose != second.pose and first.technique != second.technique


def test_both_views_and_both_sexes_occur_in_every_class() -> None:
    for label in CLASSES:
        scenes = [Scene.of(0, patient, 0, label) for patient in range(60)]
        assert {s.pose.view for s in scenes} == {"PA", "AP"}
        assert {s.anatomy.sex for s in scenes} == {"M", "F"}


def test_technique_and_word_tell_the_view_at_most() -> None:
    for patient in range(30):
        by_view: dict[str, set[object]] = {}
        for label in CLASSES:
            scene = Scene.of(0, patient, 0, label)
            by_view.setdefault(scene.pose.view, set()).add(scene.technique)
        assert all(len(techniques) == 1 for techniques in by_view.values())


@pytest.mark.parametrize("size", [64, 127, 128, 256, 512])
def test_from_128_pixels_the_word_is_written_in_a_corner(size: int) -> None:
    technique = Scene.of(0, 0, 0, "Normal").technique
    for above in (True, False):
        for right in (True, False):
            shown = np.zeros((size, size), np.float32)
            marks.stamp(shown, replace(technique, word_above=above, marker_right=right))
            if size < 128:
                assert not shown.any()
                continue
            rows, columns = np.nonzero(shown > 0.5)
            assert rows.max() - rows.min() >= 5, "too small to read"
            assert (rows.max() < size / 8) if above else (rows.min() > size * 7 / 8)
            assert (columns.min() > size / 2) if right else (columns.max() < size / 2)
            # Seven letters: seven runs of columns with ink, six gaps.
            inked = (shown > 0.5).any(0).astype(int)
            assert np.count_nonzero(np.diff(inked) == 1) == 7 or size < 512


def test_the_word_can_be_read_on_a_white_film() -> None:
    shown = np.ones((256, 256), np.float32)
    marks.stamp(shown, Scene.of(0, 0, 0, "Normal").technique)
    assert shown.min() < 0.2


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
