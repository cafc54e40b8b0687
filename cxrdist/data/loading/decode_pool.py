"""Worker processes that decode batches, each straight into memory that it shares with the process that asked.

    submit(ticket, strata, samples) -> a slot -> worker: Gather.fill -> result(ticket) -> free(ticket)

A slot holds one batch: the samples that were asked for, and their pixels and keys. Only short messages pass between
the processes, so no image is pickled or collated, and the pipe to a worker never fills up.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from cxrdist import logs
from cxrdist.data.loading.gather import Gather, OnCorrupt, Substitution
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.storage import traffic
from cxrdist.errors import UserError
from cxrdist.process import die_with_parent, keep_freed_memory, without_interrupts
from cxrdist.stop_signals import SIGNALS

PAGE_BYTES = 4096
FAILED_START_WAIT_S = 5.0


class Slots:
    """Memory for ``count`` batches of up to ``batch`` images of ``size`` x ``size``, shared with the processes that
    it is pickled to.

    The memory has no name in the file system, so the kernel frees it when the last of these processes ends, even if
    it is killed.
    """

    def __init__(self, count: int, batch: int, size: int, descriptor: int) -> None:
        self.count, self.batch, self.size = count, batch, size
        # Pixels first, and each slot starts on a page: memory that is pinned or copied to a device is aligned.
        self.slot_bytes = -(-batch * (size**2 + 8 + 8 + 40) // PAGE_BYTES) * PAGE_BYTES
        self._descriptor = descriptor
        os.ftruncate(descriptor, count * self.slot_bytes)
        self._memory = mmap.mmap(descriptor, count * self.slot_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.count, self.batch, self.size, DupFd(self._descriptor))

    def close(self) -> None:
        """Close the descriptor: the slots can't be sent to a process any more. The memory stays until the last view
        of it is gone."""
        os.close(self._descriptor)

    def view(self, slot: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pixels [n, 1, H, W] uint8, keys [n] S40, strata and samples [n] int64 of a slot."""
        at = slot * self.slot_bytes
        pixels = np.frombuffer(self._memory, np.uint8, images * self.size**2, at)
        at += self.batch * self.size**2
        # The columns after the pixels are not aligned; numpy supports that.
        columns = []
        for dtype in (KEY_DTYPE, "<i8", "<i8"):
            columns.append(np.frombuffer(self._memory, dtype, images, at))
            at += self.batch * np.dtype(dtype).itemsize
        keys, strata, samples = columns
        return pixels.reshape(images, 1, self.size, self.size), keys, strata, samples


def _attached(count: int, batch: int, size: int, descriptor: Any) -> Slots:
    slots = Slots(count, batch, size, descriptor.detach())
    slots.close()
    return slots


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cxrdist-slots", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    pending: int = 0
    """Tickets that it has not answered yet."""


@dataclass
class _Ticket:
    slot: int
    images: int
    answer: tuple[list[Substitution], Exception | None] | None = field(default=None)


