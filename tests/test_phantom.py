"""The phantom: exact counts, the same bytes for the same ids, and signs that can be measured."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cxrdist.data.importers.phantom import Phantom, class_counts
from cxrdist.data.phantom import CLASSES, Study, describe, render
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


@pytest.mark.parametrize("size", [32, 33, 100, 200, 512])
def test_any_size_is_the_same_chest(size: int) -> None:
    pixels = film(4, "Cardiomegaly", size=size).pixels
    assert pixels.shape == (size, size) and pixels.dtype == np.uint8
    assert pixels.min() < 30 and pixels.max() > 200
    cells = np.arange(16) * size // 16
    reference = film(4, "Cardiomegaly", size=128).pixels
    coarse = [
        np.add.reduceat(np.add.reduceat(p.astype(float), c, 0), c, 1)
        / np.outer(np.diff(np.append(c, len(p))), np.diff(np.append(c, len(p))))
        for p, c in ((pixels, cells), (reference, np.arange(16) * 8))
    ]
    assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.98


def test_truth_separates_the_classes() -> None:
    for patient in range(8):
        truth = {label: film(patient, label, size=32).truth for label in CLASSES}
        assert truth["Cardiomegaly"]["cardiothoracic_ratio"] > 0.5 > truth["Normal"]["cardiothoracic_ratio"]
        assert truth["Pneumothorax"]["cardiothoracic_ratio"] < 0.5
        for label in CLASSES:
            assert (truth[label]["fluid_level"] > 0) == (label == "Pleural Effusion")
            assert (truth[label]["pneumothorax_area"] > 0) == (label == "Pneumothorax")
            assert (truth[label]["severity"] > 0) == (label != "Normal")
            assert 0 <= truth[label]["pneumothorax_area"] < 0.7


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


def test_air_beyond_the_pleural_line_is_darker_and_has_no_markings() -> None:
    size, checked = 96, 0
    for air, dry in alike("Pneumothorax", size=size, count=12):
        if air.truth["pneumothorax_area"] < 0.24:  # a thinner rim is too few pixels to measure
            continue
        checked += 1
        darker = (dry.pixels.astype(float) - air.pixels) > 12
        darker[size * 3 // 4 :] = False
        # Within the rim, ribs are all that is left: less changes from pixel to pixel than before.
        inside = (
            darker[1:-1, 1:-1] & darker[:-2, 1:-1] & darker[2:, 1:-1] & darker[1:-1, :-2] & darker[1:-1, 2:]
        )
        assert inside.mean() > 0.01, air.truth
        assert markings(air.pixels)[inside].mean() < 0.95 * markings(dry.pixels)[inside].mean()
    assert checked >= 3


def markings(pixels: np.ndarray) -> np.ndarray:
    """Absolute Laplacian: fine structure, [H - 2, W - 2]."""
    p = pixels.astype(float)
    return np.abs(4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:])


def test_edema_clouds_the_lungs_around_the_hila() -> None:
    for cloudy, clear in alike("Pulmonary Edema", size=64, count=8):
        lungs = np.r_[14:26, 40:50]
        haze = cloudy.pixels[24:40][:, lungs].mean() - clear.pixels[24:40][:, lungs].mean()
        assert haze > 4, (haze, cloudy.truth)


def test_a_large_heart_is_wide_on_the_film() -> None:
    for large, usual in alike("Cardiomegaly", size=64, count=8):
        beside = (large.pixels.astype(float) - usual.pixels)[34:46, 16:50]
        assert beside.max() > 40, large.truth
