"""Processes and devices: the only module that builds an Accelerator.

What it guards against, because each of these fails in silence otherwise: processes that do not know each
other and do the same work twice, ranks that outlive their launcher, two jobs in one folder, more threads
than cores, BatchNorm statistics that differ per rank.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import nn

from cxrdist.errors import UserError, from_os
from cxrdist.progress import say

T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16"]

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
COLLECTIVE_TIMEOUT = timedelta(hours=2)


class Dist:
    """The processes of one job. ``rank``, ``world_size``, ``device``; everything collective goes through it."""

    def __init__(self, precision: Precision = "auto") -> None:
        launched_world_size = int(os.environ.get("WORLD_SIZE", "1"))
        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
        self.threads = set_threads(on_cpu)
        self.precision = resolve_precision(precision, on_cpu)
        # Without cpu=True two processes started by a CPU launch never find each other.
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if self.precision == "bf16" else "no",
            kwargs_handlers=[
                # Two forward passes of D before one backward fail where buffers are broadcast in between.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
            ],
        )
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        if launched_world_size > 1 and self.world_size == 1:
            raise UserError(
                f"the launcher started {launched_world_size} processes, but they do not know each other, and each "
                "would do all the work: on CPU launch with --config_file configs/accelerate/cpu2.yaml, on GPUs "
                "with --multi_gpu"
            )
        if self.accelerator.distributed_type not in SUPPORTED:
            raise UserError(
                f"launched as {self.accelerator.distributed_type.value}, which these jobs do not train right yet: "
                "launch with --config_file configs/accelerate/gpu.yaml (DDP)"
            )
        # For what ranks tell each other beside the gradients, from another thread: no collective of one may come
        # between those of the other.
        self._channel = (
            torch.distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
            if self.world_size > 1
            else None
        )
        warn_if_crowded(on_cpu)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def describe(self) -> str:
        if self.device.type == "cpu":
            processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
            threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
            return f"{processes} on CPU, {threads} each, {self.precision}"
        return f"{self.world_size} x {self.device_name}, {self.precision}"

    def wrap(self, model: nn.Module) -> nn.Module:
        """A model on the device, its gradients synced. Wrap while every parameter is trainable: one that is
        frozen then and unfrozen later is never synced."""
        if self.world_size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # The layout that convolutions are fastest in; torch's own stubs lack this form of the call.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, is not in all torch versions that the project runs on.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            return self.accelerator.prepare(model)

    def unwrap(self, model: nn.Module) -> Any:
        """The model inside its DDP wrapper: same parameters, no sync."""
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[n, ...] on each rank, n equal everywhere -> [world_size n, ...] on all, in the order of ranks."""
        return self.accelerator.gather(tensor)

    def gather_objects(self, values: list[T]) -> list[T]:
        """Small picklable values of all ranks, on all of them, in the order of ranks."""
        return gather_object(values) if self.world_size > 1 else values

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks, on all of them."""
        return self.accelerator.reduce(tensor, reduction="mean")

    def average_buffers(self, model: nn.Module) -> None:
        """Give all ranks the mean of their BatchNorm statistics: each saw its own part of the batches."""
        if self.world_size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))

    @property
    def spare_cores(self) -> int:
        """Cores of this process that training leaves idle: none on CPU."""
        return 0 if self.device.type == "cpu" else max(0, cores() // local_processes() - 1)

    def total(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all ranks; called from one thread only, which need not be the main one."""
        sums = torch.tensor(numbers)
        if self._channel is not None:
            torch.distributed.all_reduce(sums, group=self._channel)
        return [int(n) for n in sums.tolist()]

    def first(self, message: str | None) -> str:
        """The message of the first rank that has one; from the thread that calls ``total``."""
        told: list[str | None] = [message]
        if self._channel is not None:
            told = [None] * self.world_size
            torch.distributed.all_gather_object(told, message, group=self._channel)
        return next(one for one in told if one is not None)

    def on_main(self, decide: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; a UserError that it raises is raised on every rank."""
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = decide()
            except UserError as error:
                box[1] = str(error)
            except OSError as error:
                box[1] = str(from_os(error))
        if self.world_size > 1:
            broadcast_object_list(box)
        if box[1] is not None:
            raise UserError(box[1])
        return box[0]

    def forget_models(self) -> None:
        """Let go of what was wrapped so far: the Accelerator would hold every model of a job until its end."""
        self.accelerator.free_memory()

    def close(self) -> None:
        """Leave the process group in order, so that no rank reports the others as lost."""
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def cores() -> int:
    """Cores that this process may use: fewer than the machine has inside a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def set_threads(on_cpu: bool) -> int:
    """One thread per core over all local processes: two processes of two threads each on two cores are
    slower than one process."""
    threads = max(1, cores() // local_processes())
    if on_cpu:
        torch.set_num_threads(threads)
    return threads


def warn_if_crowded(on_cpu: bool) -> None:
    if on_cpu and local_processes() > cores():
        say(
            f"warning: {local_processes()} processes share {cores()} cores and will be slower than {cores()}: "
            f"launch with --num_processes {cores()}"
        )


def resolve_precision(precision: Precision, on_cpu: bool) -> Literal["fp32", "bf16"]:
    """``auto`` is bf16 where the hardware multiplies it fast: most GPUs, CPUs with AMX."""
    if precision != "auto":
        return precision
    if not on_cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    flags = Path("/proc/cpuinfo")
    return "bf16" if flags.exists() and "amx_bf16" in flags.read_text() else "fp32"
