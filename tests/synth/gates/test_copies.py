"""Planted copies of training images: the gate of copies alone refuses all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrdist.features.spaces import PIXELS
from cxrdist.synth.gates import copies
from cxrdist.synth.gates.copies import CopyGate, TrainImages, coarse
from cxrdist.synth.gates.thresholds import most_extreme
from tests.helpers.radiographs import REAL_DATA, patients_of, phantoms, pixels_of, real_films
from tests.helpers.tampering import COPIES

PLANTED = 500


def scores(gate: CopyGate, images: np.ndarray) -> np.ndarray:
    return gate.scores("Normal", {PIXELS: pixels_of(images)}).numpy()


def admitted(train: np.ndarray, patients: Tensor, val: np.ndarray) -> dict[str, int]:
    """Of 500 copies, as many of each kind."""
    gate = CopyGate(TrainImages.of(pixels_of(train), patients))
    threshold = most_extreme(scores(gate, val), 1, refuses_high=False)
    of_each = -(-PLANTED // len(COPIES))
    chosen = np.random.default_rng(0).permutation(len(train))
    found = {}
    for number, (kind, change) in enumerate(COPIES.items()):
        some = np.take(chosen, range(number * of_each, (number + 1) * of_each), mode="wrap")
        found[kind] = int((scores(gate, change(train[some])) >= threshold).sum())
    return found


def test_no_planted_copy_of_a_phantom_is_admitted(
    train: dict[str, np.ndarray], val: dict[str, np.ndarray]
) -> None:
    everything, others = np.concatenate([*train.values()]), np.concatenate([*val.values()])
    assert admitted(everything, patients_of(len(everything)), others) == dict.fromkeys(COPIES, 0)


@pytest.mark.skipif(REAL_DATA is None, reason="needs $CXRDIST_REAL_DATA")
@pytest.mark.parametrize("name", ["nih64", "nih256"])
def test_no_planted_copy_of_a_real_film_is_admitted(name: str) -> None:
    images, patients = real_films(name)
    groups = torch.from_numpy(patients["train"])
    assert admitted(images["train"], groups, images["val"]) == dict.fromkeys(COPIES, 0)


def test_the_source_of_a_copy_is_named(train: dict[str, np.ndarray]) -> None:
    images = np.concatenate([*train.values()])
    gate = CopyGate(TrainImages.of(pixels_of(images), patients_of(len(images))))
    some = np.arange(0, 400, 10)
    for change in COPIES.values():
        assert gate.train.relative_distances(pixels_of(change(images[some])))[1].tolist() == some.tolist()


def test_scores_do_not_depend_on_chunks(
    train: dict[str, np.ndarray], test: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, other = train["Normal"], test["Normal"]
    gate = CopyGate(TrainImages.of(pixels_of(images), patients_of(len(images))))
    at_once = scores(gate, other)
    monkeypatch.setattr(copies, "CHUNK", 7)
    monkeypatch.setattr(copies, "QUERIES", 3)
    assert scores(gate, other) == pytest.approx(at_once, abs=1e-5)


def test_an_image_without_contrast_is_no_copy(train: dict[str, np.ndarray]) -> None:
    images = train["Normal"]
    gate = CopyGate(TrainImages.of(pixels_of(images), patients_of(len(images))))
    assert scores(gate, np.full((2, 64, 64), 90, np.uint8)) == pytest.approx(1, abs=1e-3)
    assert coarse(pixels_of(np.full((1, 64, 64), 90, np.uint8))).abs().max() == 0


def test_without_other_patients_nothing_is_a_copy() -> None:
    images = phantoms("Normal", 80, 11)[:2]
    gate = CopyGate(TrainImages.of(pixels_of(images), torch.zeros(2, dtype=torch.int64)))
    assert scores(gate, images).tolist() == [1e6, 1e6]
