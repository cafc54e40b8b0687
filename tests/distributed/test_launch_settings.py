"""What the jobs do with the variables by which launchers speak to a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from cxrdist.distributed import launch_settings, machine
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.ranks import is_main_rank, place, rank, was_launched, world_size
from tests.helpers.launching import CLONE

OURS = {setting.variable for setting in launch_settings.SETTINGS}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in OURS:
        monkeypatch.delenv(variable, raising=False)
    yield


def given(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)


LEFT = {"RANK": "1", "LOCAL_RANK": "1"}
TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
REFUSED = [
    (LEFT, r"RANK=1, but WORLD_SIZE is not set: an earlier job may have left it; unset RANK"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, r"RANK=2, but WORLD_SIZE=2"),
    ({"LOCAL_RANK": "0"}, r"LOCAL_RANK=0, but WORLD_SIZE is not set"),
    ({"RANK": "one"}, r"RANK=one: not a number"),
    ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2, but RANK and LOCAL_RANK and MASTER_ADDR are not set"),
    ({**TWO, "MASTER_ADDR": ""}, r"WORLD_SIZE=2, but MASTER_ADDR is not set"),
    ({"PMI_SIZE": "2"}, r"PMI_SIZE=2: mpirun does not connect these jobs"),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, r"OMPI_COMM_WORLD_SIZE=4: mpirun does not connect"),
    (
        {"ACCELERATE_MIXED_PRECISION": "fp16"},
        r"ACCELERATE_MIXED_PRECISION=fp16: these jobs compute in fp32 or bf16",
    ),
    ({"ACCELERATE_MIXED_PRECISION": "fp8"}, r"ACCELERATE_MIXED_PRECISION=fp8: these jobs"),
    ({"ACCELERATE_USE_FSDP": "true"}, r"ACCELERATE_USE_FSDP=true: launched with FSDP"),
    ({"ACCELERATE_USE_FSDP": "1"}, r"ACCELERATE_USE_FSDP=1: launched with FSDP"),
    ({"ACCELERATE_USE_SAGEMAKER": "true"}, r"SageMaker"),
    ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, r"other than DDP"),
    (
        {"ACCELERATE_TORCH_DEVICE": "cuda:1"},
        r"ACCELERATE_TORCH_DEVICE=cuda:1: choose devices with CUDA_VISIBLE",
    ),
    (
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        r"ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4: .*--accumulate",
    ),
    ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, r"ACCELERATE_GRADIENT_CLIPPING=1.0: gradients are not clipped"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_would_train_otherwise_or_twice_is_refused(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, settings)
    with pytest.raises(UserError, match=said):
        Dist("fp32")


UNUSED = [
    {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
    {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "1"},
    {"ACCELERATE_LOG_LEVEL": "DEBUG"},
    {"SLURM_STEP_NUM_TASKS": "2"},
]


@pytest.mark.parametrize("settings", UNUSED)
def test_what_has_no_effect_is_said_once(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, settings)
    with Dist("fp32", engines=("net",)) as dist:
        engine = dist.engine("net", torch.nn.Linear(2, 2), learning_rate=0.1, betas=(0.5, 0.9))
        assert [*engine.module.state_dict()] == [
            "weight",
            "bias",
        ]  # not _orig_mod.weight, as of torch.compile
    ((variable, value),) = settings.items()
    assert [text for text in caplog.messages if f"{variable}={value} is not used: " in text] == [
        *caplog.messages
    ]
    assert len(caplog.messages) == 1


ORDINARY = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_USE_CPU": "True",
    "PMI_SIZE": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "RANK": "0",
    "WORLD_SIZE": "1",
}


def test_what_every_launch_sets_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, ORDINARY)
    Dist("fp32").close()
    assert caplog.messages == []


def test_variables_of_mpi_and_slurm_count_only_without_a_launcher(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, {**TWO, "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2", "TORCHELASTIC_RUN_ID": "none"})
    launch_settings.check()
    assert caplog.messages == []


def test_processes_that_no_launcher_started_say_whom_they_wait_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given(monkeypatch, {**TWO, "MASTER_PORT": "1234"})
    launch_settings.check()
    assert caplog.messages == [
        "rank 1 waits for the other processes of 2 at 127.0.0.1:1234 (WORLD_SIZE, MASTER_ADDR, MASTER_PORT)"
    ]


@pytest.mark.parametrize(
    ("launched", "asked", "resolved"),
    [("bf16", "auto", "bf16"), ("bf16", "fp32", "fp32"), ("no", "fp32", "fp32"), ("no", "bf16", "bf16")],
)
def test_the_launchers_precision_is_taken_if_the_job_is_given_none(
    launched: str, asked: machine.Precision, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert machine.resolve_precision(asked, on_cpu=True) == resolved


def test_a_rank_that_an_earlier_job_left_silences_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, LEFT)
    assert (rank(), world_size(), is_main_rank(), place()) == (0, 1, True, "")
    given(monkeypatch, TWO)
    assert (rank(), world_size(), is_main_rank()) == (1, 2, False)
    assert place().startswith("rank 1 on ")


def test_a_task_of_srun_is_launched_if_it_is_one_of_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")  # also in a batch script, and in a shell
    assert not was_launched()
    given(monkeypatch, TWO)
    assert was_launched()
    monkeypatch.delenv("SLURM_PROCID")
    assert not was_launched()


THREADS: list[tuple[dict[str, str], int | None, int]] = [
    ({}, None, 4),
    ({"OMP_NUM_THREADS": "1"}, None, 1),
    ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, None, 2),
    ({"OMP_NUM_THREADS": "6,2"}, None, 6),
    ({"OMP_NUM_THREADS": "0"}, None, 4),
    ({"OMP_NUM_THREADS": "1"}, 3, 3),
    ({"LOCAL_WORLD_SIZE": "2"}, None, 2),
]


@pytest.mark.parametrize(("settings", "option", "threads"), THREADS)
def test_threads_are_those_of_the_option_else_of_the_user_else_a_share_of_the_cores(
    settings: dict[str, str], option: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    given(monkeypatch, settings)
    try:
        assert machine.set_threads(True, option) == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_threads_are_at_least_one() -> None:
    with pytest.raises(UserError, match="threads: must be 1 or more, or null, not 0"):
        machine.set_threads(True, 0)


LAUNCHER = """
import os, subprocess, sys
launched = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
code = "from cxrdist.distributed.machine import asked_threads; print(asked_threads())"
subprocess.run([sys.executable, "-c", code], env=launched, check=True)
"""


@pytest.mark.parametrize(
    ("environment", "words", "asked"),
    [
        ({}, ["accelerate"], "None"),
        ({}, ["torchrun"], "None"),
        ({}, [], "1"),  # a shell that exported it
        ({"OMP_NUM_THREADS": "1"}, ["accelerate"], "1"),
        ({}, ["accelerate", "--num_cpu_threads_per_process", "1"], "1"),
        ({}, ["accelerate", "--num-cpu-threads-per-process=1"], "1"),
    ],
)
def test_a_number_of_threads_that_only_the_launcher_set_is_not_the_users(
    environment: dict[str, str], words: list[str], asked: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *words],  # the words make it look like one of them
        cwd=CLONE,
        env={
            **{k: v for k, v in os.environ.items() if k not in OURS},
            **environment,
            "PYTHONPATH": str(CLONE),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [asked]


def test_the_page_on_scaling_names_every_setting() -> None:
    page = (CLONE / "docs/scaling.md").read_text()
    assert [variable for variable in sorted(OURS) if f"`{variable}`" not in page] == []
