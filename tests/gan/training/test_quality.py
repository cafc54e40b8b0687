"""Quality during a training, and when it stops by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diversity import real_images
from cxrdist.gan.evaluation.choice import Score
from cxrdist.gan.plan import plan
from cxrdist.gan.training.quality import DRAWN, Quality, reason_to_stop
from cxrdist.gan.training.step import ENGINES
from cxrdist.gan.training.trainer import ModelTrainer
from cxrdist.run.tracking.no_tracker import NoTracker

CONFIG = GANConfig(architecture="conditional", patience_images=200, copy_limit=0.2)


def scores(*values: tuple[int, float | None, float | None]) -> list[Score]:
    return [Score(images, {"A": kid}, {"A": rate}) for images, kid, rate in values]


def test_a_training_stops_when_kid_has_not_improved_for_long_enough() -> None:
    falling = scores((100, 3.0, 0.0), (200, 2.0, 0.0), (300, 2.5, 0.0))
    assert reason_to_stop(CONFIG, falling) is None
    longer = [*falling, *scores((400, 2.1, 0.0))]
    expected = "KID against train has not improved for 200 images (--patience-images 200)"
    assert reason_to_stop(CONFIG, longer) == expected
    assert reason_to_stop(CONFIG, [*falling, *scores((400, 1.9, 0.0))]) is None
    assert reason_to_stop(replace(CONFIG, patience_images=None), longer) is None


def test_a_training_stops_when_too_many_images_are_near_copies() -> None:
    assert reason_to_stop(CONFIG, scores((100, 3.0, 0.2))) is None
    found = reason_to_stop(CONFIG, scores((100, 3.0, 0.25)))
    assert found == "25.0% of its images are near copies of training images (--copy-limit 0.2)"
    assert reason_to_stop(replace(CONFIG, copy_limit=None), scores((100, 3.0, 0.9))) is None
    assert reason_to_stop(CONFIG, scores((100, None, None))) is None


class Repeats(nn.Module):
    """Draws given images [n, 1, H, W] in turn, whatever z is."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        self.images = torch.from_numpy(images).float()[:, None] / 127.5 - 1
        self.cfg = type("Cfg", (), {"z_dim": 4, "z_distribution": "normal"})()

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.images[torch.arange(len(z)) % len(self.images)]


def test_training_images_are_copies_and_noise_is_far(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    name = shards.classes[0]
    quality = Quality(shards, [name], 0, torch.device("cpu"))
    images, numbers = real_images(shards, name, 500)
    assert numbers.tolist() == list(range(shards.samples("train", name, "real")))
    copies = quality.score(Repeats(images), 10)
    noise = quality.score(Repeats(np.random.default_rng(0).integers(0, 256, (DRAWN, 32, 32), np.uint8)), 20)
    assert (copies.images, noise.images) == (10, 20)
    assert copies.copy_rate == 1 and noise.copy_rate is not None and noise.copy_rate < 0.2
    assert copies.kid is not None and noise.kid is not None and copies.kid < 0 < noise.kid


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def test_a_stopped_training_exports_its_generator_and_stays_stopped(
    tiny_set: Path, tmp_path: Path, dist: Dist
) -> None:
    options: dict[str, Any] = {"widths": (8, 8, 4), "d_widths": (8, 8, 4), "z_dim": 8, "batch": 4}
    config = GANConfig(
        shards=str(tiny_set),
        run=str(tmp_path / "run"),
        architecture="conditional",
        budget="80 images",
        look_every_images=8,
        images_per_class=None,
        patience_images=1,
        **options,
    )
    shards = ShardSet(tiny_set)

    def trainer() -> ModelTrainer:
        return ModelTrainer(config, plan(config, shards)[0], shards, dist, NoTracker(), "GAN")

    first = trainer()
    kids = iter([5.0, 4.0, 4.5])

    class Fixed:
        def score(self, generator: nn.Module, images: int) -> Score:
            return Score(images, {"A": next(kids)}, {"A": 0.0})

    first.looks.__dict__["quality"] = Fixed()
    first.train()
    summary = json.loads((first.folder / "summary.json").read_text())
    assert (summary["images_seen"], summary["steps"]) == (24, 6)
    assert summary["stopped"] == "KID against train has not improved for 8 images (--patience-images 1)"
    assert (first.folder / "generator.safetensors").exists()
    # Killed before the export, the same command exports and trains no further.
    (first.folder / "summary.json").unlink()
    second = trainer()
    second.train()
    assert (
        json.loads((second.folder / "summary.json").read_text())["weights_sha256"]
        == summary["weights_sha256"]
    )
    assert [score.kid for score in second.looks.scores] == [5.0, 4.0, 4.5]
