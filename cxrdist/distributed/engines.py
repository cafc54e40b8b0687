"""Engines: forward, backward and step of a network in training, the same for one process, DDP, accumulation and
ZeRO."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

ADAM_KERNELS = ("fused", "foreach")
"""Options that select the kernels of Adam: they belong to a process and device, not to a checkpoint."""


class InPrecision(nn.Module):
    """A network that computes under ``autocast`` and returns float32.

    It is a module around the network, since DeepSpeed turns off an autocast that it did not start itself.
    """

    def __init__(self, network: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.network = network
        self.autocast = autocast

    def forward(self, *inputs: Tensor | None) -> Tensor:
        with self.autocast():
            return self.network(*inputs).float()


def adam_groups(network: nn.Module, l2: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for torch.optim.Adam: weights with L2, then biases and norms without; one group without L2.

    Adam's own (coupled) weight decay is the gradient of ``l2 / 2 * sum(w ** 2)`` in the loss; AdamW's is not. Frozen
    parameters and groups without parameters are left out.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    if not l2:
        return [{"params": trainable}]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": l2},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Engine(ABC):
    """One network and its Adam. A training step consists of ``parts`` parts, each within ``part`` with a forward pass
    and one call of ``backward``, and then a call of ``step``.

    Every loss is the mean over its part of the batch; the parts, and the ranks' shares of them, have equal size. Each
    part has one ``backward``, of the sum of its losses: ZeRO counts each call as a part, and loses gradients without
    an error if there are more.
    """

    def __init__(self, network: InPrecision, parts: int) -> None:
        self.network = network
        self.parts = parts

    @property
    def module(self) -> nn.Module:
        """The network without its wrappers: float32, not compiled, not synced. Second derivatives (R1) use it, within
        ``Dist.autocast()``. Under ZeRO-3 it has its buffers only; its weights come with ``copy_weights_to``."""
        return self.network.network

    def unsynced(self, *inputs: Tensor | None) -> Tensor:
        """Forward pass without a sync of gradients: for G's pass through a frozen D, and for images that need no
        gradient. The DDP wrapper of a frozen network would wait for gradients that are never computed. Not under
        ZeRO-3."""
        return self.network(*inputs)

    @abstractmethod
    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Forward pass; its gradients are averaged over the ranks."""

    @abstractmethod
    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """The context for the forward and backward pass of one part; ``last``: it is the last part of a step."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of this part's loss, divided by the number of parts."""

    @abstractmethod
    def step(self) -> Tensor:
        """Update the weights with Adam and clear the gradients. Returns the norm of all gradients, [] float32 on the
        device."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate for the steps from now on."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Adam's whole state on every rank, in the format of ``torch.optim.Adam.state_dict``. All ranks must call
        this."""

    @abstractmethod
    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load a state that ``optimizer_state`` returned, on any number of ranks, under DDP or ZeRO. Load the weights
        before: with ``load_weights_from``, or, except under ZeRO-3, into ``module``. Raises ValueError for a state of
        other parameter groups. All ranks must call this."""

    def copy_weights_to(self, module: nn.Module) -> None:
        """Copy the weights, and this rank's buffers, to a plain module of the same architecture; see
        ``Dist.average_buffers``. All ranks must call this."""
        module.load_state_dict(self.module.state_dict())

    def load_weights_from(self, module: nn.Module) -> None:
        """Take the weights and buffers of a plain module of the same architecture, which has the same ones on every
        rank. All ranks must call this."""
        self.module.load_state_dict(module.state_dict())


class LocalEngine(Engine):
    """An engine of one process or DDP: each rank holds the whole state of Adam."""

    def __init__(
        self, network: InPrecision, synced: nn.Module, optimizer: torch.optim.Optimizer, parts: int
    ) -> None:
        super().__init__(network, parts)
        self.synced, self.optimizer = synced, optimizer

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        return self.synced(*inputs)

    @contextlib.contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        ddp = self.synced if isinstance(self.synced, nn.parallel.DistributedDataParallel) else None
        with contextlib.nullcontext() if last or ddp is None else ddp.no_sync():
            yield

    def backward(self, loss: Tensor) -> None:
        (loss / self.parts).backward()

    def step(self) -> Tensor:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                # Fused Adam reads both in memory order: with different layouts it mixes up elements without an error.
                parameter.grad = in_layout_of(parameter, parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self.optimizer, rate)

    def optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        return {
            **state,
            "param_groups": [{**g, **dict.fromkeys(ADAM_KERNELS)} for g in state["param_groups"]],
        }

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        own = [{name: group[name] for name in ADAM_KERNELS} for group in self.optimizer.param_groups]
        groups = [{**group, **mine} for group, mine in zip(state["param_groups"], own, strict=True)]
        self.optimizer.load_state_dict({**state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                values[name] = in_layout_of(parameter, values[name])


def keep_buckets(synced: nn.parallel.DistributedDataParallel) -> None:
    """Make DDP arrange its buckets now, and never again.

    By itself it does so after the first step, in the order in which gradients come. Three and more ranks then add the
    same gradients in another order than in the first step, and rounding differs: a run that is resumed, whose first
    step is another one, would end with other bits. On GPUs, where there is no promise of the same bits, the order in
    which gradients come is faster.
    """
    synced.reducer._push_all_rebuilt_params()
    synced.reducer._rebuild_buckets()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def in_layout_of(parameter: Tensor, values: Tensor) -> Tensor:
    """The values in the memory layout of a parameter; the same tensor if it has it already."""
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)
