"""Blocks on disk and in memory: whole or absent, bounded, fetched once, and never in the way."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.storage import block_cache, block_reader, blocks
from cxrdist.data.storage.block_cache import BlockCache, default_cache
from cxrdist.data.storage.blocks import block_of, block_rows_of
from cxrdist.errors import UserError
from tests.helpers.launching import CLONE
from tests.helpers.tar_blocks import (
    BLOCK,
    FETCHED,
    INDEX,
    ROWS,
    SAMPLE,
    SAMPLES,
    SHA256,
    STRIDE,
    TAR,
    Gate,
    Tar,
    ask,
    block,
    expected,
    files,
    index,
    reader_of,
    sample,
)


@pytest.fixture
def tar() -> Tar:
    return Tar()


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "blocks", 3 * BLOCK)


# ---- what a block is


def test_a_block_is_fetched_from_its_first_sample_to_its_last_and_holds_the_images() -> None:
    found = block(1)
    assert found.ranges == ((450, 850),) and found.tar == "a.tar"
    assert found.offsets == (450, 600, 750)
    assert found.places == ((0, 100), (100, 200), (200, 300)) and found.length_bytes == BLOCK == 300
    data = found.pack([TAR[450:850]])
    assert data == b"\3" * 100 + b"\4" * 100 + b"\5" * 100
    assert found.is_whole(data) and not found.is_whole(data[:-1])
    for at in (0, 99, 100, 299):
        flipped = bytearray(data)
        flipped[at] ^= 1
        assert not found.is_whole(bytes(flipped))
    assert found.pack([TAR[450:730]]) == b"\3" * 100 + b"\4" * 100 + bytes(100)


def test_a_block_is_named_by_its_content() -> None:
    assert block(1).name.startswith(f"{SHA256}-450-")
    others = [[450, 600], [450, 600, 900], [450, 750, 600]]
    names = [block_of("a.tar", SHA256, index(offsets)).name for offsets in others]
    assert len({block(1).name, *names}) == 4
    assert block_of("b.tar", SHA256, index([450, 600, 750])).name == block(1).name
    shorter = index([450, 600, 750])
    shorter["length_bytes"][1] -= 1
    assert block_of("a.tar", SHA256, shorter).name != block(1).name


@pytest.mark.parametrize(
    ("offsets", "ranges"),
    [
        ([0, 524_388], [(0, 524_488)]),  # half a MiB between them
        ([0, 524_389], [(0, 100), (524_389, 524_489)]),
        (
            [10**6, 200, 0, 10**6 + 50, 150],
            [(0, 300), (1_000_000, 1_000_150)],
        ),  # in whatever order, and overlapping
        ([7], [(7, 107)]),
    ],
)
def test_samples_far_apart_in_the_tar_of_others_are_ranges_of_their_own(
    offsets: list[int], ranges: list[tuple[int, int]]
) -> None:
    tar = np.random.default_rng(0).bytes(10**6 + 200)
    rows = index(offsets, tar)
    found = block_of("a.tar", SHA256, rows)
    assert found.ranges == tuple(ranges)
    data = found.pack([tar[start:stop] for start, stop in found.ranges])
    assert data == b"".join(tar[at : at + SAMPLE] for at in offsets) and found.is_whole(data)


@pytest.mark.parametrize(
    ("stratum_bytes", "samples", "rows"),
    [(2**30, 2**10, 4), (2**30, 2**18, 1024), (2**30, 3, 1), (4 * 2**20, 77, 77), (7 * 2**20, 7, 4)],
)
def test_a_block_has_about_4_mib(stratum_bytes: int, samples: int, rows: int) -> None:
    assert block_rows_of(stratum_bytes, samples) == rows


# ---- on disk


def test_each_block_is_fetched_once_and_kept_for_every_process(tar: Tar, cache: BlockCache) -> None:
    reader = reader_of(tar, cache)
    for number in (4, 3, 5, 0, 4, 1):
        assert sample(reader, number) == bytes([number]) * SAMPLE
    assert tar.asked == [(450, FETCHED), (0, FETCHED)]
    assert files(cache) == expected(0, 1)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.folder.iterdir()} == {0o600}
    again = reader_of(Tar(b""), BlockCache(cache.folder, 3 * BLOCK))
    assert [sample(again, n)[0] for n in range(6)] == list(range(6))
    assert again.store.asked == []  # type: ignore[attr-defined]


def test_what_was_used_last_stays_within_the_limit(tar: Tar, cache: BlockCache) -> None:
    reader = reader_of(tar, cache)
    for number in range(3):
        sample(reader, number * ROWS)
    assert files(cache) == expected(0, 1, 2)
    # Another process uses the oldest: the second oldest goes.
    sample(reader_of(Tar(b""), BlockCache(cache.folder, 3 * BLOCK)), 0)
    sample(reader, 9)
    assert files(cache) == expected(0, 2, 3)
    # What went is still read by who has it mapped.
    assert sample(reader, 4) == bytes([4]) * SAMPLE and len(tar.asked) == 4
    # One byte less, and only two have room; the oldest, 2, goes with 0.
    less = BlockCache(cache.folder, 3 * BLOCK - 1)
    sample(reader_of(tar, less), 3)
    assert files(cache) == expected(1, 3)
    # Larger than all: not kept, nothing goes for it.
    assert sample(reader_of(tar, BlockCache(cache.folder, BLOCK - 1)), 6) == bytes([6]) * SAMPLE
    assert files(cache) == expected(1, 3)


def test_a_block_in_use_is_noted_as_used_once_a_minute(
    tar: Tar, cache: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(block_reader.time, "monotonic", lambda: now[0])
    touched: list[str] = []
    reader = reader_of(tar, cache)
    sample(reader, 0)
    monkeypatch.setattr(cache, "touch", touched.append)
    for seconds in (0, 59, 2, 1, 60, 3):
        now[0] += seconds
        sample(reader, 1)
    assert touched == [block(0).name] * 2


def test_room_is_made_for_some_more_where_the_cache_is_large(tmp_path: Path) -> None:
    """A look at all files for each new one would take longer than to fetch it."""
    cache = BlockCache(tmp_path, 128 * 10)
    (tmp_path / "mine.dcm").write_bytes(bytes(5000))
    names = [f"{'0' * 64}-{number:03d}-{'0' * 16}" for number in range(131)]
    for name in names[:128]:
        cache.add(name, bytes(10))
    assert sorted(files(cache)) == [*names[:128], "mine.dcm"]
    cache.add(names[128], bytes(10))  # for which two more go than must, a 64th of 128
    assert sorted(files(cache)) == [*names[3:129], "mine.dcm"]
    for name in names[129:]:
        cache.add(name, bytes(10))
    assert sorted(files(cache)) == [*names[3:], "mine.dcm"]


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "link", "pipe"])
def test_a_damaged_file_is_fetched_again(tar: Tar, cache: BlockCache, damage: str, tmp_path: Path) -> None:
    sample(reader_of(tar, cache), 0)
    path = cache.folder / block(0).name
    whole = path.read_bytes()
    if damage == "flip":
        flipped = bytearray(whole)
        flipped[170] ^= 1
        path.write_bytes(flipped)
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes({"cut": whole[:-1], "longer": whole + b"x", "empty": b""}[damage])
    # Not the sample that is asked for.
    assert sample(reader_of(tar, cache), 0) == bytes(SAMPLE)
    assert tar.asked == [(0, FETCHED)] * 2
    assert files(cache) == expected(0) and not path.is_symlink()
    sample(reader_of(tar, cache), 0)
    assert len(tar.asked) == 2


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_file_that_is_damaged_while_it_is_held_is_fetched_again(
    tar: Tar, cache: BlockCache, damage: str
) -> None:
    reader = reader_of(tar, cache)
    assert sample(reader, 1) == b"\1" * SAMPLE
    path = cache.folder / block(0).name
    if damage == "cut":
        os.truncate(path, 0)
    else:
        path.write_bytes(path.read_bytes().replace(b"\1", b"\3"))
    assert sample(reader, 1) == {"cut": bytes(SAMPLE), "flip": b"\3" * SAMPLE}[damage]
    reader.forget(0)  # as whoever finds that its hash is wrong does
    assert sample(reader, 1) == b"\1" * SAMPLE
    assert tar.asked == [(0, FETCHED)] * 2 and files(cache) == expected(0)


def test_a_sample_that_is_corrupt_in_the_store_keeps_no_other_from_being_read(cache: BlockCache) -> None:
    flipped = bytearray(TAR)
    flipped[STRIDE + 7] ^= 1
    tar = Tar(bytes(flipped))
    for kept in (cache, None):
        reader = reader_of(tar, kept)
        assert [sample(reader, n) == bytes([n]) * SAMPLE for n in range(4)] == [True, False, True, True]
        assert tar.asked == [(0, FETCHED), (0, FETCHED), (450, FETCHED)]
        tar.asked.clear()
    assert files(cache) == expected(1)


def test_a_bad_answer_is_asked_for_again(tar: Tar, cache: BlockCache) -> None:
    answers = iter([TAR[:FETCHED].replace(b"\1", b"\3"), None, TAR[450:800], None])
    tar.instead = lambda start: next(answers)
    reader = reader_of(tar, cache)
    assert [sample(reader, n)[0] for n in range(6)] == list(range(6))
    assert tar.asked == [(0, FETCHED)] * 2 + [(450, FETCHED)] * 2
    assert files(cache) == expected(0, 1)


def test_a_tar_that_ends_too_soon_is_read_as_far_as_it_goes(cache: BlockCache) -> None:
    tar = Tar(TAR[:580])
    reader = reader_of(tar, cache)
    assert [sample(reader, n) for n in (3, 4, 5)] == [b"\3" * SAMPLE, bytes(SAMPLE), bytes(SAMPLE)]
    assert files(cache) == {}


# ---- with other processes

CHILD = """
import sys, time
from pathlib import Path
from cxrdist.data.storage.block_cache import BlockCache
from tests.helpers.tar_blocks import SAMPLE, Tar, reader_of, sample
folder, log, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class Logged(Tar):
    def read_range(self, name, start, length):
        with open(log, "a") as file:
            file.write(f"{start}\\n")
        time.sleep(0.05)
        return super().read_range(name, start, length)

