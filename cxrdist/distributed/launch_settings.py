"""What the jobs do with each setting of a launcher: obey it, refuse it, or say that it is not used.

Launchers speak to a process through variables of its environment. ``SETTINGS`` names all that have an effect in
accelerate, torchrun, Slurm or MPI; docs/scaling.md has the same table.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cxrdist.errors import UserError
from cxrdist.logs import EVERY_RANK

log = logging.getLogger(__name__)

Treatment = Literal["obeyed", "refused", "not used"]
NO = ("", "0", "no", "none", "false", "auto", "default")
"""Values, in lower case, with which a launcher says that nothing is set."""
ONE = (*NO, "1")
"""The same of a count."""
DDP = "launch with --config_file configs/accelerate/gpu.yaml (DDP)"


@dataclass(frozen=True)
class Setting:
    """A variable, or all that begin with one if it ends in ``*``."""

    variable: str
    treatment: Treatment
    why: str
    """What obeys it, or what to do instead; it follows the variable and its value in a message."""
    unset: tuple[str, ...] = NO
    """Values, in lower case, that ask for nothing."""

    def values(self, environment: Mapping[str, str]) -> dict[str, str]:
        """``{variable: value}`` of those that ask for something."""
        if self.variable.endswith("*"):
            found = {name: v for name, v in environment.items() if name.startswith(self.variable[:-1])}
        else:
            found = {self.variable: environment.get(self.variable, "")}
        return {name: value for name, value in found.items() if value.lower() not in self.unset}


def _obeyed(variables: str, why: str) -> list[Setting]:
    return [Setting(variable, "obeyed", why) for variable in variables.split()]


def _refused(variables: str, why: str, unset: tuple[str, ...] = NO) -> list[Setting]:
    return [Setting(variable, "refused", why, unset) for variable in variables.split()]


def _unused(variables: str, why: str, unset: tuple[str, ...] = NO) -> list[Setting]:
    return [Setting(variable, "not used", why, unset) for variable in variables.split()]


_ONE_OPTION = "an option of the job sets it for every launcher alike: "

SETTINGS = [
    *_obeyed("RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT", "which process of which job"),
    *_obeyed("TORCHELASTIC_RUN_ID TORCHELASTIC_ERROR_FILE", "torchrun started it; it prints the error at its end"),
    *_obeyed("GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME", "the network interface over which hosts meet"),
    *_obeyed("TORCHELASTIC_USE_AGENT_STORE", "where the ranks meet: torchrun's store, or one of rank 0's"),
    *_obeyed("ACCELERATE_USE_CPU", "train on CPU although there are GPUs"),
    *_obeyed("ACCELERATE_USE_DEEPSPEED ACCELERATE_DEEPSPEED_CONFIG_FILE", "ZeRO, with the stage in the file"),
    *_obeyed("DS_ACCELERATOR", "what DeepSpeed runs on; cpu if it is not set and there is no GPU"),
    *_obeyed("OMP_NUM_THREADS MKL_NUM_THREADS", "threads of a process on CPU, unless --threads is given"),
    *_obeyed("CUDA_VISIBLE_DEVICES", "the GPUs that are used"),
    *_obeyed("ACCELERATE_CPU_AFFINITY", "bind each process to the cores near its GPU"),
    *_obeyed("ACCELERATE_DEBUG_MODE", "accelerate checks the shapes of what processes exchange"),
    Setting(
        "ACCELERATE_MIXED_PRECISION",
        "refused",
        "these jobs compute in fp32 or bf16: use --mixed_precision bf16, or no and --precision of the job",
        (*NO, "fp32", "bf16"),
    ),
    *_refused("ACCELERATE_USE_FSDP", f"launched with FSDP, which these jobs do not support: {DDP}"),
    *_refused("ACCELERATE_USE_MEGATRON_LM", f"launched with Megatron-LM, which these jobs do not support: {DDP}"),
    *_refused("ACCELERATE_USE_PARALLELISM_CONFIG", f"parallel dimensions other than DDP are not supported: {DDP}"),
    *_refused("ACCELERATE_USE_SAGEMAKER", f"SageMaker's own parallelism is not supported: {DDP}"),
    *_refused("ACCELERATE_TORCH_DEVICE", "choose devices with CUDA_VISIBLE_DEVICES or --cpu", ("", "cpu", "cuda")),
    *_refused(
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        _ONE_OPTION + "give --accumulate to it, and remove gradient_accumulation_steps from the launch",
        ONE,
    ),
    *_refused(
        "ACCELERATE_GRADIENT_CLIPPING",
        "gradients are not clipped, under DDP neither: remove gradient_clipping from the launch",
        (*NO, "0.0"),
    ),
    *_unused(
        "ACCELERATE_DYNAMO_BACKEND ACCELERATE_DYNAMO_MODE ACCELERATE_DYNAMO_USE_FULLGRAPH "
        "ACCELERATE_DYNAMO_USE_DYNAMIC ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
        _ONE_OPTION + "--compile compiles its networks",
    ),
    *_unused("ACCELERATE_DOWNCAST_BF16 XLA_USE_BF16 XLA_DOWNCAST_BF16", "only TPUs have it"),
    *_unused("ACCELERATE_LOG_LEVEL", "CXRDIST_LOG_LEVEL and --log-level set what is shown"),
    *_unused("SLURM_STEP_NUM_TASKS", "tasks of srun are not connected by themselves, so each runs a whole job: "
             "submit launch/slurm/train.sbatch, which connects them", ONE),
]  # fmt: skip
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
SETTINGS += _refused(
    " ".join(_MPI),
    "mpirun does not connect these jobs: start them with accelerate launch or torchrun, or unset the variable if an "
    "earlier job left it",
    ONE,
)


def asked(environment: Mapping[str, str]) -> Iterator[tuple[Setting, str]]:
    """The settings in an environment that are refused or not used, and ``VARIABLE=value`` of each."""
    is_connected = int(environment.get("WORLD_SIZE", "1")) > 1
    for setting in SETTINGS:
        if setting.variable in (*_MPI, "SLURM_STEP_NUM_TASKS") and is_connected:
            continue
        if setting.treatment != "obeyed":
            for variable, value in setting.values(environment).items():
                yield setting, f"{variable}={value}"


def check() -> None:
    """Raises UserError for what is refused, and for variables of ranks that do not fit together; logs what is not
    used."""
    environment = os.environ
    check_ranks(environment)
    is_connected = int(environment.get("WORLD_SIZE", "1")) > 1
    for setting, what in asked(environment):
        if setting.treatment == "refused":
            raise UserError(f"{what}: {setting.why}")
        log.warning("%s is not used: %s", what, setting.why)
    if is_connected and "TORCHELASTIC_RUN_ID" not in environment:
        log.info(
            "rank %s waits for the other processes of %s at %s:%s (WORLD_SIZE, MASTER_ADDR, MASTER_PORT)",
            environment["RANK"],
            environment["WORLD_SIZE"],
            environment["MASTER_ADDR"],
            environment.get("MASTER_PORT", "29500"),
            extra=EVERY_RANK,
        )


def launched_precision() -> Literal["bf16"] | None:
    """The precision that the launcher asks for: bf16 or none. ``no`` is none, since it is also what accelerate sets
    if nobody asks."""
    return "bf16" if os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() == "bf16" else None


def check_ranks(environment: Mapping[str, str]) -> None:
    """Raises UserError for variables of ranks that do not fit together."""
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        text = environment.get(name)
        if text is not None and not text.isdecimal():
            raise UserError(f"{name}={text}: not a number; a launcher sets it, so unset it if there is none")
        if text is not None:
            numbers[name] = int(text)
    world_size, rank = numbers.get("WORLD_SIZE", 1), numbers.get("RANK")
    given = f"WORLD_SIZE={world_size}" if "WORLD_SIZE" in numbers else "WORLD_SIZE is not set"
    # accelerate takes any LOCAL_RANK for that of a job of several processes.
    alone = "LOCAL_RANK" in numbers and "WORLD_SIZE" not in numbers
    wrong = "RANK" if rank is not None and rank >= world_size else "LOCAL_RANK" if alone else None
    if wrong is not None:
        raise UserError(
            f"{wrong}={numbers[wrong]}, but {given}: an earlier job may have left it; unset {wrong}, or start the "
            "job with accelerate launch or torchrun"
        )
    if world_size > 1:
        lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if not environment.get(name)]
        if lacking:
            raise UserError(
                f"WORLD_SIZE={world_size}, but {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not "
                "set: start the job with accelerate launch or torchrun, or unset WORLD_SIZE if an earlier job left it"
            )
