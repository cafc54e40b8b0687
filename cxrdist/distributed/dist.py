"""Processes and devices of a job: the only module that builds an Accelerator.

It guards against problems that give no error otherwise: processes that are not connected and all do the whole work,
more threads than cores, BatchNorm statistics that differ per rank, launchers that change the training.
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
from cxrdist.distributed.engines import Engine, InPrecision, LocalEngine, adam_groups
from cxrdist.distributed.machine import (
    Precision,
    local_processes,
    resolve_precision,
    set_threads,
    warn_if_crowded,
)
from cxrdist.distributed.zero_engine import ZeroEngine, zero_engine
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
    """The processes of one job: ``rank``, ``world_size``, ``device``, and all collective operations.

    ``engines``: names of the networks that the job trains through ``engine``; a job without engines uses ``wrap``.
    ``zero_stages``: stages of ZeRO that the job allows. ZeRO-3 is for networks whose passes all go through the
    engine: no second derivatives, no pass through the frozen network. Raises UserError for a launch under which the
    job would not train correctly.
    """

    def __init__(
        self, precision: Precision = "auto", engines: Sequence[str] = (), zero_stages: Sequence[int] = (1, 2)
    ) -> None:
        self._is_alone = False
        self._zero_engines: list[ZeroEngine] = []
        launched_world_size = int(os.environ.get("WORLD_SIZE", "1"))
        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
        self.threads = set_threads(on_cpu)
        if on_cpu and engines:
            keep_all_freed_memory()
        self.precision = resolve_precision(precision, on_cpu)
        zero.refuse_other_launchers()
        self.engine_names = tuple(engines)
        self._plugins = zero.plugins(engines, zero_stages, on_cpu=on_cpu) if zero.is_launched() else {}
        self.accelerator = Accelerator(
            # Without cpu=True two processes of a CPU launch do not form a process group; with it, DeepSpeed is off.
            cpu=on_cpu and not self._plugins,
            # Engines have their own autocast.
            mixed_precision="bf16" if self.precision == "bf16" and not engines else "no",
            deepspeed_plugins=self._plugins or None,
            kwargs_handlers=[
                # Two forward passes of D before one backward pass fail if buffers are broadcast in between.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # Under DeepSpeed without use_cpu, accelerate assumes GPUs.
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
                f"the launcher started {launched_world_size} processes, but they are not connected, so each "
                "would run the whole job: on CPU launch with --config_file configs/accelerate/cpu2.yaml, on GPUs "
                "with --multi_gpu"
            )
        if self.accelerator.distributed_type not in SUPPORTED:
            raise UserError(
                f"launched as {self.accelerator.distributed_type.value}, which these jobs do not support: "
                f"{zero.DDP_ADVICE}"
            )
        # Process groups of their own for messages between the ranks: the loader sends them from another thread, and
        # collectives of two threads must not mix in one group.
        self._channel = self._gloo(COLLECTIVE_TIMEOUT)
        self._meeting = self._gloo(MEETING_TIMEOUT)
        # DDP warns about convolutions of one channel, whose two memory formats are the same; it is harmless.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        warn_if_crowded(on_cpu)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True if this rank works on its own, while the other ranks of the job do other work; see ``alone``."""
        return self._is_alone

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def describe(self) -> str:
        """The processes, devices and precision, as a job prints them."""
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
        """This process as a job of one process on the same device: none of its operations waits for another rank."""
        alone = copy.copy(self)
        alone.rank, alone.world_size = 0, 1
        alone._channel = alone._meeting = None
        alone._plugins = {}
        alone._is_alone = True
        return alone

    def meet(self, value: T) -> list[T]:
        """Small picklable values of all ranks, on all ranks, in the order of ranks. Waits up to 30 days for the last
        rank: for the end of work that each rank did ``alone``."""
        values: list[Any] = [value]
        if self._meeting is not None:
            values *= self.world_size
            torch.distributed.all_gather_object(values, value, group=self._meeting)
        return values

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks compute in this job's precision."""
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
        l2: float = 0.0,
        parts: int = 1,
        compile: bool = False,
    ) -> Engine:
        """An engine that trains a network with Adam, with gradients averaged over the ranks.

        ``name``: one of the names that this Dist was made with. ``l2``: coupled weight decay of the weights, not of
        biases and norms; see ``adam_groups``. ``parts``: number of backward passes in a step. Parameters that are
        frozen now are neither synced nor updated, and must stay frozen; to train others, make another engine. The
        model moves to the device, and its BatchNorm layers may be replaced: use ``Engine.module`` from here on.
        """
        assert name in self.engine_names, name
        # DeepSpeed accepts only the standard memory format.
        network = InPrecision(self._placed(model, channels_last=not self._plugins), self.autocast)
        if compile:
            network.compile()
        fused = True if self.device.type == "cpu" and not self._plugins else None
        optimizer = torch.optim.Adam(adam_groups(network, l2), learning_rate, betas, fused=fused)
        if self._plugins:
            engine = zero_engine(self.accelerator, name, network, optimizer, parts)
            self._zero_engines.append(engine)
            return engine
        return LocalEngine(network, self._synced(network), optimizer, parts)

    def _placed(self, model: nn.Module, *, channels_last: bool = True) -> nn.Module:
        if self.world_size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if channels_last:
            # Convolutions are fastest in it; torch's type stubs lack this form of the call.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def _synced(self, model: nn.Module) -> nn.Module:
        if self._is_alone:
            return model
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, does not exist in all supported torch versions.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            return self.accelerator.prepare(model)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on the device, with gradients averaged over the ranks. All parameters must be trainable now: one
        that is frozen here and unfrozen later is never synced."""
        return self._synced(self._placed(model))

    def unwrap(self, model: nn.Module) -> Any:
        """The model inside its DDP wrapper: the same parameters, without sync."""
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            self.accelerator.wait_for_everyone()

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[n, ...] on each rank, with equal n -> [world_size n, ...] on all ranks, in the order of ranks."""
        return self.accelerator.gather(tensor) if self.world_size > 1 else tensor

    def gather_objects(self, values: list[T]) -> list[T]:
        """Small picklable values of all ranks, on all ranks, in the order of ranks."""
        return gather_object(values) if self.world_size > 1 else values

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks, on all ranks."""
        return self.accelerator.reduce(tensor, reduction="mean") if self.world_size > 1 else tensor

    def average_buffers(self, model: nn.Module) -> None:
        """Average the BatchNorm statistics over the ranks, in place: each rank has those of its part of the
        batches."""
        if self.world_size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))

    @property
    def spare_cores(self) -> int:
        """Cores of this process that training leaves idle: none on CPU."""
        return 0 if self.device.type == "cpu" else max(0, available_cores() // local_processes() - 1)

    def total(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all ranks. Call it from one thread only, which may be another than the main thread."""
        sums = torch.tensor(numbers)
        if self._channel is not None:
            torch.distributed.all_reduce(sums, group=self._channel)
        return [int(n) for n in sums.tolist()]

    def first(self, message: str | None) -> str:
        """The message of the first rank that has one. Call it from the thread that calls ``total``."""
        messages: list[str | None] = [message]
        if self._channel is not None:
            messages = [None] * self.world_size
            torch.distributed.all_gather_object(messages, message, group=self._channel)
        return next(one for one in messages if one is not None)

    def on_main(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its picklable result on every rank. A UserError or OSError of it is
        raised on every rank, as a UserError."""
        outcome: list[Any] = [None, None]  # result, message of the error
        if self.is_main:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = str(error)
            except OSError as error:
                outcome[1] = str(from_os(error))
        if self.world_size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise UserError(outcome[1])
        return outcome[0]

    @contextlib.contextmanager
    def hold_on_main(self, manager: AbstractContextManager[object]) -> Iterator[None]:
        """Rank 0 enters ``manager`` for the ``with`` block. A UserError or OSError on entering is raised on every
        rank, as a UserError."""
        with contextlib.ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(manager)

            self.on_main(enter)
            yield

    def forget_models(self) -> None:
        """Release all wrapped models and engines: accelerate and DeepSpeed would hold every model of a job until its
        end."""
        if self._is_alone:
            return
        for engine in self._zero_engines:
            engine.destroy()
        self._zero_engines.clear()
        self.accelerator.free_memory()

    def close(self) -> None:
        """Leave the process group, so that no rank reports the others as lost."""
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