if mode == "write":
    def stuck(self, file):
        print("stuck", flush=True)
        time.sleep(60)
    Path.replace = stuck
if mode == "fetch":
    Logged.read_range = lambda *_: (print("stuck", flush=True), time.sleep(60))
reader = reader_of(Logged(), BlockCache(folder, 10**6))
for number in (0, 3, 6, 9):
    assert sample(reader, number) == bytes([number]) * SAMPLE
"""


def child(folder: Path, log: Path, mode: str = "read") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(log), mode]
    return subprocess.Popen(command, cwd=CLONE, stdout=subprocess.PIPE, text=True)


def test_processes_that_want_the_same_blocks_fetch_each_once(tmp_path: Path) -> None:
    children = [child(tmp_path / "blocks", tmp_path / "log") for _ in range(3)]
    assert [process.wait(60) for process in children] == [0, 0, 0]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [0, 450, 900, 1350]
    assert files(BlockCache(tmp_path / "blocks")) == expected(0, 1, 2, 3)


def test_who_comes_second_waits_and_finds_the_block(cache: BlockCache) -> None:
    """Two readers of one process, each with the folder opened anew: they exclude each other as processes do."""
    gate = Gate()
    readers = [reader_of(gate, BlockCache(cache.folder, 3 * BLOCK)) for _ in range(2)]
    ask(readers[0], 0)
    assert gate.entered.acquire(timeout=30)
    ask(readers[1], 0)
    assert not gate.entered.acquire(timeout=0.1)
    gate.open.set()
    assert [sample(reader, 1)[0] for reader in readers] == [1, 1] and gate.asked == [(0, FETCHED)]


@pytest.mark.parametrize("mode", ["fetch", "write"])
def test_a_process_that_is_killed_leaves_nothing_that_is_taken_for_whole(
    mode: str, tmp_path: Path, tar: Tar
) -> None:
    folder = tmp_path / "blocks"
    with child(folder, tmp_path / "log", mode) as process:
        assert process.stdout and process.stdout.readline() == "stuck\n"
        if mode == "write":
            # Whole, but not yet under its name.
            assert [path.suffix for path in folder.iterdir() if path.name != ".lock"] == [".tmp"]
        process.send_signal(signal.SIGKILL)
    cache = BlockCache(folder, 10**6)
    assert cache.find(block(0).name, BLOCK) is None and files(cache) == {}
    assert sample(reader_of(tar, cache), 0) == bytes(SAMPLE)
    assert tar.asked == [(0, FETCHED)] and files(cache) == expected(0)


def test_a_process_that_is_stopped_is_not_waited_for(
    tar: Tar, cache: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLAIM_TIMEOUT_S", "FOLDER_LOCK_TIMEOUT_S"):
        monkeypatch.setattr(block_cache, name, 0.05)
    other = BlockCache(cache.folder, 3 * BLOCK)
    with other.claim(block(0).name), other._locked_folder() as is_locked:
        assert is_locked
        assert sample(reader_of(tar, cache), 1) == bytes([1]) * SAMPLE
        assert files(cache) == {}
    assert sample(reader_of(tar, cache), 1) == bytes([1]) * SAMPLE
    assert files(cache) == expected(0) and len(tar.asked) == 2


def test_a_folder_that_is_removed_under_a_job_is_made_again(tar: Tar, cache: BlockCache) -> None:
    reader = reader_of(tar, cache)
    sample(reader, 0)
    for path in cache.folder.iterdir():
        path.unlink()
    cache.folder.rmdir()
    assert [sample(reader, n)[0] for n in (1, 3, 6)] == [1, 3, 6]
    assert files(cache) == expected(2)  # the one between told that it was gone
    other = BlockCache(cache.folder, 3 * BLOCK)
    assert other.find("none", 1) is None
    (cache.folder / ".lock").unlink()
    BlockCache(cache.folder, 3 * BLOCK).add(*expected(3).popitem())
    assert sample(reader_of(tar, other), 3) == bytes([3]) * SAMPLE
    other.add(*expected(0).popitem())
    assert files(cache) == expected(0, 2, 3)


# ---- where there is no room


@pytest.mark.parametrize("trouble", ["full", "a file", "read-only", "no locks", "no Linux"])
def test_without_a_folder_to_write_to_it_goes_on_in_memory(
    trouble: str,
    tar: Tar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "blocks"
    told = {
        "full": "No space left on device",
        "a file": "File exists",
        "read-only": "Read-only file system",
        "no locks": "No locks available",
        "no Linux": "No locks available",
    }[trouble]
    number = {"full": 28, "read-only": 30, "no locks": 37}.get(trouble)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number or 0))

    if trouble == "a file":
        folder.write_bytes(b"mine")
    elif trouble == "full":
        monkeypatch.setattr(Path, "replace", refuse)
    elif trouble == "read-only":
        monkeypatch.setattr(block_cache.os, "open", refuse)
    elif trouble == "no Linux":
        monkeypatch.delattr(block_cache.fcntl, "F_OFD_SETLK")
    else:
        monkeypatch.setattr(block_cache.fcntl, "fcntl", refuse)
    cache = BlockCache(folder, 10**6)
    reader = reader_of(tar, cache)
    for _ in range(2):
        assert [sample(reader, n)[0] for n in range(SAMPLES)] == list(range(SAMPLES))
    assert sorted(tar.asked) == [(n * 450, FETCHED) for n in range(4)]
    assert capsys.readouterr() == (
        "",
        f"warning: {folder}: {told}: remote images are not cached on disk; free some space there, or set another "
        "folder with CXRDIST_CACHE\n",
    )
    assert folder.read_bytes() == b"mine" if trouble == "a file" else [*folder.glob("*-*")] == []


def test_what_a_process_holds_is_bounded(tar: Tar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "HELD_BYTES", 2 * 4 * 2**20)  # two: a small one counts as 4 MiB
    reader = reader_of(tar, None)
    for number in (0, 3, 1, 6, 2, 4, 0):
        assert sample(reader, number)[0] == number
    assert [start for start, _ in tar.asked] == [0, 450, 900, 450]


def test_blocks_too_large_for_memory_are_read_by_sample(
    tar: Tar, cache: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST_BLOCK_BYTES", FETCHED - 1)
    reader = reader_of(tar, cache)
    assert [sample(reader, n)[0] for n in (4, 5)] == [4, 5]
    assert tar.asked == [(600, SAMPLE), (750, SAMPLE)] and files(cache) == {}


def test_the_environment_names_folder_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRDIST_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("CXRDIST_CACHE_GIB", "0.5")
    found = default_cache()
    assert found and found.folder == tmp_path / "mine" and found.limit_bytes == 2**29
    assert default_cache() is found
    monkeypatch.setenv("CXRDIST_CACHE_GIB", "0")
    assert default_cache() is None
    for wrong in ("much", "-1", "nan", "inf", "1e300"):
        monkeypatch.setenv("CXRDIST_CACHE_GIB", wrong)
        with pytest.raises(UserError, match=f"CXRDIST_CACHE_GIB={wrong}: not a size in GiB"):
            default_cache()
    monkeypatch.delenv("CXRDIST_CACHE_GIB")
    monkeypatch.delenv("CXRDIST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = default_cache()
    assert found and found.folder == tmp_path / "cxrdist" / "blocks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # of no user
    with pytest.raises(
        UserError, match="no home folder to cache remote images in: set a folder with CXRDIST_CACHE"
    ):
        default_cache()
    monkeypatch.setenv("CXRDIST_CACHE", str(tmp_path / "mine"))
    assert default_cache()


def test_a_cache_smaller_than_a_block_is_turned_off_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar, cache = Tar(), BlockCache(tmp_path, BLOCK - 1)
    reader = reader_of(tar, cache)
    assert [sample(reader, n)[0] for n in (0, 4)] == [0, 4]
    assert not cache.is_on and not reader.is_shared and files(cache) == {}
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}: it may hold 299 bytes, less than the 4,194,304 of a usual block: remote images are "
        "not cached on disk; free some space there, or set another folder with CXRDIST_CACHE\n"
    )


@pytest.mark.parametrize(("free_gib", "limit_gib"), [(1000, 20), (8, 2.25)])
def test_a_quarter_of_the_disk_that_would_be_free_is_the_most(
    free_gib: int, limit_gib: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = free_gib * 2**30

    with (tmp_path / block(0).name).open("wb") as file:
        file.truncate(2**30)  # cached before
    monkeypatch.setattr(block_cache.shutil, "disk_usage", lambda folder: Usage)
    assert BlockCache(tmp_path).limit_bytes == limit_gib * 2**30


# ---- ahead of need


def test_blocks_are_fetched_ahead_at_once_and_only_once(cache: BlockCache) -> None:
    gate = Gate()
    reader = reader_of(gate, cache)
    gate.open.set()
    sample(reader, 11)  # whose thread is idle then, and not the only one to be called
    assert gate.entered.acquire(timeout=30)
    gate.open.clear()
    gate.asked.clear()
    assert ask(reader, 2, 0, 1, 2, 0) == [True] * 5
    for _ in range(3):
        assert gate.entered.acquire(timeout=30)  # all three are asked for before any is answered
    gate.open.set()
    assert [sample(reader, n)[0] for n in range(9)] == list(range(9))
    assert sorted(gate.asked) == [(0, FETCHED), (450, FETCHED), (900, FETCHED)]
    ask(reader, 0, 1, 2)
    assert len(gate.asked) == 3


def test_eight_at_a_time_are_asked_for(cache: BlockCache) -> None:
    gate = Gate()
    reader = reader_of(gate, cache)
    for number in range(SAMPLES):
        rows = INDEX[number : number + 1]
        assert reader.prefetch(("single", number), lambda rows=rows: block_of("a.tar", SHA256, rows))  # type: ignore[misc]
    for _ in range(8):
        assert gate.entered.acquire(timeout=30)
    assert not gate.entered.acquire(timeout=0.05) and len(gate.asked) == 8
    gate.open.set()
    for _ in range(4):
        assert gate.entered.acquire(timeout=30)
    assert sorted(start // STRIDE for start, _ in gate.asked[8:]) == [8, 9, 10, 11]


def test_what_is_needed_comes_before_what_is_to_come_and_that_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_reader, "THREADS", 1)
    gate = Gate()
    reader = reader_of(gate, None)
    ask(reader, 1)
    assert gate.entered.acquire(timeout=30)
    ask(reader, 2, 0, 3)
    needed = threading.Thread(target=sample, args=(reader, 11))
    needed.start()
    while not reader._needed:
        time.sleep(0.001)
    gate.open.set()
    needed.join(30)
    assert [sample(reader, n)[0] for n in (6, 0)] == [6, 0]
    assert [start for start, _ in gate.asked] == [450, 1350, 900, 0]


def test_no_more_are_fetched_ahead_than_are_used(tar: Tar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "AHEAD_BLOCKS", 2)
    reader = reader_of(tar, None)
    assert ask(reader, 0, 1, 2) == [True, True, False]
    assert sample(reader, 0)[0] == 0
    assert ask(reader, 1, 2, 3) == [True, True, False]
    assert [sample(reader, n)[0] for n in range(12)] == list(range(12))
    assert sorted(start for start, _ in tar.asked) == [0, 450, 900, 1350]


def test_blocks_that_another_process_has_read_make_way_for_others(
    cache: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are at hand, on their way, or still to be asked for."""
    monkeypatch.setattr(block_reader, "AHEAD_BLOCKS", 2)
    monkeypatch.setattr(block_reader, "THREADS", 1)
    gate = Gate()
    reader = reader_of(gate, cache)
    assert ask(reader, 0, 1, 2) == [True, True, False]
    assert gate.entered.acquire(timeout=30)  # 0 is on its way, 1 waits for the thread
    reader.note_used(0), reader.note_used(1), reader.note_used(3)
    assert ask(reader, 2) == [True]
    gate.open.set()
    for _ in range(500):
        if len([p for p in cache.folder.iterdir() if not p.name.startswith(".")]) == 2:
            break
        time.sleep(0.01)
    assert files(cache) == expected(0, 2) and gate.asked == [(0, FETCHED), (900, FETCHED)]
    assert ask(reader, 3, 1) == [True, False]
    reader.note_used(2)
    assert ask(reader, 1) == [True]


