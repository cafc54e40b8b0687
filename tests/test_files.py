from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdist.errors import UserError, from_os
from cxrdist.files import (
    LOCK_NAME,
    FolderLock,
    atomic_writer,
    canonical_json,
    is_listed,
    nearest_folder,
    read_json,
    remove_temporaries,
    slug,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Pleural Effusion", "pleural-effusion"),
        ("  A/B (left)  ", "a-b-left"),
        ("../../etc", "etc"),
        ("Œdème", "d-me"),
        ("肺炎", "class"),
        ("...", "class"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_canonical_json_is_one_byte_string() -> None:
    assert canonical_json({"b": [1, 0.5], "a": "é"}) == b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  0.5\n ]\n}\n'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with atomic_writer(path) as file:
        file.write(b"first")
        assert names(path.parent) == [f".file.{os.getpid()}.tmp"]
    assert path.read_bytes() == b"first" and names(path.parent) == ["file"]
    write_atomic(path, "sécond")
    assert path.read_bytes() == "sécond".encode() and names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failed_writer_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(type(error)), atomic_writer(path) as file:
        file.write(b"half of the n")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as caught, atomic_writer(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(from_os(caught.value)) == (
        f"the disk is full while writing {path}: free some space and run the same command again"
    )


def test_only_our_own_temporaries_are_removed(tmp_path: Path) -> None:
    for name in (".a.tar.123.tmp", ".manifest.json.7.tmp", ".mine.tmp", "a.1.tmp", ".a.tar.12x.tmp", "b"):
        (tmp_path / name).write_text("x")
    remove_temporaries(tmp_path)
    assert names(tmp_path) == [".a.tar.12x.tmp", ".mine.tmp", "a.1.tmp", "b"]


def test_read_json_says_which_file_is_not_right(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(UserError, match=r"file\.json: no such file"):
        read_json(path)
    for data in (b"{", b"\xff\xfe\x00", b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"file\.json: not JSON \("):
            read_json(path)


def test_one_lock_per_folder(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "by the lock"
    lock = FolderLock(folder, "a test")
    assert names(folder) == [".lock"]
    with pytest.raises(UserError) as caught:
        FolderLock(folder, "another test")
    assert f"{folder} is being written by a test (process {os.getpid()} on " in str(caught.value)
    assert (folder / ".lock").read_text().startswith("a test (process")
    lock.release()
    assert names(folder) == []
    FolderLock(folder, "the next test").release()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cxrdist.files import FolderLock;"
        "lock = FolderLock(Path(sys.argv[1]), 'a job with a very long name'); print('locked', flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"a job with a very long name .process {holder.pid} on"):
            FolderLock(tmp_path, "a test")
        holder.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [".lock"]
    lock = FolderLock(tmp_path, "a test")
    assert (tmp_path / ".lock").read_text().startswith(f"a test (process {os.getpid()} on ")
    assert "very long" not in (tmp_path / ".lock").read_text()
    lock.release()
    assert names(tmp_path) == []


def test_a_lock_on_a_file_that_its_holder_removed_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock, calls = fcntl.flock, []

    def removed_in_between(file: int, how: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_in_between)
    lock = FolderLock(tmp_path, "a test")
    assert len(calls) == 2 and names(tmp_path) == [".lock"]
    with pytest.raises(UserError, match="is being written by a test"):
        FolderLock(tmp_path, "another test")
    lock.release()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.write_text("mine")
    folder.mkdir()
    (folder / LOCK_NAME).symlink_to(mine)
    with pytest.raises(UserError, match=r"\.lock: a symlink instead of a lock file: remove it"):
        FolderLock(folder, "a test")
    (folder / LOCK_NAME).unlink()
    (folder / LOCK_NAME).symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="a symlink instead of a lock file"):
        FolderLock(folder, "a test")
    for name in ("data", f".data.{os.getpid()}.tmp"):
        (folder / name).symlink_to(mine)
    write_atomic(folder / "data", b"new")
    assert (folder / "data").read_bytes() == b"new" and not (folder / "data").is_symlink()
    assert mine.read_text() == "mine" and not (tmp_path / "nothing").exists()


def test_a_file_is_listed_and_the_nearest_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    below = tmp_path / "none" / "deeper"
    assert is_listed(tmp_path / "there")
    assert not is_listed(tmp_path / "not there") and not is_listed(below / "there")
    assert nearest_folder(below) == nearest_folder(tmp_path / "there") == nearest_folder(tmp_path) == tmp_path
