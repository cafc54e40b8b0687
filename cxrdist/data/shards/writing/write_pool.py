"""Shards written by worker processes: one task per shard, in any order; shards of an earlier, killed job are kept."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from cxrdist.console import Progress
from cxrdist.data.imaging.faults import Fault, check_undecodable, report_undecodable
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.tar import Sample, TarFile, finished_shard, tar_name, write_shard
from cxrdist.data.storage.store import Store
from cxrdist.errors import UserError
from cxrdist.process import (
    available_cores,
    die_with_parent,
    keep_freed_memory,
    without_interrupts,
)

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What the workers and their parent share."""

    images_done: Any
    """ctypes uint64: images that all workers together have processed."""
    is_stopping: Any
    """ctypes bool: the job has failed or was interrupted, so workers stop at their next image."""


# In a worker process.
_shared: Shared | None = None


class Stopped(Exception):
    """Ends a worker's task after the job has failed: its result is not used."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image that a shard is made from: a sample, an image that does not decode, or a candidate
    that was rejected (neither of the two)."""

    sample: Sample | None = None
    """What is written; None for an image that is left out."""
    undecodable: Fault | None = None
    """Why the image does not decode, if it does not."""
    repairs: Sequence[Fault] = ()
    """What was repaired to read it."""
    image_hash: bytes = b""
    """Its perceptual hash, if the task computes them."""


@dataclass(frozen=True)
class ShardResult:
    """One shard as it was written, or found finished."""

    row: ShardRow | None
    """The shard's row of the shard table; None for a shard without samples, which is not written."""
    undecodable: list[Fault] = field(default_factory=list)
    """Why, for each image that does not decode."""
    repairs: list[Fault] = field(default_factory=list)
    """What was repaired to read the others; several of one image are possible."""
    hashes: bytes = b""
    """The perceptual hashes of all images, one after the other, if the task computes them."""
    tried: int = 0
    """The number of outcomes, rejected candidates included. A task that rejects none need not give it in
    ``take_over``."""


@dataclass(frozen=True)
class ShardTask(ABC):
    """One shard to write. Tasks are pickled: they travel to worker processes."""

    store: Store
    number: int
    stratum: Stratum
    class_index: int
    encoding: str

    @property
    @abstractmethod
    def images(self) -> int:
        """The number of images that the shard is made from; of samples, if the task rejects candidates."""

    @property
    def tar(self) -> TarFile:
        """The tar to write."""
        name = tar_name(self.stratum, self.number)
        return TarFile(self.store, name, self.stratum, self.class_index, self.encoding)

    @property
    def is_shared(self) -> bool:
        """True if another process can write it."""
        return self.store.is_shared

    @abstractmethod
    def outcomes(self) -> Iterator[Outcome]:
        """Process the images or candidates in the order of the shard, and yield one outcome for each."""

    @abstractmethod
    def take_over(self, row: ShardRow, samples: Mapping[str, Any]) -> ShardResult | None:
        """The result, if a finished shard with this row and these samples (key -> ``inspect(sample)``) is the one
        that this task would write; None otherwise, and the shard is written again."""

    def inspect(self, sample: Sample) -> Any:
        """What ``take_over`` compares of each sample: by default its metadata."""
        return sample.meta


Results = dict[tuple[Stratum, int], ShardResult]


def write_or_take_over(task: ShardTask, advance: Callable[[int], None]) -> ShardResult:
    """Write the shard of a task, or take over the shard that an earlier, killed job finished.

    ``advance`` is called with the number of images that were processed since its last call, rejected candidates
    aside. Raises OSError (a full disk) with nothing left behind, and whatever ``task.outcomes`` raises.
    """
    finished = finished_shard(task.tar, task.inspect)
    if finished and (result := task.take_over(*finished)):
        advance(task.images)
        return result
    undecodable: list[Fault] = []
    repairs: list[Fault] = []
    hashes: list[bytes] = []

    def samples() -> Iterator[Sample]:
        for outcome in task.outcomes():
            hashes.append(outcome.image_hash)
            if outcome.undecodable:
                undecodable.append(outcome.undecodable)
            repairs.extend(outcome.repairs)
            if outcome.sample:
                yield outcome.sample
            if outcome.sample or outcome.undecodable:
                advance(1)

    row = write_shard(task.tar, samples())
    return ShardResult(row, undecodable, repairs, b"".join(hashes), tried=len(hashes))


