"""The cores, threads and arithmetic that a process uses."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch

from cxrdist.process import available_cores

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16"]


def local_processes() -> int:
    """Number of processes of this job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def set_threads(on_cpu: bool) -> int:
    """Divide the cores among the processes of this machine, and return the threads of this one. On CPU torch uses
    that many: two processes of two threads each on two cores are slower than one process."""
    threads = max(1, available_cores() // local_processes())
    if on_cpu:
        torch.set_num_threads(threads)
    return threads


def warn_if_crowded(on_cpu: bool) -> None:
    """Warn if a CPU job has more processes on this machine than cores."""
    cores = available_cores()
    if on_cpu and local_processes() > cores:
        log.warning(
            "%s processes share %s cores and will be slower than %s: launch with --num_processes %s",
            local_processes(),
            cores,
            cores,
            cores,
        )


def resolve_precision(precision: Precision, on_cpu: bool) -> Literal["fp32", "bf16"]:
    """The precision to use. ``auto`` is bf16 on hardware that multiplies it fast (most GPUs, CPUs with AMX or
    AVX512-BF16), else fp32."""
    if precision != "auto":
        return precision
    if not on_cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return "bf16" if flags & {"amx_bf16", "avx512_bf16"} else "fp32"
