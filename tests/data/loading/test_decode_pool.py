"""Batches from worker processes: those of one process, and no hang and nothing left whatever ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxrdist.data.loading.decode_pool import DecodePool, Slots
from cxrdist.data.loading.gather import Gather, OnCorrupt
from cxrdist.data.shards.stratum import CorruptSample, StratumReader
from cxrdist.errors import UserError
from tests.helpers.gathering import SIZE, TAR, drawn, flip, readers_of, write_foreign, write_set
from tests.helpers.launching import CLONE
from tests.helpers.processes import is_running, workers_of

pytestmark = pytest.mark.slow

BATCHES = [
    ([0, 1, 0], [7, 3, 0]),
    ([1, 1], [0, 2]),
    ([0, 0, 0], [4, 5, 6]),
    ([0], [1]),
    ([1, 0, 1], [1, 2, 3]),
]


def planned(number: int) -> tuple[np.ndarray, np.ndarray]:
    strata, samples = BATCHES[number]
    return np.array(strata), np.array(samples)


def pool_of(
    readers: list[StratumReader], workers: int, slots: int = 5, on_corrupt: OnCorrupt = "raise"
) -> DecodePool:
    return DecodePool(readers, workers=workers, batch=3, slots=slots, on_corrupt=on_corrupt)


@pytest.fixture
def closing() -> Iterator[list[DecodePool]]:
    """Pools that are put in here are closed, and have left no process."""
    pools: list[DecodePool] = []
    yield pools
    for pool in pools:
        pool.close()
    assert workers_of(os.getpid()) == []


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("encoding", ["npy", "png", "jpg", "foreign"])
def test_batches_are_those_of_one_process_in_any_order(
    tmp_path: Path, closing: list[DecodePool], encoding: str, workers: int
) -> None:
    place = tmp_path / "set"
    readers = readers_of(write_foreign(place) if encoding == "foreign" else write_set(place, encoding))
    pool = pool_of(readers, workers)
    closing.append(pool)
    batches = [(np.array(strata), np.array(samples) % 4) for strata, samples in BATCHES]
    for ticket, batch in enumerate(batches):
        pool.submit(ticket, *batch)
    for ticket in (3, 0, 4, 2, 1):
        strata, samples = batches[ticket]
        expected = np.empty((len(strata), 1, SIZE, SIZE), np.uint8)
        expected_keys = np.empty(len(strata), "S40")
        Gather(readers).fill(strata, samples, expected, expected_keys)
        pixels, keys, substitutions = pool.result(ticket)
        assert np.array_equal(pixels, expected) and keys.tolist() == expected_keys.tolist()
        assert substitutions == [] and pixels.dtype == np.uint8


def test_a_slot_is_used_again_once_it_is_free(tmp_path: Path, closing: list[DecodePool]) -> None:
    pool = pool_of(readers_of(write_set(tmp_path / "set", "png")), workers=2, slots=2)
    closing.append(pool)
    pool.submit(0, *planned(0))
    kept, kept_keys, _ = pool.result(0)
    for ticket in range(1, 9):
        pool.submit(ticket, *planned(ticket % 5))
        pixels, keys, _ = pool.result(ticket)
        assert keys.tolist() == [f"k{8 * s + n}".encode() for s, n in zip(*BATCHES[ticket % 5])]
        assert all(np.array_equal(image[0], drawn(key.decode())) for image, key in zip(pixels, keys.tolist()))
        pool.free(ticket)
        assert np.array_equal(kept[0, 0], drawn("k7")) and kept_keys[1] == b"k11"
    pool.submit(10, *planned(1))
    with pytest.raises(AssertionError):  # both are in use
        pool.submit(11, *planned(1))


def test_a_corrupt_sample_is_the_error_of_its_own_batch(tmp_path: Path, closing: list[DecodePool]) -> None:
    readers = readers_of(write_set(tmp_path / "set", "png"))
    begin = flip(tmp_path / "set", readers[0], 5)
    pool = pool_of(readers, workers=1, slots=3)
    closing.append(pool)
    for ticket in range(3):
        pool.submit(ticket, *planned(ticket))
    with pytest.raises(CorruptSample) as caught:
        pool.result(2)
    told = Gather(readers)
    with pytest.raises(CorruptSample) as here:
        told.fill(*planned(2), np.empty((3, 1, SIZE, SIZE), np.uint8), np.empty(3, "S40"))
    assert str(caught.value) == str(here.value) and str(here.value).startswith(begin)
    assert pool.result(0)[1].tolist() == [b"k7", b"k11", b"k0"]
    assert pool.result(1)[1].tolist() == [b"k8", b"k10"]
    pool.submit(3, *planned(3))  # into the slot of the batch that failed
    assert pool.result(3)[1].tolist() == [b"k1"]


@pytest.mark.parametrize("workers", [1, 2])
def test_substitutes_are_those_of_one_process(
    tmp_path: Path, closing: list[DecodePool], workers: int
) -> None:
    readers = readers_of(write_set(tmp_path / "set", "png"))
    for number in (4, 5):
        flip(tmp_path / "set", readers[0], number)
    pool = pool_of(readers, workers, on_corrupt="substitute")
    closing.append(pool)
    pool.submit(0, *planned(2))
    _, keys, substitutions = pool.result(0)
    assert keys.tolist() == [b"k6"] * 3
    there = np.empty((3, 1, SIZE, SIZE), np.uint8)
    assert substitutions == Gather(readers, "substitute").fill(*planned(2), there, np.empty(3, "S40"))
    assert [(s.row, s.sample, s.instead) for s in substitutions] == [(0, 4, 6), (1, 5, 6)]


def test_a_tar_that_is_truncated_ends_no_worker(tmp_path: Path, closing: list[DecodePool]) -> None:
    readers = readers_of(write_set(tmp_path / "set", "png"))
    pool = pool_of(readers, 1)
    closing.append(pool)
    pool.submit(0, np.array([0]), np.array([2]))
    assert pool.result(0)[1].tolist() == [b"k2"]
    os.truncate(tmp_path / "set" / TAR, int(readers[0].index(0)[2]["offset_bytes"]) + 20)
    pool.submit(1, np.array([0]), np.array([2]))
    with pytest.raises(CorruptSample, match=rf"{TAR}: sample k2 at byte \d+: the file ends after 20 of its"):
        pool.result(1)
    pool.submit(2, np.array([0]), np.array([1]))
    assert pool.result(2)[1].tolist() == [b"k1"]


def test_what_is_wrong_with_a_set_as_a_whole_is_told(tmp_path: Path, closing: list[DecodePool]) -> None:
    readers = readers_of(write_set(tmp_path / "set", "png"))
    (tmp_path / "set" / TAR).unlink()
    pool = pool_of(readers, workers=1)
    closing.append(pool)
    pool.submit(0, *planned(3))
    with pytest.raises(UserError, match=f"set/{TAR}: missing; "):
        pool.result(0)
    pool.submit(1, np.array([0]), np.array([8]))
    with pytest.raises(IndexError):
        pool.result(1)
    pool.submit(2, *planned(1))
    assert pool.result(2)[1].tolist() == [b"k8", b"k10"]


def test_the_worker_that_has_least_to_do_is_asked(tmp_path: Path, closing: list[DecodePool]) -> None:
    pool = pool_of(readers_of(write_set(tmp_path / "set", "png")), workers=2)
    closing.append(pool)
    for ticket in range(2):
        pool.submit(ticket, *planned(ticket))
    for ticket in range(2):
        pool.result(ticket), pool.free(ticket)
    process = max(workers_of(os.getpid()))  # the second: of two that have nothing to do the first is asked
    os.kill(process, signal.SIGSTOP)
    ends = threading.Timer(20, os.kill, (process, signal.SIGKILL))  # so that the test does
    ends.start()
    for ticket in range(2, 6):
        pool.submit(ticket, *planned(0))
        assert pool.result(ticket)[1].tolist() == [b"k7", b"k11", b"k0"]
        pool.free(ticket)
    ends.cancel()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_is_noticed_at_once(
    tmp_path: Path, closing: list[DecodePool], victim: int
) -> None:
    """While the caller waits, with the other worker alive; and again whatever is asked next."""
    readers = readers_of(write_set(tmp_path / "set", "png"))
    pool = pool_of(readers, workers=2)
    closing.append(pool)
    pool.submit(0, *planned(0))
    pool.submit(1, *planned(1))
    done = [pool.result(ticket) for ticket in (0, 1)]
    process = sorted(workers_of(os.getpid()))[victim]
    os.kill(process, signal.SIGSTOP)  # it never answers
    pool.submit(2, *planned(2))
    pool.submit(3, *planned(3))
    threading.Timer(0.2, os.kill, (process, signal.SIGKILL)).start()
    with pytest.raises(
        UserError, match="a process that decodes images was killed, by the system if memory ran"
    ):
        pool.result(2), pool.result(3)
    with pytest.raises(UserError, match="was killed"):
        for ticket in (4, 5, 6):
            pool.submit(ticket, *planned(4))
            pool.free(ticket)
        pool.result(2), pool.result(3)
    assert done[0][1].tolist() == [b"k7", b"k11", b"k0"]


def test_a_worker_that_can_not_start_is_reported(tmp_path: Path, closing: list[DecodePool]) -> None:
    readers = readers_of(write_set(tmp_path / "set", "png"))
    readers[0].store = Unreadable()  # type: ignore[assignment]
    pool = pool_of(readers, workers=1)
    closing.append(pool)
    with pytest.raises(UserError, match=r"exited by itself \(exit code 1\); it printed the reason"):
        pool.submit(0, *planned(0))
        pool.result(0)


class Unreadable:
    def __reduce__(self) -> tuple[object, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ImportError("a package that a worker does not find")


SCRIPT = """
import sys, time
import numpy as np
from cxrdist.data.loading.decode_pool import DecodePool
from cxrdist.data.shards.shard_set import ShardSet

