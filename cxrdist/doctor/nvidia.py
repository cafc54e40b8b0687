"""What ``nvidia-smi`` says of the GPUs and the driver."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 20
FIELDS = ("index", "name", "memory.total", "memory.used", "utilization.gpu", "driver_version", "uuid")


@dataclass(frozen=True)
class GPU:
    index: int
    name: str
    memory_mib: int
    used_mib: int
    busy_percent: int
    driver: str
    uuid: str


@dataclass(frozen=True)
class Driver:
    """``gpus``: as the driver numbers them; ``cuda``: the newest CUDA that the driver supports, such as 12.4, empty
    if unknown; ``failure``: what nvidia-smi says where it fails."""

    gpus: tuple[GPU, ...] = ()
    cuda: str = ""
    failure: str = ""


def driver() -> Driver | None:
    """None where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        listed = _smi(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
        head = _smi()
    except subprocess.TimeoutExpired:
        return Driver(failure=f"no answer within {TIMEOUT_S} s")
    if listed.returncode != 0:
        return Driver(failure=" ".join((listed.stdout + listed.stderr).split()))
    found = re.search(r"CUDA (?:UMD )?Version:\s*([\d.]+)", head.stdout)
    rows = [[cell.strip() for cell in row] for row in csv.reader(listed.stdout.splitlines()) if row]
    gpus = tuple(_gpu(row) for row in rows if len(row) == len(FIELDS))
    return Driver(gpus, found[1] if found else "")


def _smi(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nvidia-smi", *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def _gpu(row: list[str]) -> GPU:
    index, name, total, used, busy, version, uuid = row
    return GPU(_number(index), name, _number(total), _number(used), _number(busy), version, uuid)


def _number(text: str) -> int:
    """0 for ``[N/A]``, which MIG and integrated GPUs have."""
    return int(text) if text.isdecimal() else 0
