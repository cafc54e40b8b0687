"""Launches with DeepSpeed's ZeRO (Rajbhandari et al. 2020): checks of the configuration.

Options that are refused here train other weights than DDP, or were not shown to train the same ones.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import DeepSpeedPlugin

from cxrdist.errors import UserError

_CLONE = Path(__file__).resolve().parents[2]
# Sizes of messages, and of what is kept in memory: they do not change results.
_FREE_KEYS = {"reduce_bucket_size", "allgather_bucket_size"}
_FREE_KEYS_3 = _FREE_KEYS | {
    "sub_group_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
}
_LAUNCH = "launch with --config_file configs/accelerate/{}"
DDP_ADVICE = _LAUNCH.format("gpu.yaml") + " (DDP)"


def is_launched() -> bool:
    """True under a launch with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def refuse() -> None:
    """Raises UserError under a launch with DeepSpeed, for a job that trains nothing."""
    if is_launched():
        raise UserError(f"launched with DeepSpeed, which only training jobs support: {DDP_ADVICE}")


def plugins(
    names: Sequence[str], stages: Sequence[int] = (1, 2), *, on_cpu: bool
) -> dict[str, DeepSpeedPlugin]:
    """One plugin for each network of a job: under DeepSpeed an Accelerator trains one network, and every Accelerator
    needs all plugins. ``stages``: those that the job allows. Raises UserError for a launch that would train other
    weights than DDP."""
    advice = _LAUNCH.format("zero2_cpu.yaml" if on_cpu else "zero2.yaml")
    if not names:
        refuse()
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
    config = checked_config(given, advice, stages)
    try:
        return {
            name: DeepSpeedPlugin(hf_ds_config=copy.deepcopy(config), zero3_init_flag=False) for name in names
        }
    except ValueError:
        raise UserError(
            f"the launch config sets fields of DeepSpeed next to deepspeed_config_file: {advice}"
        ) from None


def checked_config(given: str, advice: str, stages: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """DeepSpeed's options for one network, from a JSON file: ``given`` relative to the current folder, else to the
    clone. Raises UserError, ending with ``advice``, for a stage that is not in ``stages`` and for options that would
    train other weights than DDP."""
    path = next((p for p in (Path(given), _CLONE / given) if p.is_file()), None)
    if path is None:
        raise UserError(f"deepspeed_config_file {given}: no such file; {advice}")
    try:
        config = json.loads(path.read_text())
        zero = config["zero_optimization"]
        stage = zero["stage"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{path}: not JSON with zero_optimization.stage; {advice}") from None
    if stage == 3 and stage not in stages:
        raise UserError(
            f"{path}: zero_optimization.stage 3 partitions the weights, and neither R1 nor G's pass through a frozen "
            f"D works with partitioned weights; {advice}"
        )
    if stage not in stages:
        allowed = f"{', '.join(map(str, stages[:-1]))} or {stages[-1]}"
        raise UserError(
            f"{path}: zero_optimization.stage {stage}: must be {allowed}; without ZeRO, {DDP_ADVICE}"
        )
    free = {"stage"} | (_FREE_KEYS_3 if stage == 3 else _FREE_KEYS)
    unknown = [key for key in config if key != "zero_optimization"]
    unknown += [f"zero_optimization.{key}" for key in zero if key not in free]
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
