"""One step of a GAN, and what a trainer gives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxrdist.counter_rng import bits, to_normal, to_uniform, uniform
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AugmentConfig
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.step_means import StepMeans
from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diffaugment import DiffAugmentConfig
from cxrdist.gan.plan import plan
from cxrdist.gan.training.step import ENGINES, STATS
from cxrdist.gan.training.trainer import ModelTrainer
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.seeds import derive

ALL_AUGMENTATIONS = DiffAugmentConfig(translation=0.1, brightness=0.1, contrast=0.1, cutout=0.25)


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def built(config: GANConfig, dist: Dist, model: int = 0) -> ModelTrainer:
    shards = ShardSet(config.shards)
    trainer = ModelTrainer(config, plan(config, shards)[model], shards, dist, NoTracker(), "GAN")
    trainer.build()
    return trainer


@pytest.fixture
def config(tiny_set: Path, tmp_path: Path) -> GANConfig:
    return GANConfig(shards=str(tiny_set), run=str(tmp_path / "run"), maps=8, batch=4, budget="8 images")


@pytest.fixture
def trainer(config: GANConfig, dist: Dist) -> ModelTrainer:
    return built(config, dist)


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def test_each_half_of_a_step_moves_its_own_network_alone(trainer: ModelTrainer) -> None:
    seen: dict[str, list[bool]] = {}
    modules = {"generator": trainer.generator.module, "discriminator": trainer.discriminator.module}
    for name, engine in (("generator", trainer.generator), ("discriminator", trainer.discriminator)):
        step = engine.step

        def watched(name: str = name, step: Any = step) -> Any:
            before = {k: parameters(m) for k, m in modules.items()}
            result = step()
            for k, m in modules.items():
                seen[f"{name} moves {k}"] = same(before[k], parameters(m))
            return result

        engine.step = watched  # type: ignore[method-assign]
    start = parameters(modules["generator"])
    trainer.step(0, trainer.stream.read(0))
    assert not any(seen["discriminator moves discriminator"])
    assert all(seen["discriminator moves generator"])
    assert not any(seen["generator moves generator"])
    assert all(seen["generator moves discriminator"])
    assert not any(same(start, parameters(modules["generator"])))


def test_a_step_leaves_no_gradient_and_nothing_frozen(trainer: ModelTrainer) -> None:
    """What D's optimizer steps on next is D's own loss: nothing that G's backward pass left behind."""
    trainer.step(0, trainer.stream.read(0))
    for engine in (trainer.generator, trainer.discriminator):
        assert all(p.requires_grad for p in engine.module.parameters())
        assert all(p.grad is None for p in engine.module.parameters())


def test_z_is_uniform_in_128_dimensions_and_belongs_to_the_position(trainer: ModelTrainer) -> None:
    given: list[torch.Tensor] = []
    trainer.generator.module.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    trainer.step(0, trainer.stream.read(3))
    assert given[0].shape == (4, 128)
    drawn = bits(derive(0, "gan step", "Normal"), torch.arange(12, 16), 128 + 24)
    assert torch.equal(given[0], to_uniform(drawn[:, :128]))


def test_z_of_a_conditional_gan_is_normal(config: GANConfig, dist: Dist) -> None:
    trainer = built(replace(config, architecture="conditional", z_dim=10), dist)
    given: list[torch.Tensor] = []
    trainer.generator.module.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    trainer.step(0, trainer.stream.read(3))
    drawn = bits(derive(0, "gan step", "all classes"), torch.arange(12, 16), 10 + 24)
    assert torch.equal(given[0], to_normal(drawn[:, :10]))


