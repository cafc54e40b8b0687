"""A network in training: forward, backward, step, the same under one process, DDP, accumulation and ZeRO."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

CARRIED_OUT = ("fused", "foreach")
"""How Adam is carried out: of this process and device, and no part of its state."""


class InPrecision(nn.Module):
    """A network whose arithmetic is that of ``autocast`` and whose outputs are float32.

    A module around the network, since DeepSpeed switches off an autocast that it did not start itself.
    """

    def __init__(self, network: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.network = network
        self.autocast = autocast

    def forward(self, *inputs: Tensor | None) -> Tensor:
        with self.autocast():
            return self.network(*inputs).float()


class Engine(ABC):
    """One network and its Adam. A step is ``parts`` times a ``part`` with forward and one ``backward`` in it, then
    ``step``.

    Every loss is the mean over its part of the batch; parts, and the ranks' shares, are of equal size. Each part has
    one ``backward``, of the sum of its losses: ZeRO-1 and 2 count each call as a part of its own, and lose gradients
    in silence where there are more.
    """

    def __init__(self, network: InPrecision, parts: int) -> None:
        self.network = network
        self.parts = parts

    @property
    def module(self) -> nn.Module:
        """The network alone: float32, not compiled, not synced. What a second derivative (R1) goes through, within
        ``Dist.autocast()``."""
        return self.network.network

    def unsynced(self, *inputs: Tensor | None) -> Tensor:
        """Forward without a sync of gradients: what G's pass through a frozen D goes through, and images for which
        nobody wants a gradient. The wrapper of a frozen network would wait for gradients that never come."""
        return self.network(*inputs)

    @abstractmethod
    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Forward whose gradients are averaged over the ranks."""

    @abstractmethod
    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward passes of one part; ``last``: of a step's last one."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this part's loss, divided by the number of parts."""

    @abstractmethod
    def step(self) -> Tensor:
        """Adam. Gradients are cleared; returns the norm that they had together, a scalar on the device."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Adam's whole state on every rank, in the form of ``torch.optim.Adam.state_dict``. All ranks call this."""

    @abstractmethod
    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``optimizer_state`` gave, on any number of ranks, under DDP or ZeRO, with the weights that
        ``module`` has now: load those before. All ranks call this."""


class LocalEngine(Engine):
    """Each rank holds the whole of Adam: one process, or DDP."""

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
                # Fused Adam reads both in the order of memory: of unlike layouts it mixes up elements in silence.
                parameter.grad = laid_out_as(parameter, parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        return {**state, "param_groups": [{**g, **dict.fromkeys(CARRIED_OUT)} for g in state["param_groups"]]}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        own = [{name: group[name] for name in CARRIED_OUT} for group in self.optimizer.param_groups]
        groups = [{**group, **mine} for group, mine in zip(state["param_groups"], own, strict=True)]
        self.optimizer.load_state_dict({**state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                values[name] = laid_out_as(parameter, values[name])


def laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """The same values in a parameter's memory format; themselves where they have it."""
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)
