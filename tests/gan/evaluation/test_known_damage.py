"""The self-test of the evaluation (benchmarks/gan/judges.py) in small: each damage is noticed by its metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.gan import judges
from cxrdist.features.spaces import CLASSIFIER, Space, pixel_space

pytestmark = pytest.mark.slow

SIZE, CLASSES = 64, ("left", "right")


def images_of(label: int, count: int, seed: int) -> np.ndarray:
    """Smooth structures, brighter on one side: [n, H, W] uint8."""
    rough = torch.rand(count, 1, SIZE + 12, SIZE + 12, generator=torch.Generator().manual_seed(seed))
    grey = (avg_pool2d(rough, 13, 1)[:, 0] - 0.5) * 600 + 110
    half = slice(0, SIZE // 2) if label == 0 else slice(SIZE // 2, SIZE)
    grey[:, :, half] += 40
    return grey.round().clamp(0, 255).byte().numpy()


def textures(images: Tensor) -> Tensor:
    """[n, 6]: roughness across and down, at two distances; then the logits, the mean grey of either side."""
    grey = images.float()[:, 0] / 32
    rough = [(grey[:, :, step:] - grey[:, :, :-step]).square().mean((1, 2)) for step in (1, 2)]
    rough += [(grey[:, step:] - grey[:, :-step]).square().mean((1, 2)) for step in (1, 2)]
    sides = [grey[..., : SIZE // 2].mean((1, 2)), grey[..., SIZE // 2 :].mean((1, 2))]
    return torch.stack([*rough, *sides], 1)


@pytest.fixture(scope="module")
def judge() -> judges.Judge:
    train = {name: images_of(label, 40, label) for label, name in enumerate(CLASSES)}
    held_out = {name: images_of(label, 120, 10 + label) for label, name in enumerate(CLASSES)}
    patients = ({n: np.arange(len(some)) for n, some in part.items()} for part in (train, held_out))
    spaces = [Space(CLASSIFIER, "", 4, None, textures, logits=2), pixel_space()]
    return judges.Judge(judges.Pool(train, held_out, *patients), spaces, [CLASSIFIER], 40)


def test_each_damage_is_caught_by_its_metric(judge: judges.Judge) -> None:
    rows = judges.run(judge, 4)
    assert {row["damage"]: row["caught"] for row in rows} == dict.fromkeys(judges.DAMAGES, 1.0)


def test_draws_without_damage_are_within_the_range(judge: judges.Judge) -> None:
    undamaged = [judge.metrics(seed, None) for seed in range(12)]
    same = [judge.metrics(100 + seed, lambda images, *_: images) for seed in range(4)]
    (row,) = judges.rows_of(undamaged, {"swapped classes": same})
    assert row["caught"] == 0 and row["damaged"] == 1


def test_a_damage_changes_what_it_says(judge: judges.Judge) -> None:
    images, draw = judge.pool.held_out, np.random.default_rng(0)
    copies = judges.copied(images, judge.pool, draw)
    train = {image.tobytes() for image in judge.pool.train["left"]}
    assert sum(image.tobytes() in train for image in copies["left"]) == 40
    assert (copies["left"][40:] == images["left"][40:]).all()
    swapped = judges.swapped(images, judge.pool, draw)
    assert (swapped["left"][:30] == images["right"][-30:]).all()
    assert (swapped["left"][30:] == images["left"][30:]).all()
    repeated = judges.repeated(images, judge.pool, draw)["left"].astype(int)
    assert np.abs(repeated[12:24] - repeated[:12]).max() < 12
    flat = {"left": np.full((1, SIZE, SIZE), 100, np.uint8)}
    assert (judges.blurred(flat, judge.pool, draw)["left"] == 100).all()
    assert sorted({*judges.streaked(flat, judge.pool, draw)["left"].flat}) == [100, 110, 120]
    assert judges.noisy(flat, judge.pool, draw)["left"].std() == pytest.approx(8, abs=0.5)
