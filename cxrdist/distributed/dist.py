"""Processes and devices of a job: the only module that builds an Accelerator.

It guards against problems that give no error otherwise: processes that are not connected and all do the whole work,
more threads than cores, BatchNorm statistics that differ per rank, launchers that change the training.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    parse_flag_from_env,
)
from torch import nn

from cxrdist.distributed import launch_settings, zero
from cxrdist.distributed.collectives import Collectives
from cxrdist.distributed.connect import connect, groups_within
from cxrdist.distributed.engines import Engine, InPrecision, LocalEngine, adam_groups, keep_buckets
from cxrdist.distributed.machine import (
    Precision,
    is_set_by_launcher,
    resolve_precision,
    set_threads,
    warn_if_crowded,
)
from cxrdist.distributed.watch import COLLECTIVE_TIMEOUT, late_s
from cxrdist.distributed.zero_engine import ZeroEngine, zero_engine
from cxrdist.errors import UserError
from cxrdist.process import available_cores, keep_all_freed_memory
from cxrdist.ranks import local_world_size, world_size

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.DEEPSPEED,
)


class Dist(Collectives):
    """The processes of one job: ``rank``, ``world_size``, ``device``, collective operations, and the engines that
    train its networks. Use it in a ``with`` block: another job may follow in the same process.

    ``engines``: names of the networks that the job trains through ``engine``. ``zero_stages``: stages of ZeRO that
    the job allows. ZeRO-3 is for networks whose passes all go through the engine: no second derivatives, no pass
    through the frozen network. ``threads``: of this process on CPU; None: its share of the cores, or what
    OMP_NUM_THREADS says. ``collective_timeout``: minutes after which a rank that is silent ends the job. Raises
    UserError for a launch under which the job would not train correctly.
    """

    def __init__(
        self,
        precision: Precision = "auto",
        engines: Sequence[str] = (),
        zero_stages: Sequence[int] = (1, 2),
        threads: int | None = None,
        collective_timeout: float = COLLECTIVE_TIMEOUT,
    ) -> None:
        launch_settings.check()
        self._zero_engines: list[ZeroEngine] = []
        self._threads_before = torch.get_num_threads()
        on_cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
        if on_cpu and engines:
            keep_all_freed_memory()
        self.precision = resolve_precision(precision, on_cpu)
        self.engine_names = tuple(engines)
        self._plugins = zero.plugins(engines, zero_stages, on_cpu=on_cpu) if zero.is_launched() else {}
        silence_s = 60 * collective_timeout
        # After the watch, which names the rank.
        self._timeout = timedelta(seconds=late_s(silence_s))
        backend = "gloo" if on_cpu else "nccl"
        try:
            store = connect(backend, self._timeout) if world_size() > 1 else None
            super().__init__(self._accelerator(on_cpu), store, silence_s, self._timeout)
            self.device: torch.device = self.accelerator.device
            self._check_launch()
            self.threads = set_threads(on_cpu, threads)  # accelerate sets them too, without a launcher
        except BaseException:
            self._forget_launch()
            raise
        # DDP warns about convolutions of one channel, whose two memory formats are the same; it is harmless.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        warn_if_crowded(on_cpu)

    def _accelerator(self, on_cpu: bool) -> Accelerator:
        return Accelerator(
            # Without cpu=True two processes of a CPU launch do not form a process group; with it, DeepSpeed is off.
            cpu=on_cpu and not self._plugins,
            # Engines have their own autocast.
            mixed_precision="no",
            # Else accelerate would compile what the launcher's settings say: see launch_settings.py.
            dynamo_plugin=TorchDynamoPlugin(backend="no"),
            deepspeed_plugins=self._plugins or None,
            kwargs_handlers=[
                # Two forward passes of D before one backward pass fail if buffers are broadcast in between.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # Under DeepSpeed without use_cpu, accelerate assumes GPUs.
                InitProcessGroupKwargs(
                    timeout=self._timeout, backend="gloo" if on_cpu and self._plugins else "nccl"
                ),
            ],
        )

    def _check_launch(self) -> None:
        main = os.environ.get("MASTER_ADDR", "localhost")
        # torchrun starts one process where one is left of several (TORCHELASTIC_RUN_ID).
        is_alone = world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ
        if is_alone and main not in LOOPBACK and is_set_by_launcher("MASTER_ADDR"):
            raise UserError(
                f"accelerate started one process here, which is not connected to those of {main} and would run the "
                "whole job: launch with --config_file configs/accelerate/multi-node.yaml and without --cpu "
                "(ACCELERATE_USE_CPU=true is for hosts whose GPUs shall not be used)"
            )
        if world_size() > 1 and self.world_size == 1:
            raise UserError(
                f"the launcher started {world_size()} processes, but they are not connected, so each "
                "would run the whole job: on CPU launch with --config_file configs/accelerate/cpu2.yaml, on GPUs "
                "with --multi_gpu"
            )
        if self.accelerator.distributed_type not in SUPPORTED:
            raise UserError(
                f"launched as {self.accelerator.distributed_type.value}, which these jobs do not support: "
                f"{zero.DDP_ADVICE}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the other ranks may be in a collective, and this process ends at once.
        if error is None or self.world_size == 1:
            self.close()

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    @property
    def engine_kind(self) -> str:
        """How networks are trained: on one process, DDP, or a stage of ZeRO."""
        stages = sorted({f"ZeRO-{plugin.zero_stage}" for plugin in self._plugins.values()})
        return ", ".join(stages) or ("DDP" if self.world_size > 1 else "one process")

    def describe(self) -> str:
        """The processes, devices and precision, as a job prints them."""
        if self.device.type == "cpu":
            processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
            threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
            devices = f"{processes} on CPU, {threads} each"
        else:
            devices = f"{self.world_size} x {self.device_name}"
        return ", ".join([devices, self.precision, *([self.engine_kind] if self._plugins else [])])

    def alone(self) -> Self:
        alone = super().alone()
        alone._plugins = {}
        return alone

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
            with groups_within(self._timeout):
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
            synced = self.accelerator.prepare(model)
        if self.device.type == "cpu" and isinstance(synced, nn.parallel.DistributedDataParallel):
            keep_buckets(synced)
        return synced

    @property
    def spare_cores(self) -> int:
        """Cores of this process that training leaves idle: none on CPU."""
        return 0 if self.device.type == "cpu" else max(0, available_cores() // local_world_size() - 1)

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
        """Leave the process group, so that no rank reports the others as lost, and let this process be as before."""
        self.barrier()
        if self._watch is not None:
            self._watch.close()
        self.forget_models()
        self.accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self._forget_launch()

    def _forget_launch(self) -> None:
        """Undo what makes accelerate refuse another Accelerator with other settings in this process."""
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.set_num_threads(self._threads_before)