def write_each(
    tasks: Sequence[ShardTask], title: str, workers: int
) -> Iterator[tuple[ShardTask, ShardResult]]:
    """Write all shards in ``workers`` processes (0: one per core); yields each as soon as it is finished.

    Raises RefusedSource if more than 1 % of the images do not decode.
    """
    images = sum(task.images for task in tasks)
    undecodable: list[Fault] = []
    # Large shards first: the last ones to end are small, and all workers stay busy.
    order = sorted(tasks, key=lambda t: (-t.images, t.stratum, t.number))
    in_process = not all(task.is_shared for task in tasks)
    for task, result in work(do_task, order, title, images, workers, in_process=in_process):
        undecodable += result.undecodable
        check_undecodable(undecodable, images)
        yield task, result
    report_undecodable(undecodable)


def write_all(tasks: Sequence[ShardTask], title: str, workers: int) -> Results:
    """``write_each``, with all results at the end."""
    return {(task.stratum, task.number): result for task, result in write_each(tasks, title, workers)}


def rows_of(results: Results) -> dict[Stratum, list[ShardRow]]:
    """The rows of the shard tables, per stratum, in the order of the shards' numbers."""
    rows: dict[Stratum, list[ShardRow]] = {}
    for (stratum, _), result in sorted(results.items(), key=lambda item: item[0]):
        if result.row:
            rows.setdefault(stratum, []).append(result.row)
    return rows


def work(
    function: Callable[[T], R], tasks: Sequence[T], title: str, images: int, workers: int, *, in_process: bool
) -> Iterator[tuple[T, R]]:
    """Run ``function`` on each task in ``workers`` processes (0: one per core); yields each task with its result as
    soon as it is finished.

    The function calls ``count_image`` for each image: it shows progress, and stops the task if the job has failed.
    """
    context = WorkerContext()
    shared = Shared(context.Value("Q", 0), context.RawValue("b", False))
    pool: Executor
    if in_process:
        pool = ThreadPoolExecutor(1, initializer=share, initargs=(shared,))
    else:
        pool = ProcessPoolExecutor(
            min(workers or available_cores(), len(tasks)),
            mp_context=context,
            initializer=start_worker,
            initargs=(os.getpid(), shared),
        )
    try:
        with Progress(title, images) as progress:
            # Only the parent handles ctrl-C, and stops the workers: each would print a traceback otherwise.
            with without_interrupts():
                futures = {pool.submit(function, task): task for task in tasks}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures.pop(future), future.result()
                # Without its lock: a worker that was killed while holding it never releases it.
                progress.at(shared.images_done.get_obj().value)
    except BrokenProcessPool:
        context.kill_all()
        raise UserError(
            "a worker process was killed, by the system if memory ran out: run the same command again with fewer "
            "--workers; it resumes here"
        ) from None
    except MemoryError:
        raise UserError(
            "memory ran out in a worker process: run the same command again with fewer --workers; it resumes here"
        ) from None
    finally:
        shared.is_stopping.value = True
        pool.shutdown(wait=True, cancel_futures=True)


class WorkerContext(SpawnContext):
    """Starts worker processes, and knows them.

    They are spawned, not forked: the caller may hold threads (torch) that do not survive a fork.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        worker = SpawnProcess(*args, **kwargs)
        self.workers.append(worker)
        return worker

    def kill_all(self) -> None:
        """A pool that breaks while it starts a worker never ends that one, and waits for it forever."""
        for worker in self.workers:
            if worker.pid is not None:
                worker.kill()


def start_worker(parent: int, shared: Shared) -> None:
    die_with_parent(parent)
    keep_freed_memory()
    share(shared)


def share(shared: Shared) -> None:
    global _shared
    _shared = shared


def do_task(task: ShardTask) -> ShardResult:
    """``write_or_take_over`` in a worker."""
    check_running()
    return write_or_take_over(task, count_image)


def check_running() -> None:
    """Raises Stopped if the job has failed or was interrupted."""
    assert _shared is not None
    if _shared.is_stopping.value:
        raise Stopped


def count_image(images: int = 1) -> None:
    """Count images towards the progress of the job. Raises Stopped if it has failed or was interrupted."""
    assert _shared is not None
    check_running()
    with _shared.images_done.get_lock():
        _shared.images_done.value += images
