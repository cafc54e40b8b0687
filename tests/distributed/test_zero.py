"""Launches that would not train as DDP does are refused before anything starts; what engines promise."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import InPrecision
from cxrdist.distributed.zero import checked_config, plugins
from cxrdist.errors import UserError
from cxrdist.gan.training.step import ENGINES, check_parts
from tests.helpers.launching import CLONE, launch

pytestmark = pytest.mark.slow

STAGE = {"zero_optimization": {"stage": 2}}
REFUSED: list[tuple[Any, str]] = [
    ({"zero_optimization": {"stage": 3}}, "stage 3 partitions the weights, and neither R1"),
    (
        {"zero_optimization": {"stage": 2, "stage3_prefetch_bucket_size": 5}},
        "zero_optimization.stage3_prefetch_bucket_size: not tested",
    ),
    ({"zero_optimization": {"stage": 0}}, "stage 0: must be 1 or 2; without ZeRO, launch with"),
    ({**STAGE, "fp16": {"enabled": True}}, "fp16: not tested against DDP"),
    ({**STAGE, "bf16": {"enabled": True}, "optimizer": {"type": "Adam"}}, "bf16, optimizer: not tested"),
    ({**STAGE, "gradient_clipping": 1.0}, "gradient_clipping: not tested"),
    (
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        "zero_optimization.offload_optimizer: not tested",
    ),
    ({"train_batch_size": 8}, "not JSON with zero_optimization.stage; launch with"),
    ([], "not JSON with zero_optimization.stage"),
]


@pytest.mark.parametrize(("config", "why"), REFUSED)
def test_what_was_not_shown_to_be_right_is_refused(tmp_path: Path, config: Any, why: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=why) as caught:
        checked_config(str(path), "launch with this")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "zero", "stages"),
    [
        ("zero1", {"stage": 1}, (1, 2)),
        ("zero2", {"stage": 2}, (1, 2)),
        ("zero3", {"stage": 3, "reduce_bucket_size": 50000000}, (1, 2, 3)),
    ],
)
def test_the_configs_given_are_taken_and_found_from_anywhere(
    name: str, zero: dict[str, int], stages: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = checked_config(f"configs/deepspeed/{name}.json", "", stages)
    assert taken["zero_optimization"] == zero
    assert taken["gradient_clipping"] == 0.0


def test_a_job_that_allows_stage_3_allows_its_sizes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    sizes = {"stage": 3, "stage3_prefetch_bucket_size": 5, "stage3_param_persistence_threshold": 0}
    path.write_text(json.dumps({"zero_optimization": sizes}))
    assert checked_config(str(path), "", (1, 2, 3))["zero_optimization"] == sizes
    path.write_text(json.dumps({"zero_optimization": {**sizes, "offload_param": {"device": "cpu"}}}))
    with pytest.raises(UserError, match=r": zero_optimization\.offload_param: not tested against DDP"):
        checked_config(str(path), "", (1, 2, 3))
    path.write_text(json.dumps({"zero_optimization": {"stage": 0}}))
    with pytest.raises(UserError, match="stage 0: must be 1, 2 or 3; without ZeRO, launch with"):
        checked_config(str(path), "", (1, 2, 3))


@pytest.mark.parametrize("name", ["zero1_cpu", "zero2", "zero2_cpu", "zero3", "zero3_cpu"])
def test_no_launch_config_partitions_networks_as_they_are_built(name: str) -> None:
    given = yaml.safe_load((CLONE / f"configs/accelerate/{name}.yaml").read_text())
    assert given["deepspeed_config"] == {
        "deepspeed_config_file": f"configs/deepspeed/{name.removesuffix('_cpu')}.json",
        "zero3_init_flag": False,
    }


def test_a_config_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"deepspeed_config_file no\.json: no such file; do this"):
        checked_config("no.json", "do this")


def test_deepspeed_needs_a_config_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    with pytest.raises(
        UserError, match=r"without a deepspeed_config_file.*configs/accelerate/zero2_cpu\.yaml"
    ):
        plugins(ENGINES, on_cpu=True)
    with pytest.raises(UserError, match=r"without a deepspeed_config_file.*configs/accelerate/zero2\.yaml"):
        plugins(ENGINES, on_cpu=False)


def test_fields_beside_the_config_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate passes on ``zero_stage: 3`` beside ``deepspeed_config_file``."""
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(CLONE / "configs/deepspeed/zero2.json"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "zero_stage")
    with pytest.raises(
        UserError, match="sets fields of DeepSpeed next to deepspeed_config_file: launch with"
    ):
        plugins(ENGINES, on_cpu=True)


def test_deepspeed_and_use_cpu_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(CLONE / "configs/deepspeed/zero2.json"))
    with pytest.raises(UserError, match="DeepSpeed and use_cpu"):
        plugins(ENGINES, on_cpu=True)


def test_a_job_without_engines_is_not_launched_with_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="which only training jobs support"):
        Dist("fp32")


@pytest.mark.parametrize(("variable", "name"), [("FSDP", "FSDP"), ("MEGATRON_LM", "Megatron-LM")])
def test_other_launchers_are_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(UserError, match=f"launched with {name}, which these jobs do not support"):
        Dist("fp32", engines=ENGINES)


def test_a_synthesis_under_deepspeed_ends_with_one_line(tmp_path: Path, tiny_set: Path) -> None:
    words = ["--mix", "DS3", "--shards", str(tiny_set), "--gan", "g", "--out", "s"]
    done = launch("synthesize.py", *words, cwd=tmp_path, processes=2, config="zero2_cpu.yaml")
    assert done.returncode != 0
    assert done.stderr.count("error: launched with DeepSpeed, which only training jobs support: launch") == 1
    assert not (tmp_path / "s").exists()


def test_a_batch_divides_into_ranks_and_parts() -> None:
    check_parts(64, 4, 2)
    with pytest.raises(UserError, match="does not divide among 3 processes"):
        check_parts(64, 3, 1)
    with pytest.raises(
        UserError, match=r"^accumulate: .* 3 equal parts on .* 2 processes: set --batch 60 or 66"
    ):
        check_parts(64, 2, 3)


def test_a_network_keeps_its_precision_where_autocast_is_switched_off_around_it() -> None:
    """As DeepSpeed does around a network."""
    seen: list[torch.dtype] = []

    class Net(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    low = InPrecision(Net(2, 2), lambda: torch.autocast("cpu", torch.bfloat16))
    with torch.autocast("cpu", enabled=False):
        assert low(torch.ones(1, 2)).dtype == torch.float32
    assert InPrecision(Net(2, 2), nullcontext)(torch.ones(1, 2)).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]
