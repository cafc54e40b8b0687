"""Limits of this process and its container: open files, memory, cores, /dev/shm."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from cxrdist.console import size_text
from cxrdist.doctor.findings import Finding, ok, warning
from cxrdist.doctor.options import DoctorOptions
from cxrdist.process import available_cores

MAPPED_FILES = 512
"""Of a process; with a lower limit of open files it maps half as many as that (data/storage/store.py)."""
SPARE_FILES = 512
"""For sockets, pipes of workers, libraries."""
LEAST_PROCESSES = 4096
LEAST_SHM_BYTES = 2**30
CGROUPS = Path("/sys/fs/cgroup")
SHM = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")


def look(_: DoctorOptions) -> Iterator[Finding]:
    yield from _open_files()
    yield from _processes()
    yield from _locked_memory()
    yield from _core_files()
    yield from _memory()
    yield from _cores()
    yield from _shared_memory()


def _open_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAPPED_FILES + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        yield ok(f"open files: {_limit(soft)}")
        return
    cure = f"ulimit -n {needed}" if hard == resource.RLIM_INFINITY or hard >= needed else (
        f"raise the hard limit, {hard}, in /etc/security/limits.conf (nofile {needed}), and log in again"
    )  # fmt: skip
    mapped = min(MAPPED_FILES, soft // 2)
    yield warning(
        f"open files: {soft}, so a process maps {mapped} tars at a time instead of {MAPPED_FILES}", cure
    )


def _processes() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and soft < LEAST_PROCESSES:
        yield warning(
            f"processes and threads of this user: {soft}; ranks, loader workers and their threads count",
            f"ulimit -u {LEAST_PROCESSES}, or raise nproc in /etc/security/limits.conf",
        )


def _locked_memory() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if INFINIBAND.is_dir() and any(INFINIBAND.iterdir()) and soft != resource.RLIM_INFINITY:
        yield warning(
            f"locked memory: {size_text(soft)}, and NCCL locks its buffers for InfiniBand",
            "ulimit -l unlimited; in a container --ulimit memlock=-1",
        )


def _core_files() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    if soft == resource.RLIM_INFINITY:
        yield ok(
            "core files: unlimited; a rank that crashes may write its whole memory to the disk (ulimit -c 0)"
        )


def _memory() -> Iterator[Finding]:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    if limit is None or limit >= machine:
        yield ok(f"memory: {size_text(machine)}")
    else:
        yield warning(
            f"memory: this container or job may use {size_text(limit)} of {size_text(machine)}; the kernel kills "
            "(exit code 137) what uses more",
            "ask the scheduler or Docker for more (--mem, --memory) if the job needs it",
        )


def _cores() -> Iterator[Finding]:
    cores, quota = available_cores(), _cpu_quota()
    if quota is None or quota >= cores:
        yield ok(f"cores: {cores}")
        return
    threads = max(1, int(quota))
    yield warning(
        f"cores: {cores} are seen, and the container may use the time of {quota:g}: threads wait for each other",
        f"give --threads {threads} to one process (fewer to several), or OMP_NUM_THREADS={threads}",
    )


def _cpu_quota() -> float | None:
    """Cores' worth of time that the container may use; None for no limit."""
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        for folder in _own_cgroups():
            file = folder / name
            if not file.is_file():
                continue
            words = file.read_text().split()
            period = file.with_name("cpu.cfs_period_us")
            words += period.read_text().split() if period.is_file() else []
            if len(words) == 2 and words[0].isdecimal() and int(words[1]):
                return int(words[0]) / int(words[1])
    return None


def _cgroup_number(*names: str) -> int | None:
    """The smallest of a limit in bytes, in version 2 or 1 of cgroups; None if there is none."""
    files = [folder / name for folder in _own_cgroups() for name in names]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _own_cgroups() -> list[Path]:
    """The cgroup of this process and those above it; in a container the root is its own."""
    file = Path("/proc/self/cgroup")
    lines = file.read_text().splitlines() if file.is_file() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    parts = Path(own).parts
    return [CGROUPS.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def _shared_memory() -> Iterator[Finding]:
    if not SHM.is_dir():
        return
    stat = os.statvfs(SHM)
    free = stat.f_bavail * stat.f_frsize
    if free < LEAST_SHM_BYTES:
        yield warning(
            f"{SHM}: {size_text(free)} free; loader workers and NCCL need it (Docker's default is 64 MiB)",
            "docker run --shm-size 8g, or --ipc host",
        )
    else:
        yield ok(f"{SHM}: {size_text(free)} free")


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else f"{number:,}"
