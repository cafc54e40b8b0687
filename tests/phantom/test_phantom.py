"""The phantom: exact counts, the same bytes for the same ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cxrdist.data.importers.phantom import Phantom, class_counts
from cxrdist.errors import UserError
from cxrdist.phantom import CLASSES, Study, describe, marks, render
from cxrdist.phantom.scene import Scene


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
    records = list(Phantom().records())
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
    assert len(list(Phantom(images=images).records())) == images


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
    assert list(Phantom(images=300, classes=two).records()) == [
        r for r in Phantom(images=300).records() if r.label in two
    ]


def test_user_mistakes_are_named() -> None:
    with pytest.raises(
        UserError, match="classes: 'Pneumotorax' is not a choice; did you mean 'Pneumothorax'"
    ):
        Phantom(classes=("Normal", "Pneumotorax"))
    with pytest.raises(UserError, match="images: must be 1 or more, not 0"):
        Phantom(images=0)
    with pytest.raises(UserError, match="seed: must be 0 or more, not -1"):
        Phantom(seed=-1)
    with pytest.raises(UserError, match="classes: names none; choose among Cardiomegaly"):
        Phantom(classes=())


def test_records_say_what_the_film_says() -> None:
    source = Phantom(seed=3, images=12)
    for record in source.records():
        _, patient, study = record.source_id.split("-")
        assert record.label is not None
        shown = render(seed=3, patient=int(patient), study=int(study), label=record.label, size=32)
        assert (record.view, record.sex, record.age) == (shown.view, shown.sex, shown.age)
        assert describe(3, int(patient), int(study), record.label) == (shown.view, shown.sex, shown.age)
        assert np.array_equal(source.pixels(record, 32, "pad"), shown.pixels)


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
    with pytest.raises(UserError, match=f"^size: must be from 16 to 1024 pixels for phantoms, not {size}$"):
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
