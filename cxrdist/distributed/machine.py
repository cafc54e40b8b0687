"""The cores, threads and arithmetic that a process uses."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch

from cxrdist.distributed.launch_settings import launched_precision
from cxrdist.errors import OptionError
from cxrdist.process import available_cores
from cxrdist.ranks import local_world_size, was_launched

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16"]
THREADS_OPTION = b"num_cpu_threads_per_process"
"""Of accelerate launch."""
LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed")
"""What one of them is the command line of."""


def set_threads(on_cpu: bool, threads: int | None = None) -> int:
    """Set the threads of this process on CPU, and return their number: ``threads`` if given, else what the user says
    by OMP_NUM_THREADS or MKL_NUM_THREADS, else this process's share of the cores. More are slower: two processes of
    two threads each on two cores take longer than one process."""
    if threads is not None and threads < 1:
        raise OptionError("threads", f"must be 1 or more, or null, not {threads}")
    share = max(1, available_cores() // local_world_size())
    chosen = threads or asked_threads() or share
    if on_cpu:
        torch.set_num_threads(chosen)
    return chosen


def asked_threads() -> int | None:
    """The number of threads that the user asked for by variables; None for none.

    accelerate and torchrun set OMP_NUM_THREADS to 1 themselves, for all that they start, if it is not set: what they
    have set is in this process's environment, and not in theirs.
    """
    asked = []
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0]  # "4,2": of nested loops
        if text.isdecimal() and int(text) > 0 and not is_set_by_launcher(variable):
            asked.append(int(text))
    return min(asked, default=None)


def is_set_by_launcher(variable: str) -> bool:
    """True if the process that started this one is accelerate or torchrun, and was started without ``variable`` and
    without accelerate's option for threads. False where that cannot be read: a variable that may be the user's is
    obeyed."""
    if not was_launched():
        return False
    try:
        launcher = Path(f"/proc/{os.getppid()}")
        inherited = launcher.joinpath("environ").read_bytes().split(b"\0")
        words = launcher.joinpath("cmdline").read_bytes().replace(b"-", b"_")
    except OSError:
        return False
    if not any(launcher in words for launcher in LAUNCHERS) or THREADS_OPTION in words:
        return False
    return not any(each.startswith(f"{variable}=".encode()) for each in inherited)


def warn_if_crowded(on_cpu: bool) -> None:
    """Warn if a CPU job has more processes on this machine than cores."""
    cores = available_cores()
    if on_cpu and local_world_size() > cores:
        log.warning(
            "%s processes share %s cores and will be slower than %s: launch with --num_processes %s",
            local_world_size(),
            cores,
            cores,
            cores,
        )


def resolve_precision(precision: Precision, on_cpu: bool) -> Literal["fp32", "bf16"]:
    """The precision to use. ``auto`` is bf16 if the launcher says so (--mixed_precision bf16), and on hardware that
    multiplies it fast (most GPUs, CPUs with AMX or AVX512-BF16), else fp32."""
    launched = launched_precision()
    if precision != "auto":
        if launched not in (None, precision):
            log.warning(
                "--precision %s takes precedence over the launcher's mixed precision %s", precision, launched
            )
        return precision
    if launched is not None:
        return launched
    if not on_cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return "bf16" if flags & {"amx_bf16", "avx512_bf16"} else "fp32"
