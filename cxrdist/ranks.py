"""Which of a job's processes this is, according to the environment that its launcher set.

Values that are no numbers count as absent here; ``distributed/launch_settings.py`` refuses them.
"""

from __future__ import annotations

import os
import socket


def world_size() -> int:
    """Number of processes of the job."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """This process's number, 0 if it is alone: a RANK that an earlier job left in the environment has no meaning."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Number of processes of the job on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def is_main_rank() -> bool:
    """True on rank 0, and without a launcher."""
    return rank() == 0


def was_launched() -> bool:
    """True under ``accelerate launch`` or ``torchrun``, and for one of several ranks that ``srun`` started."""
    names = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
    return any(name in os.environ for name in names) or (world_size() > 1 and "SLURM_PROCID" in os.environ)


def spans_hosts() -> bool:
    """True if some processes of the job run on other machines."""
    return world_size() > max(1, local_world_size())


def place() -> str:
    """``rank 1 on node-b``; empty on the rank 0 of a job on one machine, whose place says nothing."""
    if rank() == 0 and not spans_hosts():
        return ""
    return full_place()


def full_place() -> str:
    """``rank 1 on node-b``, also on rank 0 of one machine."""
    return f"rank {rank()} on {socket.gethostname()}"


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
