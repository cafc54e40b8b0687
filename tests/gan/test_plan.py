from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AugmentConfig
from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.gan.plan import (
    ModelPlan,
    augment_strengths,
    choose_classes,
    learning_rate_of,
    look_steps,
    plan,
    rate_factor,
    shares,
)

CONDITIONAL = GANConfig(architecture="conditional", images_per_class=None, batch=4, budget="2 epochs")


def test_the_paper_trains_a_model_per_class_on_at_most_2000_images_of_it(tiny_set: Path) -> None:
    models = plan(GANConfig(batch=2, budget="3 epochs", images_per_class=7), ShardSet(tiny_set))
    assert [(m.name, m.folder, m.classes, m.quotas, m.train_images, m.steps) for m in models] == [
        ("Normal", "normal", ("Normal",), {"Normal": {"real": 7}}, 7, 10),
        (
            "Pleural Effusion",
            "pleural-effusion",
            ("Pleural Effusion",),
            {"Pleural Effusion": {"real": 6}},
            6,
            9,
        ),
        ("Pneumothorax", "pneumothorax", ("Pneumothorax",), {"Pneumothorax": {"real": 4}}, 4, 6),
    ]


def test_a_conditional_model_learns_all_classes_equally_often(tiny_set: Path) -> None:
    (model,) = plan(CONDITIONAL, ShardSet(tiny_set))
    assert (model.name, model.folder) == ("all classes", "all-classes")
    assert model.classes == ("Normal", "Pleural Effusion", "Pneumothorax")
    assert model.quotas == {name: {"real": 6} for name in model.classes}  # 8, 6 and 4 images, 18 an epoch
    assert (model.train_images, model.steps) == (18, 9)


def test_a_conditional_model_of_some_classes_is_refused(tiny_set: Path) -> None:
    with pytest.raises(UserError, match=r"^classes: Normal: a conditional GAN trains on all classes"):
        plan(replace(CONDITIONAL, classes=("Normal",)), ShardSet(tiny_set))


def test_a_mix_with_synthetic_images_is_refused(tiny_set: Path) -> None:
    with pytest.raises(UserError, match=r"^mix: DS3: a GAN trains on real images only"):
        plan(replace(CONDITIONAL, mix="DS3"), ShardSet(tiny_set))


def test_choosing_classes(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    assert choose_classes(("all",), shards) == ["Normal", "Pleural Effusion", "Pneumothorax"]
    assert choose_classes(("Pneumothorax", "Normal"), shards) == ["Normal", "Pneumothorax"]
    with pytest.raises(UserError, match="did you mean 'Pneumothorax'"):
        choose_classes(("Pneumotorax",), shards)


@pytest.mark.parametrize(
    ("images", "rate"),
    [(5000, 2e-4), (2000, 2e-4), (1000, 4e-4), (201, 2e-4 * 2000 / 201), (200, 2e-3), (11, 2e-3)],
)
def test_the_papers_learning_rate_goes_by_dataset_size(images: int, rate: float) -> None:
    """2e-4 to 2e-3 (paper 2.1)."""
    assert learning_rate_of(GANConfig(rate_images=2000), images) == pytest.approx(rate, rel=1e-12)
    assert learning_rate_of(GANConfig(), images) == 2e-4


@pytest.mark.parametrize(
    ("steps", "batch", "every", "expected"),
    [
        (20, 4, None, {2, 4, 6, 8, 10, 12, 14, 16, 18, 20}),
        (3, 4, None, {1, 2, 3}),
        (20, 4, 30, {8, 15, 20}),  # 32, 60 and, at the end, 80 images
        (20, 4, 40, {10, 20}),
        (20, 4, 1000, {20}),
        (3, 4, 1, {1, 2, 3}),
    ],
)
def test_looks(steps: int, batch: int, every: int | None, expected: set[int]) -> None:
    assert look_steps(steps, batch, every) == expected


def model(name: str, steps: int) -> ModelPlan:
    return ModelPlan(name, (name,), {name: {"real": 1}}, 1, steps, 2e-4)


@pytest.mark.parametrize(
    ("steps", "processes", "expected"),
    [
        ([5, 5, 5, 5, 5], 2, ["ace", "bd"]),
        ([5, 5, 5, 5, 5], 8, ["a", "b", "c", "d", "e", "", "", ""]),
        ([9, 1, 2, 3, 4], 2, ["ab", "edc"]),
        ([5, 5], 1, ["ab"]),
    ],
)
def test_shares_are_all_models_once_and_even(steps: list[int], processes: int, expected: list[str]) -> None:
    models = [model(name, n) for name, n in zip("abcde", steps)]
    assert ["".join(m.name for m in share) for share in shares(models, processes)] == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"minibatch_std": True},
            "minibatch_std: the paper's dcgan has none; use --architecture conditional",
        ),
        (
            {"architecture": "conditional", "minibatch_std": True, "accumulate": 2},
            "minibatch_std_images: must divide a part of the batch, 32 images, with --accumulate 2; it is null",
        ),
        (
            {
                "architecture": "conditional",
                "minibatch_std": True,
                "accumulate": 2,
                "minibatch_std_images": 64,
            },
            "minibatch_std_images: is 64, which does not divide a part of the batch, 32 images",
        ),
        ({"z_dim": 7}, "z_dim: must be an even number of 2 or more, not 7"),
        ({"rate_decay": 1.5}, "rate_decay: must be from 0 to 1, not 1.5"),
        ({"beta1": 1.0}, "beta1: must be at least 0 and below 1, not 1.0"),
        ({"rate_images": 0}, "rate_images: must be 1 or more, or null, not 0"),
        ({"ema_half_life_images": -1}, "ema_half_life_images: must be 0 or more, not -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        GANConfig(**options)


def test_the_learning_rate_falls_linearly_over_the_last_part_of_the_budget() -> None:
    assert {rate_factor(0, step, 100) for step in range(100)} == {1}
    assert [rate_factor(0.5, step, 100) for step in (0, 49, 50)] == [1, 1, 1]
    assert rate_factor(0.5, 75, 100) == pytest.approx((1 + 0.05) / 2)
    assert rate_factor(0.5, 100, 100) == pytest.approx(0.05)
    assert rate_factor(1, 50, 100) == pytest.approx((1 + 0.05) / 2)


def test_rare_classes_are_augmented_more(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)  # 7, 6 and 4 training images
    counts = [shards.samples("train", name, "real") for name in shards.classes]
    for images, expected in ((None, [1, 1, 1]), (5, [min(1.5, 5 / count) for count in counts])):
        config = replace(CONDITIONAL, augment=AugmentConfig(shift=0.1), augment_images=images)
        strengths = augment_strengths(config, plan(config, shards)[0], shards)
        assert strengths is not None and strengths.tolist() == pytest.approx(expected)
    assert augment_strengths(CONDITIONAL, plan(CONDITIONAL, shards)[0], shards) is None