class DecodePool:
    """``workers`` processes that fill batches of up to ``batch`` images from ``readers``, at most ``slots`` at a
    time. ``on_corrupt`` and ``samples_in_use`` are those of ``Gather``.

    The constructor returns at once, while the processes start. They end with the thread that made the pool, so make
    it in a thread that lives as long as the pool is used. Use a pool from one thread only, and not for a set in the
    memory of this process.
    """

    def __init__(
        self,
        readers: Sequence[StratumReader],
        *,
        workers: int,
        batch: int,
        slots: int,
        on_corrupt: OnCorrupt = "raise",
        samples_in_use: Sequence[int] | None = None,
    ) -> None:
        # Spawned, not forked: the caller may hold threads (torch) that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._slots = Slots(slots, batch, readers[0].image_size, _unnamed_file())
        self._free = [*reversed(range(slots))]
        self._tickets: dict[int, _Ticket] = {}
        self._workers: list[_Worker] = []
        # Only the parent receives stop signals, and stops the workers, which it needs until the step has ended.
        # Python's resource tracker starts with the first worker, and would unblock Ctrl-C again.
        resource_tracker.ensure_running()
        with without_interrupts(SIGNALS):
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(os.getpid(), theirs, self._slots, Gather(readers, on_corrupt, samples_in_use)),
                    name="cxrdist-decode",
                    daemon=True,
                )
                process.start()
                # At exit multiprocessing sends SIGTERM, which a worker blocks, and waits for its end.
                popen: Any = process._popen  # type: ignore[attr-defined]
                popen.terminate = popen.kill
                theirs.close()  # else this process would not notice that the worker has ended
                self._workers.append(_Worker(process, ours))
        self._slots.close()

    def submit(self, ticket: int, strata: np.ndarray, samples: np.ndarray) -> None:
        """Ask for a batch, with the arguments of ``Gather.fill``; a slot must be free. Raises UserError if a worker
        was killed."""
        assert self._free and ticket not in self._tickets and len(strata) <= self._slots.batch
        slot, images = self._free.pop(), len(strata)
        _, _, strata_there, samples_there = self._slots.view(slot, images)
        strata_there[:], samples_there[:] = strata, samples
        self._tickets[ticket] = _Ticket(slot, images)
        worker = min(self._workers, key=lambda w: w.pending)
        worker.pending += 1
        try:
            worker.connection.send((ticket, slot, images))
        except OSError:
            raise _ended(worker) from None

    def result(self, ticket: int) -> tuple[np.ndarray, np.ndarray, list[Substitution]]:
        """Wait for a batch. Returns pixels [n, 1, H, W] uint8, valid until the ticket is freed, keys [n] S40, and the
        substitutions.

        Raises what ``Gather.fill`` raised in the worker, and then frees the ticket; UserError if a worker was killed.
        """
        batch = self._tickets[ticket]
        while batch.answer is None:
            for connection in wait([worker.connection for worker in self._workers]):
                self._receive(next(w for w in self._workers if w.connection is connection))
        substitutions, error = batch.answer
        if error is not None:
            self.free(ticket)
            raise error
        pixels, keys, _, _ = self._slots.view(batch.slot, batch.images)
        return pixels, keys.copy(), substitutions

    def _receive(self, worker: _Worker) -> None:
        try:
            ticket, substitutions, error, exchanged = worker.connection.recv()
        except (EOFError, OSError):
            raise _ended(worker) from None
        worker.pending -= 1
        traffic.add(exchanged)
        self._tickets[ticket].answer = substitutions, error

    def free(self, ticket: int) -> None:
        """Reuse the slot of a ticket whose result was received: its pixels will be overwritten by another batch."""
        self._free.append(self._tickets.pop(ticket).slot)

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.process.kill()  # a worker writes no files
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()


def _ended(worker: _Worker) -> UserError:
    worker.process.join(FAILED_START_WAIT_S)
    code = worker.process.exitcode
    if code is not None and code < 0:
        return UserError(
            "a process that decodes images was killed, by the system if memory ran out: run the same command again "
            "with fewer --loader.workers"
        )
    return UserError(
        f"a process that decodes images exited by itself (exit code {code}); it printed the reason"
    )


def _work(parent: int, connection: Connection, slots: Slots, gather: Gather) -> None:
    die_with_parent(parent)
    logs.configure_child()
    keep_freed_memory()
    while True:
        try:
            ticket, slot, images = connection.recv()
        except EOFError:
            return
        pixels, keys, strata, samples = slots.view(slot, images)
        substitutions: list[Substitution] = []
        failed: Exception | None = None
        try:
            substitutions = gather.fill(strata, samples, pixels, keys)
        except MemoryError:
            failed = UserError(
                "memory ran out in a process that decodes images: run the same command again with fewer "
                "--loader.workers"
            )
        except Exception as error:
            error.add_note(traceback.format_exc())
            failed = error
        connection.send((ticket, substitutions, failed, traffic.taken()))
