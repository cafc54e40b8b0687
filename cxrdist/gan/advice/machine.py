"""What the machine has to train on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from cxrdist.process import available_cores

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class GPU:
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """Cores and memory that this process may use, and the GPUs that torch finds."""

    cores: int
    memory_bytes: int
    gpus: tuple[GPU, ...] = ()

    @property
    def processes(self) -> int:
        """Processes to launch: one per GPU; on CPU one, which uses all cores. On two cores, demo.yaml trained 345
        images a second in one process and 225 in two."""
        return len(self.gpus) or 1

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        names = ", ".join(f"{gpu.name} with {gibibytes(gpu.memory_bytes)}" for gpu in self.gpus)
        return f"{cores}, {gibibytes(self.memory_bytes)} of memory, {names or 'no GPU'}"


def this_machine() -> Machine:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # The limit of a container; "max" if it has none.
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else ""
    if limit.isdigit():
        memory_bytes = min(memory_bytes, int(limit))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(i) for i in range(count)]
    return Machine(
        available_cores(), memory_bytes, tuple(GPU(gpu.name, int(gpu.total_memory)) for gpu in found)
    )


def gibibytes(count: float) -> str:
    """``1.5 GiB``; ``23 GiB`` from 10 on."""
    amount = count / 2**30
    return f"{amount:.0f} GiB" if amount >= 10 else f"{amount:.1f} GiB"