def main():
    shards = ShardSet(sys.argv[1])
    readers = [shards.stratum("train", name, "real") for name in shards.classes]
    pool = DecodePool(readers, workers=2, batch=4, slots=3)
    for ticket in range(2):
        pool.submit(ticket, np.array([0, 1]), np.array([ticket, 0]))
    print([pool.result(ticket)[1].tolist() for ticket in range(2)], flush=True)
    pool.submit(2, np.array([0]), np.array([0]))
    time.sleep(60)

if __name__ == "__main__":
    main()
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    write_set(tmp_path / "set", "png")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CLONE), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "set")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "[[b'k0', b'k8'], [b'k1', b'k8']]\n"
    return process


def test_nothing_is_left_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        workers = workers_of(process.pid)
        assert len(workers) == 2
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "/memfd:cxrdist-slots (deleted)" in mapped and "/dev/shm" not in mapped
        os.kill(workers[0], signal.SIGSTOP)  # one that is busy, and does not see its pipe's end
        process.kill()
        process.wait()
        for _ in range(500):
            if not any(map(is_running, workers)):
                break
            time.sleep(0.01)
        left = [worker for worker in workers if is_running(worker)]
        for worker in left:
            os.kill(worker, signal.SIGKILL)
    assert left == []


def test_ctrl_c_ends_the_parent_alone_and_it_its_workers(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        workers = workers_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all of them
        _, told = process.communicate(timeout=30)
    assert told.count("Traceback") == 1 and told.endswith("KeyboardInterrupt\n")
    assert not any(map(is_running, workers))


def test_nothing_heavy_is_imported_by_a_worker() -> None:
    script = "import sys, cxrdist.data.loading.decode_pool; print({'torch', 'accelerate', 'wandb'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_the_slots_do_not_overlap_and_no_descriptor_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    slots = Slots(3, 5, 7, os.memfd_create("test"))
    slots.close()
    for slot in range(3):
        for number, view in enumerate(slots.view(slot, 5)):
            view[:] = b"%d" % (10 * slot + number) if view.dtype.kind == "S" else 10 * slot + number
    for slot in range(3):
        pixels, keys, strata, samples = slots.view(slot, 4)
        assert pixels.shape == (4, 1, 7, 7) and np.all(pixels == 10 * slot)
        assert keys.tolist() == [b"%d" % (10 * slot + 1)] * 4
        assert strata.tolist() == [10 * slot + 2] * 4 and samples.tolist() == [10 * slot + 3] * 4
    del slots, pixels, keys, strata, samples, view
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
