"""What a process may use of its machine: cores, threads, arithmetic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from cxrdist.console import say
from cxrdist.process import available_cores

Precision = Literal["auto", "fp32", "bf16"]


def local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def set_threads(on_cpu: bool) -> int:
    """One thread per core over all local processes: two processes of two threads each on two cores are
    slower than one process."""
    threads = max(1, available_cores() // local_processes())
    if on_cpu:
        torch.set_num_threads(threads)
    return threads


def warn_if_crowded(on_cpu: bool) -> None:
    if on_cpu and local_processes() > available_cores():
        say(
            f"warning: {local_processes()} processes share {available_cores()} cores and will be slower than {available_cores()}: "
            f"launch with --num_processes {available_cores()}"
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
