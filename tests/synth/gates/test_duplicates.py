"""Planted duplicates are found, whatever the chunks; images of different patients are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrdist.synth.gates import duplicates as module
from cxrdist.synth.gates.copies import coarse
from cxrdist.synth.gates.duplicates import duplicates, limit_of
from cxrdist.synth.gates.judge import Judge
from tests.helpers.radiographs import phantoms, pixels_of
from tests.helpers.tampering import brightened, jpeg, shifted

PLANTED = {
    "exact": lambda images: images,
    "JPEG 60": jpeg,
    "brightened": brightened,
    "down": lambda images: shifted(images, 1, 0),
    "up": lambda images: shifted(images, -1, 0),
    "right": lambda images: shifted(images, 0, 1),
    "left": lambda images: shifted(images, 0, -1),
    "right, JPEG 60": lambda images: jpeg(shifted(images, 0, 1)),
}


def signatures(images: np.ndarray) -> Tensor:
    """As the ranks exchange them: [n, 256] float16."""
    return coarse(pixels_of(images)).half()


@pytest.fixture(scope="module")
def strangers() -> np.ndarray:
    """500 images of one class, each of another patient."""
    return phantoms("Normal", 500, 21, studies=1)


@pytest.fixture(scope="module")
def limit(judge: Judge) -> float:
    assert judge.duplicate_limit is not None
    return judge.duplicate_limit


def test_none_among_500_images_of_different_patients(strangers: np.ndarray, limit: float) -> None:
    assert not duplicates(signatures(strangers), limit).any()


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_duplicates_are_found_and_no_others(kind: str, strangers: np.ndarray, limit: float) -> None:
    images = np.concatenate((strangers[:100], PLANTED[kind](strangers[:100:2]), strangers[100:150]))
    assert duplicates(signatures(images), limit).tolist() == [False] * 100 + [True] * 50 + [False] * 50


def test_the_result_does_not_depend_on_chunks(
    strangers: np.ndarray, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.concatenate((strangers[:60], shifted(strangers[20:50], 0, 1), strangers[30:70]))
    at_once = duplicates(signatures(images), limit)
    assert at_once.sum() == 60
    for chunk in (1, 7, 64):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert duplicates(signatures(images), limit).tolist() == at_once.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_result_does_not_depend_on_the_device(strangers: np.ndarray, limit: float) -> None:
    found = signatures(np.concatenate((strangers[:60], shifted(strangers[20:50], 0, 1))))
    assert duplicates(found.cuda(), limit).tolist() == duplicates(found, limit).tolist()


def test_known_images_stay_and_are_compared_with(strangers: np.ndarray, limit: float) -> None:
    """Known: 0 to 9 and a second 0, which stays; then duplicates of 3 and 12, of which the first 12 stays."""
    numbers = [*range(10), 0, 3, 12, 12, 11]
    found = signatures(strangers[numbers])
    assert duplicates(found, limit, known=11).tolist() == [True, False, True, False]
    assert duplicates(found, limit, known=15).tolist() == []
    assert duplicates(found[:0], limit).tolist() == []


def test_an_image_is_compared_with_those_that_stay_alone() -> None:
    """Of a chain in which each is close to the next only, every other one stays."""
    angles = torch.linspace(0, 0.4, 5)
    waves = torch.arange(256) * 2 * np.pi / 16
    chain = torch.stack([torch.sin(waves + angle) for angle in angles])
    step = float(module._distances(module.aligned(chain[:1]), module.aligned(chain[1:2])[:, 0]))
    apart = float(module._distances(module.aligned(chain[:1]), module.aligned(chain[2:3])[:, 0]))
    between = (step + apart) / 2
    assert step < between < apart
    assert duplicates(chain, between).tolist() == [False, True, False, True, False]


def test_the_limit_by_hand(strangers: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = signatures(strangers[:30]), signatures(strangers[30:50])
    pairs = module._distances(module.aligned(val), module.aligned(train)[:, 0])
    # Of 20 distances the first percentile is the smallest.
    assert limit_of({"A": train}, {"A": val}, 0.5) == pytest.approx(0.5 * float(pairs.min()), rel=1e-6)
    both = limit_of({"A": train, "B": train[:0]}, {"A": val, "B": val}, 0.25)
    assert both == pytest.approx(0.25 * float(pairs.min()), rel=1e-6)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert limit_of({"A": train}, {"A": val}, 0.5) == pytest.approx(0.5 * float(pairs.min()), rel=1e-5)
