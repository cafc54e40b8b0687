"""Limits of the system: set for real where this process may, else as files of a made-up cgroup."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrdist.doctor.checks import limits
from cxrdist.doctor.options import DoctorOptions
from cxrdist.process import available_cores

Patch = pytest.MonkeyPatch


def found() -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in limits.look(DoctorOptions())]


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_few_open_files_mean_few_maps(few_files: None) -> None:
    (finding,) = [one for one in limits.look(DoctorOptions()) if "open files" in one.what]
    what = "open files: 300, so a process maps 150 tars at a time instead of 512"
    assert (finding.level, finding.what, finding.cure) == ("warning", what, "ulimit -n 1024")


def test_processes_and_locked_memory(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    (tmp_path / "mlx5_0").mkdir()
    monkeypatch.setattr(limits, "INFINIBAND", tmp_path)
    said = [what for level, what in found() if level == "warning"]
    assert said[:2] == [
        "processes and threads of this user: 1024; ranks, loader workers and their threads count",
        "locked memory: 1.0 KiB, and NCCL locks its buffers for InfiniBand",
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1073741824\n", "cpu.max": "50000 100000\n"},
        {
            "memory/memory.limit_in_bytes": "1073741824\n",
            "cpu/cpu.cfs_quota_us": "50000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_with_little_memory_and_half_a_core(
    files: dict[str, str], monkeypatch: Patch, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    said = [what for level, what in found() if level == "warning"]
    assert said[0].startswith("memory: this container or job may use 1.0 GiB of ")
    assert said[1] == (
        f"cores: {available_cores()} are seen, and the container may use the time of 0.5: threads wait for each other"
    )


def test_a_container_without_limits(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    assert ("ok", f"cores: {available_cores()}") in found()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB and 40 files."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=40", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_shared_memory_that_docker_gives(small_disk: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits, "SHM", small_disk)
    what = f"{small_disk}: 64.0 MiB free; loader workers and NCCL need it (Docker's default is 64 MiB)"
    assert found()[-1] == ("warning", what)


def test_a_small_disk_in_memory(small_disk: Path) -> None:
    from cxrdist.doctor.checks import disk, file_system

    options = DoctorOptions(run=str(small_disk / "runs"), cls=("configs/cls/paper.yaml",))
    said = [(one.level, one.what) for one in disk.look(options)]
    place = f"{small_disk}/runs"
    assert said[0][0] == "error"
    assert said[0][1].startswith(f"{place}: 64.0 MiB free, and 387.0 MiB needed for 256 px and ")
    assert said[1][1] == f"{place}: 39 files may still be made there (inodes), though there is space"
    levels = [(one.level, one.what) for one in file_system.look(options)]
    assert levels[0] == (
        "warning",
        f"{place} (made in {small_disk}) lies in memory (tmpfs on {small_disk}): a reboot, or the end of a job, "
        "removes it",
    )
    assert levels[1:] == [("ok", "locks work"), ("ok", "renames replace files, as checkpoints need it")]
