"""Processes and devices: the only module that builds an Accelerator.

What it guards against, because each of these fails in silence otherwise: processes that do not know each
other and do the same work twice, ranks that outlive their launcher, two jobs in one folder, more threads
than cores, BatchNorm statistics that differ per rank.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

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

from cxrdist.distributed import zero
from cxrdist.distributed.engines import Engine, InPrecision, LocalEngine
from cxrdist.distributed.machine import (
    Precision,
    local_processes,
    resolve_precision,
    set_threads,
    warn_if_crowded,
)
from cxrdist.errors import UserError, from_os
from cxrdist.process import available_cores, keep_all_freed_memory

T = TypeVar("T")

SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.DEEPSPEED,
)
COLLECTIVE_TIMEOUT = timedelta(hours=2)
MEETING_TIMEOUT = timedelta(days=30)


class Dist:
    """The processes of one job. ``rank``, ``world_size``, ``device``; everything collective goes through it.

    ``engines`` names the networks that the job trains through ``engine``; a job without any uses ``wrap``.
    """

    def __init__(self, precision: Precision = "auto", engines: Sequence[str] = ()) -> None:
        self._is_alone = False
        self._zero_engines: list[zero.ZeroEngine] = []
        launched_world_size = int(os.environ.get("WORLD_SIZE", "1"))
        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
        self.threads = set_threads(on_cpu)
        if on_cpu and engines:
            keep_all_freed_memory()
        self.precision = resolve_precision(precision, on_cpu)
        refuse_launchers()
        self.engine_names = tuple(engines)
        self._plugins = zero.plugins(engines, on_cpu=on_cpu) if zero.is_launched() else {}
        self.accelerator = Accelerator(
            # Without cpu=True two processes started by a CPU launch never find each other; with it, there is no
            # DeepSpeed.
            cpu=on_cpu and not self._plugins,
            # Engines bring their own autocast.
            mixed_precision="bf16" if self.precision == "bf16" and not engines else "no",
            deepspeed_plugins=self._plugins or None,
            kwargs_handlers=[
                # Two forward passes of D before one backward fail where buffers are broadcast in between.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # Under DeepSpeed accelerate takes a machine without use_cpu for one of GPUs.
                InitProcessGroupKwargs(
                    timeout=COLLECTIVE_TIMEOUT, backend="gloo" if on_cpu and self._plugins else "nccl"
                ),
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
                f"{zero.DDP_ADVICE}"
            )
        # For what ranks tell each other beside the gradients, from another thread: no collective of one may come
        # between those of the other.
        self._channel = self._gloo(COLLECTIVE_TIMEOUT)
        self._meeting = self._gloo(MEETING_TIMEOUT)
        # DDP says so of kernels of one channel, whose layout has two names; nothing is slower or wrong for it.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        warn_if_crowded(on_cpu)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether other ranks of the job work on something else at the same time."""
        return self._is_alone

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def describe(self) -> str:
        if self.device.type == "cpu":
            processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
            threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
            devices = f"{processes} on CPU, {threads} each"
        else:
            devices = f"{self.world_size} x {self.device_name}"
        return ", ".join(
            [devices, self.precision, *sorted({f"ZeRO-{p.zero_stage}" for p in self._plugins.values()})]
        )

    def _gloo(self, timeout: timedelta) -> torch.distributed.ProcessGroup | None:
        return torch.distributed.new_group(backend="gloo", timeout=timeout) if self.world_size > 1 else None

    def alone(self) -> Dist:
        """This process as a job of its own on the same device: nothing that it does waits for another rank."""
        alone = copy.copy(self)
        alone.rank, alone.world_size = 0, 1
        alone._channel = alone._meeting = None
        alone._plugins = {}
        alone._is_alone = True
        return alone

    def meet(self, value: T) -> list[T]:
        """Each rank's small picklable value, on all ranks, in their order. Ranks may be days late: for the end of
        work that each did ``alone``."""
        values: list[Any] = [value]
        if self._meeting is not None:
            values *= self.world_size
            torch.distributed.all_gather_object(values, value, group=self._meeting)
        return values

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of this job's precision: the one place that says what bf16 is."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def engine(
        self,
        name: str,
        model: nn.Module,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        parts: int = 1,
        compile: bool = False,
    ) -> Engine:
        """Train a network with Adam, its gradients averaged over the ranks.

        ``name`` is one of those that this Dist was made with; ``parts`` is how many backward passes make one step.
        All parameters must be trainable now: one that is frozen here and unfrozen later is never synced. The model
        itself moves to the device; its BatchNorm layers may be replaced, so go on with ``Engine.module``.
        """
        assert name in self.engine_names, name
        # DeepSpeed refuses any layout but the standard one, and on CPU Adam is fastest in it.
        is_on_cpu = self.device.type == "cpu"
        network = InPrecision(
            self._placed(model, channels_last=not (is_on_cpu or self._plugins)), self.autocast
        )
        if compile:
            network.compile()
        fused = True if is_on_cpu and not self._plugins else None
        optimizer = torch.optim.Adam(network.parameters(), learning_rate, betas, fused=fused)
        if self._plugins:
            engine = zero.zero_engine(self.accelerator, name, network, optimizer, parts)
            self._zero_engines.append(engine)
            return engine
        return LocalEngine(network, self._synced(network), optimizer, parts)

    def _placed(self, model: nn.Module, *, channels_last: bool = True) -> nn.Module:
        if self.world_size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if channels_last:
            # What convolutions are fastest in; torch's own stubs lack this form of the call.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def _synced(self, model: nn.Module) -> nn.Module:
        if self._is_alone:
            return model
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, is not in all torch versions that the project runs on.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            return self.accelerator.prepare(model)

    def wrap(self, model: nn.Module) -> nn.Module:
        """A model on the device, its gradients synced. Wrap while every parameter is trainable: one that is
        frozen then and unfrozen later is never synced."""
        return self._synced(self._placed(model))

    def unwrap(self, model: nn.Module) -> Any:
        """The model inside its DDP wrapper: same parameters, no sync."""
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def barrier(self) -> None:
        if self.world_size > 1:
            self.accelerator.wait_for_everyone()

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[n, ...] on each rank, n equal everywhere -> [world_size n, ...] on all, in the order of ranks."""
        return self.accelerator.gather(tensor) if self.world_size > 1 else tensor

    def gather_objects(self, values: list[T]) -> list[T]:
        """Small picklable values of all ranks, on all of them, in the order of ranks."""
        return gather_object(values) if self.world_size > 1 else values

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks, on all of them."""
        return self.accelerator.reduce(tensor, reduction="mean") if self.world_size > 1 else tensor

    def average_buffers(self, model: nn.Module) -> None:
        """Give all ranks the mean of their BatchNorm statistics: each saw its own part of the batches."""
        if self.world_size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))

    @property
    def spare_cores(self) -> int:
        """Cores of this process that training leaves idle: none on CPU."""
        return 0 if self.device.type == "cpu" else max(0, available_cores() // local_processes() - 1)

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

    @contextlib.contextmanager
    def hold_on_main(self, manager: AbstractContextManager[object]) -> Iterator[None]:
        """Rank 0 enters ``manager`` for the duration of the block. A UserError or OSError on entering is raised on
        every rank."""
        with contextlib.ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(manager)

            self.on_main(enter)
            yield

    def forget_models(self) -> None:
        """Let go of what was wrapped and of all engines so far: accelerate and DeepSpeed would hold every model of a
        job until its end."""
        if self._is_alone:
            return
        for engine in self._zero_engines:
            engine.destroy()
        self._zero_engines.clear()
        self.accelerator.free_memory()

    def close(self) -> None:
        """Leave the process group in order, so that no rank reports the others as lost."""
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def refuse_launchers() -> None:
    """Raises UserError for launches that accelerate knows and these jobs do not, before accelerate acts on them."""
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(variable, "false").lower() == "true":
            raise UserError(f"launched with {name}, which these jobs do not train right: {zero.DDP_ADVICE}")
