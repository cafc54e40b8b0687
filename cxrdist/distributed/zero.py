"""DeepSpeed's ZeRO-1 and 2 (Rajbhandari et al. 2020): checks of the launch configuration, and the engine.

Options that are refused here train other weights than DDP, or were not shown to train the same ones.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor

from cxrdist.distributed.engines import Engine, InPrecision, set_rate
from cxrdist.errors import UserError

_CLONE = Path(__file__).resolve().parents[2]
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Sizes of messages: they do not change results.
_FREE_KEYS = {"reduce_bucket_size", "allgather_bucket_size"}
_LAUNCH = "launch with --config_file configs/accelerate/{}"
DDP_ADVICE = _LAUNCH.format("gpu.yaml") + " (DDP)"


def is_launched() -> bool:
    """True under a launch with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def plugins(names: Sequence[str], *, on_cpu: bool) -> dict[str, DeepSpeedPlugin]:
    """One plugin for each network of a job: under DeepSpeed an Accelerator trains one network, and every Accelerator
    needs all plugins. Raises UserError for a launch that would train other weights than DDP."""
    advice = _LAUNCH.format("zero2_cpu.yaml" if on_cpu else "zero2.yaml")
    if not names:
        raise UserError(f"launched with DeepSpeed, which only GAN training supports: {DDP_ADVICE}")
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        raise UserError(
            f"launched with DeepSpeed and use_cpu, for which accelerate ignores DeepSpeed: {advice}"
        )
    given = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if given == "none":
        raise UserError(
            f"launched with DeepSpeed without a deepspeed_config_file, so its defaults would apply: {advice}"
        )
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for package in ("deepspeed", "transformers"):  # accelerate needs the version of transformers
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"launched with DeepSpeed, and {package} is missing: pip install 'cxrdist[deepspeed]'"
            )
    config = checked_config(given, advice)
    try:
        return {name: DeepSpeedPlugin(hf_ds_config=copy.deepcopy(config)) for name in names}
    except ValueError:
        raise UserError(
            f"the launch config sets fields of DeepSpeed next to deepspeed_config_file: {advice}"
        ) from None


def checked_config(given: str, advice: str) -> dict[str, Any]:
    """DeepSpeed's options for one network, from a JSON file: ``given`` relative to the current folder, else to the
    clone. Raises UserError, ending with ``advice``, for options that would train other weights than DDP."""
    path = next((p for p in (Path(given), _CLONE / given) if p.is_file()), None)
    if path is None:
        raise UserError(f"deepspeed_config_file {given}: no such file; {advice}")
    try:
        config = json.loads(path.read_text())
        zero = config["zero_optimization"]
        stage = zero["stage"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{path}: not JSON with zero_optimization.stage; {advice}") from None
    if stage == 3:
        raise UserError(
            f"{path}: zero_optimization.stage 3 partitions the weights, and neither R1 nor G's pass through a frozen "
            f"D works with partitioned weights; {advice}"
        )
    if stage not in (1, 2):
        raise UserError(
            f"{path}: zero_optimization.stage {stage}: must be 1 or 2; without ZeRO, {DDP_ADVICE}"
        )
    unknown = [key for key in config if key != "zero_optimization"]
    unknown += [f"zero_optimization.{key}" for key in zero if key != "stage" and key not in _FREE_KEYS]
    if unknown:
        raise UserError(
            f"{path}: {', '.join(unknown)}: not tested against DDP (precision, batch and accumulation are "
            "this job's own options); remove it"
        )
    return {
        "zero_optimization": zero,
        # 0 is off; accelerate's default is 1.0.
        "gradient_clipping": 0.0,
        # Required by accelerate, which uses it to count samples; no loader is prepared with it.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
    }


def zero_engine(
    first: Accelerator, name: str, network: InPrecision, optimizer: torch.optim.Adam, parts: int
) -> ZeroEngine:
    """An engine for ``network`` with the plugin ``name`` of the job's first Accelerator."""
    first.state.select_deepspeed_plugin(name)
    first.state.get_deepspeed_plugin(name).deepspeed_config["gradient_accumulation_steps"] = parts
    groups = optimizer.state_dict()["param_groups"]
    # A new Accelerator for each network: in one Accelerator the second network would replace the first.
    prepared, _ = Accelerator(gradient_accumulation_steps=parts).prepare(network, optimizer)
    return ZeroEngine(network, prepared, optimizer, groups, parts)


class ZeroEngine(Engine):
    """An engine of ZeRO: each rank holds its share of Adam's state (ZeRO-1), and of the gradients (ZeRO-2)."""

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
        return torch.as_tensor(self.deepspeed.get_global_grad_norm(), device=self.deepspeed.device)

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self.optimizer, rate)

    def destroy(self) -> None:
        """Remove DeepSpeed's hooks from the weights; they would keep both in memory."""
        self.deepspeed.destroy()

    @property
    def flat(self) -> Tensor:
        """This rank's share of the weights as one flat tensor, which Adam updates."""
        (group,) = self.optimizer.param_groups
        (flat,) = group["params"]
        return flat

    def optimizer_state(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self.flat not in self.optimizer.state:
            return {"state": {}, "param_groups": self.groups}
        step = self.optimizer.state[self.flat]["step"].detach().cpu()
        state = {
            number: {"step": step.clone(), **{k: safe_get_full_optimizer_state(weight, k) for k in _MOMENTS}}
            for number, weight in enumerate(self.module.parameters())
        }
        return {"state": state, "param_groups": self.groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        from deepspeed.utils import (
            lazy_init_hp_params_optimizer_state,
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        weights = list(self.module.parameters())
        for weight in weights:
            # Adam updates a copy of the weights, and the next step would overwrite loaded weights with it.
            safe_set_full_fp32_param(weight, weight.detach())
        if not state["state"]:
            return
        steps = {float(of_weight["step"]) for of_weight in state["state"].values()}
        if len(state["state"]) != len(weights) or len(steps) != 1:
            raise ValueError("the optimizer state does not belong to these weights")
        # A new Adam creates this state only in its first step.
        self.optimizer.state[self.flat] = {
            "step": torch.tensor(steps.pop(), dtype=torch.float32),
            **{key: torch.zeros_like(self.flat) for key in _MOMENTS},
        }
        lazy_init_hp_params_optimizer_state(weights, self.flat, self.optimizer.state)
        for number, weight in enumerate(weights):
            for key in _MOMENTS:
                value = state["state"][number][key]
                if value.shape != weight.shape:
                    raise ValueError("the optimizer state does not belong to these weights")
                safe_set_full_optimizer_state(weight, value.to(weight.device), key)
