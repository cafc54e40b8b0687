"""Folders, clocks, the salt, the cache and the set: bad ones, made for the test."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cxrdist.console import size_text
from cxrdist.doctor import folders
from cxrdist.doctor.checks import clock, disk, file_system, salt, shards
from cxrdist.doctor.findings import Look, section
from cxrdist.doctor.launch.same_folder import is_refused_lock, sees, token
from cxrdist.doctor.needs import of_cls, of_gan
from cxrdist.doctor.options import DoctorOptions

Patch = pytest.MonkeyPatch


def found(look: Look, **options: object) -> list[tuple[str, str]]:
    found = section("", look, DoctorOptions(**options)).findings  # type: ignore[arg-type]
    return [(one.level, one.what) for one in found]


MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/home /mnt/a\\040b nfs4 rw,local_lock=none 0 0
server:/old /mnt/old nfs rw,nolock 0 0
overlay /layer overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("/home", ("ok", "r lies on this machine's ext4 (/): other machines do not see it")),
        ("/mnt/a b/runs", ("ok", "r lies on a network file system (nfs4 on /mnt/a b)")),
        ("/mnt/a bc", ("ok", "r lies on this machine's ext4 (/): other machines do not see it")),
        ("/layer/x", ("warning", "r lies in the container's own layer: it is removed with the container")),
    ],
)
def test_what_a_folder_lies_on(
    folder: str, line: tuple[str, str], monkeypatch: Patch, tmp_path: Path
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(folders, "MOUNTS", tmp_path / "mounts")
    mount = folders.mount_of(Path(folder))
    assert mount is not None
    assert [(one.level, one.what) for one in file_system._kind("r", mount)] == [line]


def test_nfs_without_locks_is_an_error(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(folders, "MOUNTS", tmp_path / "mounts")
    mount = folders.mount_of(Path("/mnt/old"))
    assert mount is not None
    what = "/mnt/old is mounted with nolock: two machines could write one run"
    assert ("error", what) in [(one.level, one.what) for one in file_system._kind("r", mount)]


def test_a_file_system_whose_locks_fail_or_hold_nobody(tmp_path: Path, monkeypatch: Patch) -> None:
    def fails(descriptor: int, how: int) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(file_system.fcntl, "flock", fails)
    what = "no locks here (Function not implemented), and every job locks its folder"
    assert ("error", f"{tmp_path}: {what}") in found(file_system.look, run=str(tmp_path))
    monkeypatch.setattr(file_system.fcntl, "flock", lambda descriptor, how: None)
    what = "two holders got one lock: two jobs could write one run"
    assert ("error", f"{tmp_path}: {what}") in found(file_system.look, run=str(tmp_path))


def test_a_file_as_run_folder_and_nothing_is_left_in_a_sound_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert found(file_system.look, run=f"{tmp_path}/file") == [("error", f"{tmp_path}/file is a file")]
    assert [level for level, _ in found(file_system.look, run=str(tmp_path))] == ["ok"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_clock_against_files_and_the_age_of_the_package(tmp_path: Path, monkeypatch: Patch) -> None:
    ((level, what),) = found(clock.look, run=str(tmp_path))
    assert level == "ok" and what.endswith(", and the file system of runs agrees")
    now = time.time
    monkeypatch.setattr(clock.time, "time", lambda: now() + 30)
    ((level, what),) = found(clock.look, run=str(tmp_path))
    assert level == "warning" and what.startswith(
        "the clock of the file system of runs is 30 s behind this machine's"
    )
    monkeypatch.setattr(clock.time, "time", lambda: 10**9)
    ((level, what),) = found(clock.look, run=str(tmp_path))
    assert (
        level == "error"
        and what.startswith("it is 2001-09-0")
        and what.endswith("before this package was written")
    )


def test_the_seconds_that_a_moment_lies_outside() -> None:
    assert clock.outside(5, 5, 6) == clock.outside(6, 5, 6) == 0
    assert (clock.outside(3, 5, 6), clock.outside(8, 5, 6)) == (-2, 2)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, "ok"), (0o640, "warning"), (0o644, "error"), (0o620, "error")]
)
def test_the_mode_of_the_salt_and_that_it_is_never_shown(mode: int, level: str, tmp_path: Path) -> None:
    file = tmp_path / "salt"
    file.write_text("0123456789abcdef secret\n")
    file.chmod(mode)
    ((shown, what),) = found(salt.look, salt_file=str(file))
    assert shown == level and "secret" not in what and str(file) in what


def test_a_salt_that_is_missing_or_short(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "cxrdist" / "salt"
    assert found(salt.look) == [("ok", f"{own}: none yet; the first import of a real source makes it")]
    assert not own.exists()
    ((level, what),) = found(salt.look, salt_file=f"{tmp_path}/none")
    assert level == "error" and what.startswith(f"{tmp_path}/none: no such salt file")
    (tmp_path / "short").write_text("short\n")
    what = f"{tmp_path}/short: a salt needs at least 16 bytes, and this one has 5"
    assert found(salt.look, salt_file=f"{tmp_path}/short") == [("error", what)]


def test_the_salt_of_a_set(tiny_set: Path, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a salt for tests, 16 bytes or more\n")
    wrong.write_text("another salt for tests, 16 bytes or more\n")
    for file in (right, wrong):
        file.chmod(0o600)
    last = found(salt.look, shards=str(tiny_set), salt_file=str(right))[-1]
    assert last == ("ok", f"{tiny_set} was made with this salt")
    level, what = found(salt.look, shards=str(tiny_set), salt_file=str(wrong))[-1]
    assert level == "warning" and what.startswith(
        f"{tiny_set} was made with another salt: training works, but"
    )


def test_a_set_and_a_missing_one(tiny_set: Path, tmp_path: Path) -> None:
    ((level, what),) = found(shards.look, shards=str(tiny_set))
    assert level == "ok" and what.startswith(f"{tiny_set}: real set of 32 px, 3 classes, digest ")
    ((level, what),) = found(shards.look, shards=f"{tmp_path}/none")
    assert level == "error" and what.startswith(f"{tmp_path}/none: no such shard set")


def test_the_cache_of_a_remote_set(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CXRDIST_CACHE", str(tmp_path))
    monkeypatch.setenv("CXRDIST_CACHE_GIB", "1000000")
    usage = shutil.disk_usage(tmp_path)  # which other programs change meanwhile
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    free = size_text(usage.free)
    (level, what), *_ = [each for each in found(disk._of_cache) if "cache" in each[1]]
    assert level == "warning"
    assert what.startswith(f"cache {tmp_path}: up to 976.6 TiB, 0.0 KiB in use, {free}")
    monkeypatch.setenv("CXRDIST_CACHE_GIB", "0")
    assert found(disk._of_cache) == [("warning", "CXRDIST_CACHE_GIB=0: every epoch fetches the set again")]


def test_what_a_config_needs_to_the_byte() -> None:
    from cxrdist.cls.config import ClsConfig
    from cxrdist.gan.config import GANConfig
    from cxrdist.gan.networks import construct

    gan = GANConfig(maps=8, z_dim=2, norm="none", keep=2)
    g, d = (sum(4 * p.numel() for p in net.parameters()) for net in construct(gan, image_size=32, classes=2))
    need = of_gan(gan, image_size=32, classes=2)
    assert (need.checkpoint_bytes, need.kept, need.models) == (3 * (g + d), 5, 2)
    assert need.total_bytes == 2 * 5 * 3 * (g + d)
    cls = of_cls(ClsConfig(widths=(2,), hidden=0, kernel=3), image_size=4, classes=2)
    # 2 maps of 3x3 with biases; 2 x 2 x 2 features to 2 classes with biases
    assert cls.checkpoint_bytes == 4 * 4 * (2 * 9 + 2 + 8 * 2 + 2)


def test_a_token_leaves_nothing_and_is_not_seen_elsewhere(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("cxrdist.doctor.launch.same_folder.PATIENCE_S", 0.0)
    with token(tmp_path / "a" / "b") as path:
        assert sees(path) and not sees(path.with_name("other"))
        with path.open() as held:
            assert not is_refused_lock(path)
            file_system.fcntl.flock(held, file_system.fcntl.LOCK_EX)
            assert is_refused_lock(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_is_one_error(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    what = f"{tmp_path}: not writable by this user"
    assert found(file_system.look, run=str(tmp_path)) == [("error", what)]
    ((level, what),) = found(clock.look, run=str(tmp_path))
    assert level == "ok"
    assert what.endswith("; not compared with the file system of runs, which is not writable")


def test_a_user_without_a_home_folder(monkeypatch: Patch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    what = "this user has no home folder for the salt of patient hashes: set HOME or XDG_CONFIG_HOME"
    assert found(salt.look) == [("warning", what)]


def test_an_unexpected_error_ends_one_check_only(monkeypatch: Patch) -> None:
    def failing() -> Path:
        raise RuntimeError("no idea")

    monkeypatch.setattr(salt, "default_salt_file", failing)
    assert found(salt.look) == [("error", "not checked to the end: RuntimeError: no idea")]


def test_checkpoints_that_are_there_need_no_space(tmp_path: Path) -> None:
    (checkpoint := tmp_path / "mass/checkpoints/images-000000000100").mkdir(parents=True)
    (checkpoint / "g.safetensors").write_bytes(bytes(1000))
    assert disk._checkpoints_in(str(tmp_path)) == 0  # a folder of several runs
    (tmp_path / "config.yaml").write_text("")
    assert disk._checkpoints_in(str(tmp_path)) == 1000
