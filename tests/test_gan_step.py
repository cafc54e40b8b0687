from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrdist.data.shard_set import ShardSet
from cxrdist.dist import Dist
from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.gan.train import ClassTrainer, choose_classes
from cxrdist.seeds import uniform
from cxrdist.tracking import NoTracker


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32")
    torch.set_num_threads(threads)


@pytest.fixture
def trainer(tiny_set: Path, tmp_path: Path, dist: Dist) -> ClassTrainer:
    config = GANConfig(shards=str(tiny_set), run=str(tmp_path / "run"), maps=8, batch=4, budget="8 images")
    trainer = ClassTrainer(config, "Normal", ShardSet(tiny_set), dist, NoTracker(), "")
    trainer.build()
    return trainer


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def test_each_half_of_a_step_moves_its_own_network_alone(trainer: ClassTrainer) -> None:
    seen: dict[str, list[bool]] = {}
    for name, optimizer in trainer.optimizers.items():
        step = optimizer.step

        def watched(*args: Any, name: str = name, step: Any = step, **kwargs: Any) -> Any:
            before = {k: parameters(m) for k, m in trainer.models.items()}
            result = step(*args, **kwargs)
            for k, m in trainer.models.items():
                seen[f"{name} moves {k}"] = same(before[k], parameters(m))
            return result

        optimizer.step = watched  # type: ignore[method-assign]
    start = parameters(trainer.generator)
    trainer.step(trainer.stream.read(0))
    assert not any(seen["discriminator moves discriminator"])
    assert all(seen["discriminator moves generator"])
    assert not any(seen["generator moves generator"])
    assert all(seen["generator moves discriminator"])
    assert not any(same(start, parameters(trainer.generator)))


def test_g_leaves_no_gradient_in_d(trainer: ClassTrainer) -> None:
    """What D's optimizer steps on next is D's own loss: nothing that G's backward pass left behind."""
    trainer.step(trainer.stream.read(0))
    kept = [p.grad.clone() for p in trainer.discriminator.parameters()]
    assert all(p.requires_grad for p in trainer.discriminator.parameters())
    trainer.discriminator.requires_grad_(False)
    trainer.discriminator(trainer.generator(torch.zeros(2, 128))).sum().backward()
    trainer.discriminator.requires_grad_(True)
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, trainer.discriminator.parameters()))


def test_z_is_uniform_in_128_dimensions_and_belongs_to_the_position(
    trainer: ClassTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []
    trainer.generator.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    trainer.step(trainer.stream.read(3))
    assert given[0].shape == (4, 128)
    assert torch.equal(given[0], torch.from_numpy(uniform(0, "z Normal", range(12, 16), 128)))


def test_seed_and_class_give_the_weights(tiny_set: Path, tmp_path: Path, dist: Dist) -> None:
    def first_weight(class_name: str, seed: int) -> torch.Tensor:
        config = GANConfig(
            shards=str(tiny_set), run=str(tmp_path), maps=8, batch=4, budget="4 images", seed=seed
        )
        trainer = ClassTrainer(config, class_name, ShardSet(tiny_set), dist, NoTracker(), "")
        trainer.build()
        return trainer.generator.project.weight.detach().clone()

    one = first_weight("Normal", 0)
    assert torch.equal(one, first_weight("Normal", 0))
    assert not torch.equal(one, first_weight("Pneumothorax", 0))
    assert not torch.equal(one, first_weight("Normal", 1))


def test_divergence_stops_with_advice(trainer: ClassTrainer) -> None:
    with pytest.raises(UserError, match="no longer finite; lower --learning-rate"):
        trainer.mean_values(torch.tensor([float("nan"), 1, 1, 1]), 1)


def test_images_per_class_caps_the_training_images(tiny_set: Path, tmp_path: Path, dist: Dist) -> None:
    config = GANConfig(shards=str(tiny_set), run=str(tmp_path), maps=8, batch=5, images_per_class=5)
    trainer = ClassTrainer(config, "Normal", ShardSet(tiny_set), dist, NoTracker(), "")
    assert trainer.train_images == trainer.stream.epoch_images == 5
    assert trainer.steps == 20  # 20 epochs of 5 images, in batches of 5


def test_choosing_classes(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    assert choose_classes(("all",), shards) == ["Normal", "Pleural Effusion", "Pneumothorax"]
    assert choose_classes(("Pneumothorax", "Normal"), shards) == ["Normal", "Pneumothorax"]
    with pytest.raises(UserError, match="did you mean 'Pneumothorax'"):
        choose_classes(("Pneumotorax",), shards)
