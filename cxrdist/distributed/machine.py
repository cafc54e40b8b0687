"""What a process may use of its machine: cores, threads, arithmetic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from cxrdist.console import say

Precision = Literal["auto", "fp32", "bf16"]


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
    """``auto`` is bf16 where the hardware multiplies it fast: most GPUs, CPUs with AMX or AVX512-BF16."""
    if precision != "auto":
        return precision
    if not on_cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return "bf16" if flags & {"amx_bf16", "avx512_bf16"} else "fp32"
