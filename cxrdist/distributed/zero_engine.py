"""Engines of ZeRO-1, 2 and 3, whose states are saved and loaded as those of ``torch.optim.Adam``."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from cxrdist.distributed.engines import ADAM_KERNELS, Engine, InPrecision, set_rate

_MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_engine(
    first: Accelerator, name: str, network: InPrecision, optimizer: torch.optim.Adam, parts: int
) -> ZeroEngine:
    """An engine for ``network`` with the plugin ``name`` of the job's first Accelerator."""
    first.state.select_deepspeed_plugin(name)
    plugin = first.state.get_deepspeed_plugin(name)
    plugin.deepspeed_config["gradient_accumulation_steps"] = parts
    numbered = optimizer.state_dict()["param_groups"]
    groups = [{**own, "params": group["params"]} for own, group in zip(numbered, optimizer.param_groups)]
    # A new Accelerator for each network: in one Accelerator the second network would replace the first.
    prepared, _ = Accelerator(gradient_accumulation_steps=parts).prepare(network, optimizer)
    kind = Zero3Engine if plugin.zero_stage == 3 else ZeroEngine
    return kind(network, prepared, optimizer, groups, parts)


class ZeroEngine(Engine):
    """An engine of ZeRO: each rank holds its share of Adam's state (ZeRO-1), and of the gradients (ZeRO-2).

    ``groups``: Adam's parameter groups, with the parameters of the network: DeepSpeed replaces those of ``optimizer``
    by each rank's share of them, as one flat tensor for each group.
    """

    def __init__(
        self,
        network: InPrecision,
        deepspeed: Any,
        optimizer: torch.optim.Adam,
        groups: list[dict[str, Any]],
        parts: int,
    ) -> None:
        super().__init__(network, parts)
        self.deepspeed, self.optimizer, self.groups = deepspeed, optimizer, groups

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        return self.deepspeed(*inputs)

    @contextlib.contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        self.deepspeed.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        self.deepspeed.backward(loss)

    def step(self) -> Tensor:
        self.deepspeed.step()
        norm = self.deepspeed.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.deepspeed.device)

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self.optimizer, rate)

    def destroy(self) -> None:
        """Remove DeepSpeed's hooks from the weights; they would keep both in memory."""
        self.deepspeed.destroy()

    def load_weights_from(self, module: nn.Module) -> None:
        super().load_weights_from(module)
        self._update_masters()

    def optimizer_state(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        groups, numbers = [], iter(range(len(self._weights)))
        for group, own in zip(self.groups, self.optimizer.param_groups, strict=True):
            groups.append({**group, "lr": own["lr"], "params": [next(numbers) for _ in group["params"]]})
        first = self._flats[0]
        if first not in self.optimizer.state:
            return {"state": {}, "param_groups": groups}
        self._link_states()
        step = self.optimizer.state[first]["step"].detach().cpu()
        state = {
            number: {"step": step.clone(), **{k: safe_get_full_optimizer_state(weight, k) for k in _MOMENTS}}
            for number, weight in enumerate(self._weights)
        }
        return {"state": state, "param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        groups, of_weights = state["param_groups"], state["state"]
        self._check(groups, of_weights)
        self._update_masters()
        for own, group in zip(self.optimizer.param_groups, groups, strict=True):
            own.update({key: group[key] for key in group.keys() - {"params", *ADAM_KERNELS}})
        if not of_weights:
            return
        for flat in self._flats:
            # A new Adam creates this state only in its first step.
            self.optimizer.state[flat] = {
                "step": torch.tensor(float(of_weights[0]["step"]), dtype=torch.float32),
                **{key: torch.zeros_like(flat) for key in _MOMENTS},
            }
        self._link_states()
        for number, weight in enumerate(self._weights):
            for key in _MOMENTS:
                self._set_moment(weight, key, of_weights[number][key].to(self.deepspeed.device))

    def _check(self, groups: list[dict[str, Any]], of_weights: dict[int, dict[str, Any]]) -> None:
        """Raises ValueError for groups and states of other weights."""
        shapes = dict(enumerate(_shape(weight) for weight in self._weights))
        fits = [len(group["params"]) for group in groups] == [len(group["params"]) for group in self.groups]
        if of_weights:
            fits = (
                fits
                and of_weights.keys() == shapes.keys()
                and len({float(of_weight["step"]) for of_weight in of_weights.values()}) == 1
                and all(of_weights[i][key].shape == shapes[i] for i in shapes for key in _MOMENTS)
            )
        if not fits:
            raise ValueError("the optimizer state does not belong to these weights")

    @property
    def _weights(self) -> list[nn.Parameter]:
        """The parameters that Adam updates, in the order in which its state numbers them."""
        return [weight for group in self.groups for weight in group["params"]]

    @property
    def _flats(self) -> Sequence[Tensor]:
        """This rank's shares of the weights, as the flat tensors that Adam updates."""
        return [flat for group in self.optimizer.param_groups for flat in group["params"]]

    def _link_states(self) -> None:
        """Tell DeepSpeed where Adam's state of each weight lies. It does so itself in the first step, but before Adam
        has made the states of the second group (0.19.8)."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for group, flat in zip(self.groups, self._flats, strict=True):
            lazy_init_hp_params_optimizer_state(group["params"], flat, self.optimizer.state)

    def _update_masters(self) -> None:
        """Copy the weights to Adam's copy of them, with which the next step would overwrite loaded weights."""
        from deepspeed.utils import safe_set_full_fp32_param

        for weight in self._weights:
            safe_set_full_fp32_param(weight, weight.detach())

    def _set_moment(self, weight: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(weight, value, key)


class Zero3Engine(ZeroEngine):
    """An engine of ZeRO-3: each rank holds its share of the weights too."""

    def destroy(self) -> None:
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

        super().destroy()
        # DeepSpeed keeps every network that it ever partitioned, with all that belongs to it: in this list, and in
        # the cache of a method that is hidden by decorators (0.19.8).
        FWD_MODULE_STACK[:] = [network for network in FWD_MODULE_STACK if network is not self.network]
        for one in gc.get_objects():
            if type(one) is functools._lru_cache_wrapper and "deepspeed.runtime.zero" in one.__module__:
                one.cache_clear()

    def unsynced(self, *inputs: Tensor | None) -> Tensor:
        raise NotImplementedError("ZeRO-3 gathers the weights only within its own forward and backward pass")

    def copy_weights_to(self, module: nn.Module) -> None:
        from deepspeed.runtime.zero import GatheredParameters

        for weight, copy in zip(self.module.parameters(), module.parameters(), strict=True):
            with GatheredParameters([weight]):
                copy.data.copy_(weight.data)
        for ours, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            theirs.copy_(ours)

    def load_weights_from(self, module: nn.Module) -> None:
        from deepspeed.runtime.zero import GatheredParameters

        for weight, given in zip(self.module.parameters(), module.parameters(), strict=True):
            with GatheredParameters([weight], modifier_rank=0):  # rank 0's change is sent to the others
                weight.data.copy_(given.data)
        for ours, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            ours.copy_(theirs)
        self._update_masters()

    @property
    def _flats(self) -> Sequence[Tensor]:
        # Adam's groups hold them during a step only.
        return self.deepspeed.optimizer.fp32_partitioned_groups_flat

    def _link_states(self) -> None:
        """DeepSpeed finds them by ``Adam.state``."""

    def _update_masters(self) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        for weight in self._weights:
            safe_set_local_fp32_param(weight, _share(weight))

    def _set_moment(self, weight: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        # Not safe_set_full_optimizer_state, which fails for sizes that do not divide among the ranks (0.19.8).
        size, rank = _share(weight).numel(), self.deepspeed.global_rank
        padded = functional.pad(value.flatten(), (0, size * self.deepspeed.world_size - value.numel()))
        safe_set_local_optimizer_state(weight, padded.narrow(0, rank * size, size), key)


def _shape(weight: nn.Parameter) -> torch.Size:
    return getattr(weight, "ds_shape", weight.shape)  # under ZeRO-3 the weight itself is empty


def _share(weight: Any) -> Tensor:
    """This rank's share of a weight under ZeRO-3, flat, of the same size on every rank: padded on the last."""
    return weight.ds_tensor
