"""GAN steps through engines, as real processes: run under `accelerate launch` by tests/launch/test_gan_parity.py.

    parity_job.py '{"out": .., "runs": {"a run": {"architecture": "conditional", "parts": 2}}, "alone": [1, 3]}'

Rank 0 writes to ``out`` the gradients and weights of each step of each run, and the optimizers' states after SAVED
steps. A run with ``resume`` starts from such states, kept in a file, instead. ``alone``: then each rank takes so many
steps by itself.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SEED, BATCH, SIZE, CLASSES, STEPS, SAVED, RESUMED = 3, 8, 32, 3, 20, 3, 6
OPTIONS: dict[str, Any] = {"seed": SEED, "batch": BATCH, "z_dim": 16, "maps": 16, "beta1": 0.5, "beta2": 0.99}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dcgan": {"norm": "none"},
    "conditional": {"regularizer": "r1", "r1_weight": 0.2, "r1_every": 2},
    "minibatch std": {
        "architecture": "conditional",
        "regularizer": "r1",
        "r1_weight": 0.2,
        "r1_every": 2,
        "minibatch_std": True,
        "minibatch_std_images": 4,
    },
}
AUGMENT = {"translation": 0.1, "brightness": 0.1, "contrast": 0.1}


def networks(architecture: str) -> tuple[nn.Module, nn.Module]:
    from cxrdist.nets import conditional, dcgan

    if architecture == "dcgan":
        shape = dcgan.DCGANConfig(size=SIZE, z_dim=16, maps=16, norm="none")
        generator, discriminator = dcgan.Generator(shape), dcgan.Discriminator(shape)
        dcgan.init_weights(generator, 0)
        dcgan.init_weights(discriminator, 1)
        return generator, discriminator
    wide = conditional.ConditionalConfig(
        size=SIZE,
        classes=CLASSES,
        z_dim=16,
        widths=(16, 8, 8),
        d_widths=(16, 8, 8),
        feature_dim=32,
        minibatch_std=architecture == "minibatch std",
        group=4,
    )
    of_all, projection = conditional.ConditionalGenerator(wide), conditional.ProjectionDiscriminator(wide)
    conditional.init_weights(of_all, 0)
    conditional.init_weights(projection, 1)
    return of_all, projection


def global_batch(step: int) -> tuple[Tensor, Tensor, range]:
    """Pixels [BATCH, 1, SIZE, SIZE] uint8, labels [BATCH] int64, positions."""
    rng = np.random.default_rng(step)
    pixels = torch.from_numpy(rng.integers(0, 256, (BATCH, 1, SIZE, SIZE), np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, BATCH))
    return pixels, labels, range(step * BATCH, (step + 1) * BATCH)


class Trainer:
    """Both engines and their step, and the gradients of the last step."""

    def __init__(self, dist: Any, architecture: str, parts: int) -> None:
        from cxrdist.distributed.batch_gather import BatchGather
        from cxrdist.gan.config import GANConfig
        from cxrdist.gan.diffaugment import DiffAugmentConfig
        from cxrdist.gan.training.step import ENGINES, GANStep

        augment = DiffAugmentConfig(**{} if architecture == "dcgan" else AUGMENT)
        config = GANConfig(**OPTIONS, **ARCHITECTURES[architecture], accumulate=parts, diffaugment=augment)
        self.dist, self.gradients = dist, dict[str, list[Tensor]]()
        generator, discriminator = networks(architecture)
        if config.minibatch_std and dist.world_size > 1:
            discriminator.gather = BatchGather(dist.rank, dist.world_size)  # type: ignore[assignment]
        self.engines = {
            name: dist.engine(
                name,
                network,
                learning_rate=config.learning_rate,
                betas=(config.beta1, config.beta2),
                parts=parts,
            )
            for name, network in zip(ENGINES, (generator, discriminator), strict=True)
        }
        for name, engine in self.engines.items():
            self.watch(name, engine)
        self.one = GANStep(config, self.engines["generator"], self.engines["discriminator"], dist, "all")

    def watch(self, name: str, engine: Any) -> None:
        step = engine.step

        def watched() -> Tensor:
            self.gradients[name] = [gradient(weight) for weight in engine.module.parameters()]
            norm: Tensor = step()
            together = torch.cat([g.flatten() for g in self.gradients[name]]).norm()
            torch.testing.assert_close(norm, together, rtol=1e-4, atol=0)
            return norm

        engine.step = watched

    def step(self, step: int) -> Tensor:
        from cxrdist.data.loading.stream import Batch

        pixels, labels, positions = global_batch(step)
        own = slice(self.dist.rank, BATCH, self.dist.world_size)
        none = np.empty(0)
        stats: Tensor = self.one(step, Batch(pixels[own], labels[own], none, none, none, positions[own]))
        return stats

    def optimizer_states(self) -> dict[str, Any]:
        """Copies: under DDP an engine gives Adam's own tensors."""
        return copy.deepcopy({name: engine.optimizer_state() for name, engine in self.engines.items()})

    def weights(self) -> dict[str, list[Tensor]]:
        return {name: [w.detach().clone() for w in e.module.parameters()] for name, e in self.engines.items()}


