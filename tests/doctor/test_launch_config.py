"""Configs of accelerate: what is wrong with one before anything is started, and a forgotten default one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxrdist.distributed.launch_config import default_file, read
from cxrdist.doctor.checks import accelerate_default
from cxrdist.doctor.findings import section
from cxrdist.doctor.launch.config import Launch, problems
from cxrdist.doctor.options import DoctorOptions
from cxrdist.errors import UserError
from tests.helpers.launching import CLONE

CPU2 = read("configs/accelerate/cpu2.yaml")
GPU = read("configs/accelerate/gpu.yaml")
TWO = {"num_machines": 2, "num_processes": 4, "main_process_ip": "10.0.0.1", "main_process_port": 29500}


def found(values: dict[str, Any], gpus: int = 2, cores: int = 2) -> list[tuple[str, str, str]]:
    return [(one.level, one.what, one.cure) for one in problems(Launch("f", values), gpus=gpus, cores=cores)]


@pytest.mark.parametrize("name", sorted(path.name for path in (CLONE / "configs/accelerate").glob("*.yaml")))
def test_configs_of_the_clone_are_fine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLONE)  # where deepspeed_config_file is
    values = read(f"configs/accelerate/{name}")
    if values.get("num_machines", 1) > 1:
        values["main_process_ip"] = "10.0.0.1"
    assert [one for one in found(values, gpus=8, cores=8) if one[0] == "error"] == []


MISTAKES = [
    (CPU2 | {"num_procs": 3}, "f: the installed accelerate does not know the key num_procs, and stops"),
    (CPU2 | {"num_processes": "two"}, "f: num_processes is 'two'"),
    (CPU2 | {"num_machines": 0}, "f: num_machines is 0"),
    (CPU2 | {"machine_rank": -1}, "f: machine_rank is -1"),
    (GPU | TWO | {"main_process_port": 70000}, "f: main_process_port is 70000"),
    (GPU | {"distributed_type": "DEEPSPEED", "deepspeed_config": "zero2"}, "f: deepspeed_config is 'zero2'"),
    (CPU2 | {"compute_environment": "TPU"}, "f: compute_environment is TPU, which jobs refuse"),
    ({"num_processes": 1}, "f: no distributed_type, and accelerate stops without"),
    (CPU2 | {"distributed_type": False, "num_processes": 1}, "f: distributed_type is False"),
    (GPU | {"distributed_type": "FSDP"}, "f: FSDP, which jobs refuse"),
    (CPU2 | {"distributed_type": "MULTI_CPU"}, "f: under MULTI_CPU accelerate starts one process, not 2"),
    (CPU2 | {"distributed_type": "NO"}, "f: distributed_type NO starts one process, not 2"),
    (CPU2 | {"mixed_precision": False}, "f: mixed_precision is read as False, and accelerate stops"),
    (CPU2 | {"mixed_precision": "fp16"}, "f: mixed_precision is fp16, which jobs refuse"),
    (GPU | {"num_processes": 3}, "f: 3 processes on this machine, on which torch finds 2 GPUs"),
    (GPU | {"gpu_ids": "0,1,2"}, "f: gpu_ids is 0,1,2, for 2 processes"),
    (GPU | TWO | {"num_processes": 3}, "f: 3 processes on 2 machines: accelerate starts 1 on each"),
    (GPU | TWO | {"machine_rank": 2}, "f: machine_rank is 2, of 2 machines (numbered from 0)"),
    (GPU | TWO | {"main_process_ip": None}, "f: 2 machines, and no main_process_ip"),
    (GPU | TWO | {"main_process_port": 0}, "f: main_process_port is 0, so each machine takes another port"),
    (
        GPU | TWO | {"distributed_type": "DEEPSPEED", "deepspeed_config": {}},
        "f: accelerate would start DeepSpeed on the other machines itself, by pdsh",
    ),
    (
        GPU | {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "no.json"}},
        "f: deepspeed_config_file no.json is not here: it is relative to the current folder",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "what"), MISTAKES, ids=lambda each: each if isinstance(each, str) else "")
def test_a_mistake_is_one_error_with_a_cure(values: dict[str, Any], what: str) -> None:
    errors = [(text, cure) for level, text, cure in found(values) if level == "error"]
    assert [text for text, _ in errors] == [what]
    assert all(cure for _, cure in errors)


def test_more_processes_than_cores_are_a_warning() -> None:
    assert found(CPU2 | {"num_processes": 3}) == [
        ("warning", "f: 3 processes share 2 cores, and are slower than 2", "give --num_processes 2")
    ]


def test_no_gpu_is_an_error_on_one_machine_and_a_warning_on_several() -> None:
    what = "f: 2 processes on this machine, on which torch finds no GPU"
    assert found(GPU, gpus=0) == [("error", what, "launch with configs/accelerate/cpu2.yaml")]
    cure = "see the section GPUs, unless they shall compute on the CPU"
    assert found(GPU | TWO, gpus=0) == [("warning", what, cure)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where accelerate's default config lies."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    (tmp_path / "accelerate").mkdir()
    return tmp_path / "accelerate" / "default_config.yaml"


def of_default(**options: Any) -> list[tuple[str, str]]:
    found = section("", accelerate_default.look, DoctorOptions(**options)).findings
    return [(one.level, one.what) for one in found]


def test_no_default_config(home: Path) -> None:
    assert of_default() == [("ok", "no default config: `accelerate launch` starts what its options say")]


def test_a_stale_default_config_is_said_with_all_that_it_changes(home: Path) -> None:
    home.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 4\nnum_machines: 1\n"
        "machine_rank: 0\nmixed_precision: fp16\nuse_cpu: false\nmegatron_lm_config: {}\nold_key: 1\n"
    )
    changes = "distributed_type MULTI_GPU, num_processes 4, mixed_precision fp16, old_key 1"
    assert of_default() == [
        ("error", f"{home}: the installed accelerate does not know the key old_key, and stops"),
        ("error", f"{home}: mixed_precision is fp16, which jobs refuse"),
        ("error", f"{home}: 4 processes on this machine, on which torch finds 1 GPU"),
        ("warning", f"{home} changes every `accelerate launch` without --config_file: {changes}"),
    ]
    # It is not used with --config_file.
    assert [level for level, _ in of_default(config_file="configs/accelerate/cpu2.yaml")] == ["warning"] * 4


def test_a_default_config_that_changes_nothing(home: Path) -> None:
    home.write_text("distributed_type: 'NO'\nnum_processes: 1\nmixed_precision: 'no'\ngpu_ids: all\n")
    assert of_default() == [("ok", f"{home} changes nothing")]


def test_a_default_config_that_is_no_yaml_is_one_line(home: Path) -> None:
    home.write_text("distributed_type: [\n")
    ((level, what),) = of_default()
    assert level == "error" and what.startswith(f"{home}, line 2: ") and "\n" not in what


def test_the_place_of_the_default_config(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_file() is None
    home.touch()
    assert default_file() == home
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_file() is None
    below = tmp_path / "cache" / "huggingface" / "accelerate"
    below.mkdir(parents=True)
    (below / "default_config.yaml").touch()
    assert default_file() == below / "default_config.yaml"


@pytest.mark.parametrize(("name", "text"), [("c.json", "{"), ("c.yaml", "- a\n"), ("c.json", "[]")])
def test_files_that_are_no_config(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"not JSON|expected a mapping"):
        read(str(tmp_path / name))