def test_an_error_ahead_of_need_is_told_when_it_is_needed(tar: Tar) -> None:
    answers: list[Exception | None] = [UserError("no"), FileNotFoundError("no"), None]

    def answer(start: int) -> None:
        if error := answers.pop(0):
            raise error

    tar.instead = answer
    reader = reader_of(tar, None)
    ask(reader, 0)
    while reader._jobs:
        time.sleep(0.001)
    with pytest.raises(FileNotFoundError):
        sample(reader, 0)
    assert sample(reader, 0) == bytes(SAMPLE)
    assert len(tar.asked) == 3


def test_a_long_wait_is_told_once(
    tar: Tar, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(block_reader, "SLOW_S", 0.01)
    gate = Gate()
    reader = reader_of(gate, None)
    waiting = [threading.Thread(target=sample, args=(reader, n)) for n in (0, 1, 3)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(0.05)
    gate.open.set()
    for thread in waiting:
        thread.join(30)
    assert capsys.readouterr() == (
        "",
        "warning: s3://bucket/set: has not sent images for 0 s: it is slow, busy or unreachable; still trying\n",
    )


def test_a_reader_travels_without_what_it_holds(tar: Tar, cache: BlockCache) -> None:
    reader = reader_of("s3://bucket/set", cache)
    reader._held[0] = None  # type: ignore[assignment]
    there = pickle.loads(pickle.dumps(reader))
    assert there.store == "s3://bucket/set" and there.cache.limit_bytes == 3 * BLOCK
    assert there.cache.folder == cache.folder and not there._held


def test_a_closed_reader_holds_nothing_and_reads_anew(tar: Tar) -> None:
    reader = reader_of(tar, None)
    sample(reader, 0)
    reader.close()
    assert sample(reader, 0) == bytes(SAMPLE) and len(tar.asked) == 2


END = """
from tests.helpers.tar_blocks import Gate, ask, reader_of
gate = Gate()
reader = reader_of(gate, None)
ask(reader, 0, 1)
assert gate.entered.acquire(timeout=30)
print("done")
"""


def test_a_process_ends_while_blocks_are_on_their_way() -> None:
    done = subprocess.run([sys.executable, "-c", END], cwd=CLONE, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