def gradient(weight: Tensor) -> Tensor:
    if weight.grad is not None:
        return weight.grad.clone()
    from deepspeed.utils import safe_get_full_grad

    return safe_get_full_grad(weight).clone()


def run(dist: Any, architecture: str, parts: int, resume: str | None = None) -> dict[str, Any]:
    trainer, first, last = Trainer(dist, architecture, parts), 0, STEPS
    found: dict[str, Any] = {"gradients": {}, "weights": {}, "stats": {}, "fresh": trainer.optimizer_states()}
    if resume is not None:
        first, last = SAVED, RESUMED
        given = torch.load(resume, weights_only=True)
        for name, engine in trainer.engines.items():
            for weight, value in zip(engine.module.parameters(), given["weights"][name], strict=True):
                weight.data.copy_(value)
            engine.load_optimizer_state(given["optimizers"][name])
        found["loaded"] = trainer.optimizer_states()
    for step in range(first, last):
        found["stats"][step] = dist.mean(trainer.step(step))
        found["gradients"][step], found["weights"][step] = dict(trainer.gradients), trainer.weights()
        if step == SAVED - 1:
            found["optimizers"] = trainer.optimizer_states()
    dist.forget_models()
    return found


def train_alone(dist: Any, steps: list[int]) -> dict[str, Any]:
    """This rank's steps, with every collective of torch's that Python can call made an error."""
    names = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier", "broadcast_object_list")
    whole = {name: getattr(torch.distributed, name) for name in names}
    for name in names:
        setattr(torch.distributed, name, _refused)
    alone = dist.alone()
    trainer = Trainer(alone, "conditional", 1)
    for step in range(steps[dist.rank]):
        trainer.step(step)
    alone.barrier()
    alone.average_buffers(trainer.engines["generator"].module)
    ones = torch.ones(2)
    answers = [alone.on_main(lambda: 5), alone.total([3]), alone.first("a"), alone.meet("b")]
    answers += [alone.gather(ones).tolist(), alone.mean(ones).tolist(), alone.gather_objects([1])]
    alone.forget_models()
    for name, function in whole.items():
        setattr(torch.distributed, name, function)
    met = dist.meet((dist.rank, answers, trainer.weights()))
    return {"met": met}  # what each rank has to say


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a collective call")


def main() -> None:
    from cxrdist.distributed.dist import Dist
    from cxrdist.distributed.engines import InPrecision
    from cxrdist.gan.training.step import ENGINES

    given: dict[str, Any] = json.loads(sys.argv[1])
    dist = Dist("fp32", engines=ENGINES)
    torch.set_num_threads(1)  # as in the test's own process: bits depend on it
    found: dict[str, Any] = {}
    for name, options in given["runs"].items():
        found[name] = run(dist, **options)
        gc.collect()
        found[name]["left"] = sum(isinstance(one, InPrecision) for one in gc.get_objects())
    found["described"] = dist.describe()
    if "alone" in given:
        found["alone"] = train_alone(dist, given["alone"])
    if dist.is_main:
        torch.save(found, Path(given["out"]))
    dist.barrier()
    dist.close()


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