class Scalars(TorchDispatchMode):
    """Counts the tensors whose value Python reads, for which a GPU would stop."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["dcgan", "conditional"])
def test_no_value_is_read_in_a_step(architecture: str, config: GANConfig, dist: Dist) -> None:
    options: dict[str, Any] = {"architecture": architecture, "diffaugment": ALL_AUGMENTATIONS}
    if architecture == "conditional":
        options |= {
            "regularizer": "r1",
            "minibatch_std": True,
            "rate_decay": 0.5,
            "augment": AugmentConfig(shift=0.1),
        }
    trainer = built(replace(config, **options), dist)
    batches = [trainer.stream.read(step) for step in range(3)]
    trainer.step(0, batches[0])  # Adam creates its state
    with Scalars() as scalars:
        for step in (1, 2):
            trainer.set_learning_rate(step)
            trainer.step(step, batches[step])
        assert scalars.read == 0
        torch.ones(1).item()
        assert scalars.read == 1


def test_labels_count_the_classes_of_the_model(config: GANConfig, dist: Dist, tmp_path: Path) -> None:
    """Not those of the set, some of which a mix may leave out."""
    mix = tmp_path / "mix.yaml"
    mix.write_text('name: m\nepoch_images: own\nweights: {"*": {real: 1}, Normal: {real: 0}}\n')
    trainer = built(replace(config, architecture="conditional", mix=str(mix)), dist)
    assert trainer.model.classes == ("Pleural Effusion", "Pneumothorax")
    assert trainer.generator.module.embed.num_embeddings == 2  # type: ignore[union-attr]
    batch = trainer.stream.read(0)
    names = [trainer.stream.strata[stratum][0] for stratum in batch.strata]
    assert [trainer.model.classes[label] for label in batch.labels] == names
    assert set(names) == set(trainer.model.classes)
    trainer.step(0, batch)


def test_seed_and_class_give_the_weights(config: GANConfig, dist: Dist) -> None:
    def first_weight(model: int, seed: int) -> torch.Tensor:
        trainer = built(replace(config, seed=seed), dist, model)
        return parameters(trainer.generator.module)[0]

    one = first_weight(0, 0)
    assert torch.equal(one, first_weight(0, 0))
    assert not torch.equal(one, first_weight(1, 0))
    assert not torch.equal(one, first_weight(0, 1))


def test_divergence_stops_with_advice(trainer: ModelTrainer, dist: Dist) -> None:
    stats = StepMeans(dist, STATS)
    stats.add(torch.ones(len(STATS)))
    stats.add(torch.tensor([float("nan"), *range(1, len(STATS))]))
    with pytest.raises(UserError, match="after 64 images loss_d is no longer finite"):
        trainer.watch.check_finite(64, stats.means())


def test_stats_are_means_over_the_steps_since_they_were_cleared(dist: Dist) -> None:
    stats = StepMeans(dist, STATS)
    stats.add(torch.full((len(STATS),), 9.0))
    stats.clear()
    stats.add(torch.zeros(len(STATS)))
    stats.add(torch.arange(len(STATS)) / 3)
    assert stats.means() == {name: round(i / 6, 5) for i, name in enumerate(STATS)}


def test_r1_comes_every_so_many_steps_and_is_not_in_the_loss_that_is_told(
    config: GANConfig, dist: Dist
) -> None:
    """The penalty moves D at step 0, and not at step 1; loss_d is the adversarial loss in both."""
    plain = built(config, dist)
    with_r1 = built(replace(config, regularizer="r1", r1_weight=100.0, r1_every=2), dist)
    batch = plain.stream.read(0)
    stats = [t.step(0, batch) for t in (plain, with_r1)]
    loss_d, grad_d = STATS.index("loss_d"), STATS.index("grad_d")
    assert stats[0][loss_d] == stats[1][loss_d]
    assert stats[1][grad_d] > 1.5 * stats[0][grad_d]
    apart = [t.step(1, batch) for t in (built(config, dist), built(replace(with_r1.config), dist))]
    assert torch.equal(apart[0], apart[1])


def test_the_moving_average_draws_and_is_kept(config: GANConfig, dist: Dist) -> None:
    trainer = built(replace(config, ema_half_life_images=100), dist)
    assert set(trainer.networks) == {"generator", "discriminator", "ema"}
    assert trainer.sampler is trainer.networks["ema"]
    assert set(built(config, dist).networks) == {"generator", "discriminator"}


def test_real_images_are_augmented_as_much_as_their_class(config: GANConfig, dist: Dist) -> None:
    stronger = AugmentConfig(brightness=0.2)
    trainer = built(replace(config, architecture="conditional", augment=stronger, augment_images=5), dist)
    batch = trainer.stream.read(0)
    (part,) = trainer.step.parts(batch)
    amounts = uniform(derive(0, "augment", "all classes"), torch.arange(4), 8)
    strengths = trainer.step.strengths
    assert strengths is not None and len(set(strengths.tolist())) > 1
    for i, label in enumerate(batch.labels):
        expected = batch.pixels[i].float() / 127.5 - 1 + 2 * 0.2 * amounts[i, 5] * strengths[label]
        torch.testing.assert_close(part.real[i], expected.clamp(-1, 1))
