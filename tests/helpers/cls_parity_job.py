"""Classifier steps through an engine, as real processes: run under `accelerate launch` by
tests/launch/test_cls_parity.py.

    cls_parity_job.py '{"out": .., "saved": .., "runs": {"a run": {"parts": 2}}}'

Rank 0 writes to ``out`` what each run finds: the gradients of each step, the weights after some, Adam's state after
SAVED.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH, SIZE, CLASSES, STEPS, SAVED, RESUMED = 8, 16, 3, 20, 3, 6
LOOKS = (SAVED - 1, RESUMED - 1, STEPS - 1)
"""Steps after which the weights are compared; the others follow each other with nothing in between."""
BETAS, L2 = (0.5, 0.999), 0.02


def dcnn(seed: int = 0) -> nn.Module:
    from cxrdist.nets.dcnn import DCNN, DCNNConfig, init_weights

    network = DCNN(DCNNConfig(size=SIZE, classes=CLASSES, widths=(4, 8), hidden=16))
    init_weights(network, seed)
    return network


def with_batch_norm(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.rand(3), torch.rand(3)
    # A bias before the norm would have gradients of rounding errors alone, which Adam makes as large as the others.
    conv = nn.Conv2d(1, 3, 5, stride=3, bias=False)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(48, CLASSES))


def freeze_all_but_the_last_layer(network: nn.Module) -> None:
    parameters = list(network.parameters())
    for parameter in parameters[:-2]:
        parameter.requires_grad_(False)


def global_batch(step: int) -> tuple[Tensor, Tensor]:
    """Images [BATCH, 1, SIZE, SIZE] float32, labels [BATCH] int64."""
    rng = torch.Generator().manual_seed(step)
    return torch.rand(BATCH, 1, SIZE, SIZE, generator=rng) * 2 - 1, torch.randint(
        CLASSES, (BATCH,), generator=rng
    )


def learning_rate(step: int) -> float:
    return 1e-3 * 0.9**step


class Trainer:
    """One engine and its step, and the gradients of the last step."""

    def __init__(self, dist: Any, network: nn.Module, parts: int) -> None:
        self.dist, self.parts = dist, parts
        self.plain = copy.deepcopy(network).requires_grad_(False)
        for value in (*self.plain.parameters(), *self.plain.buffers()):
            value.zero_()
        self.engine = dist.engine(
            "classifier", network, learning_rate=learning_rate(0), betas=BETAS, l2=L2, parts=parts
        )

    def step(self, step: int) -> None:
        images, labels = (values[self.dist.rank :: self.dist.world_size] for values in global_batch(step))
        self.engine.set_learning_rate(learning_rate(step))
        parts = list(zip(images.chunk(self.parts), labels.chunk(self.parts), strict=True))
        for i, (of_part, its_labels) in enumerate(parts):
            with self.engine.part(last=i + 1 == self.parts):
                self.engine.backward(cross_entropy(self.engine(of_part), its_labels))
        self.gradients = [gradient(w) for w in self.engine.module.parameters() if w.requires_grad]
        norm = self.engine.step()
        self.partitioned = [weight.numel() == 0 for weight in self.engine.module.parameters()]
        together = torch.cat([g.flatten() for g in self.gradients]).norm()
        torch.testing.assert_close(norm, together, rtol=1e-4, atol=0)

    def weights(self) -> list[Tensor]:
        self.engine.copy_weights_to(self.plain)
        return [weight.clone() for weight in self.plain.parameters()]

    def optimizer_state(self) -> dict[str, Any]:
        """A copy: under DDP an engine gives Adam's own tensors."""
        return copy.deepcopy(self.engine.optimizer_state())


def gradient(weight: Tensor) -> Tensor:
    if weight.grad is not None:
        return weight.grad.clone()
    from deepspeed.utils import safe_get_full_grad

    return safe_get_full_grad(weight).clone()


def run(
    dist: Any, parts: int = 1, steps: int = STEPS, frozen: bool = False, resume: str | None = None
) -> dict[str, Any]:
    network, first = dcnn(), 0
    if frozen:
        freeze_all_but_the_last_layer(network)
    trainer = Trainer(dist, network, parts)
    found: dict[str, Any] = {"gradients": {}, "weights": {}, "fresh": trainer.optimizer_state()}
    if resume is not None:
        first, given, saved = SAVED, torch.load(resume, weights_only=True), dcnn(1)
        for weight, value in zip(saved.parameters(), given["weights"], strict=True):
            weight.data.copy_(value)
        trainer.engine.load_weights_from(saved)
        trainer.engine.load_optimizer_state(given["optimizer"])
        found["loaded"] = {"weights": trainer.weights(), "optimizer": trainer.optimizer_state()}
    for step in range(first, steps):
        trainer.step(step)
        found["gradients"][step] = trainer.gradients
        if step in LOOKS:
            found["weights"][step] = trainer.weights()
        if step == SAVED - 1:
            found["optimizer"] = trainer.optimizer_state()
    found["of ranks"] = dist.meet(trainer.weights())
    found["partitioned"] = trainer.partitioned
    dist.forget_models()
    return found


def run_batch_norm(dist: Any) -> dict[str, Any]:
    """Weights and statistics of all ranks after SAVED steps, before and after the statistics are averaged, after
    others were loaded, and a step later."""
    from cxrdist.distributed.engines import adam_groups

    trainer = Trainer(dist, with_batch_norm(), 1)

    def of_ranks() -> list[dict[str, Tensor]]:
        trainer.engine.copy_weights_to(trainer.plain)
        return dist.meet(dict(copy.deepcopy(trainer.plain.state_dict())))

    try:
        trainer.engine.load_optimizer_state(torch.optim.Adam(adam_groups(dcnn(), L2)).state_dict())
    except ValueError:
        found: dict[str, Any] = {"state of another network": "refused"}
    for step in range(SAVED):
        trainer.step(step)
    found["own"] = of_ranks()
    dist.average_buffers(trainer.engine.module)
    found["averaged"] = of_ranks()
    trainer.engine.load_weights_from(with_batch_norm(1))
    found["loaded"] = of_ranks()
    trainer.step(SAVED)
    found["stepped"] = of_ranks()
    dist.forget_models()
    return found


def main() -> None:
    from cxrdist.distributed.dist import Dist
    from cxrdist.distributed.engines import InPrecision

    given: dict[str, Any] = json.loads(sys.argv[1])
    dist = Dist("fp32", engines=("classifier",), zero_stages=(1, 2, 3))
    torch.set_num_threads(1)  # as in the test's own process: bits depend on it
    found: dict[str, Any] = {name: run(dist, **options) for name, options in given["runs"].items()}
    found["batch norm"] = run_batch_norm(dist)
    gc.collect()
    found["left"] = sum(isinstance(one, InPrecision) for one in gc.get_objects())
    found["described"] = dist.describe()
    if dist.is_main:
        torch.save(found, Path(given["out"]))
    dist.barrier()
    dist.close()


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
