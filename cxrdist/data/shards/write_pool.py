"""Shards written by worker processes: one shard a task, in any order, taken over where an earlier job wrote it."""

from __future__ import annotations

import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cxrdist.console import Progress, say
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.tar import Sample, finished_shard, write_shard
from cxrdist.data.storage.store import Store
from cxrdist.errors import UserError, shown
from cxrdist.process import (
    available_cores,
    die_with_parent,
    keep_freed_memory,
    without_interrupts,
)

MAX_UNDECODABLE_SHARE = 0.01
LISTED_UNDECODABLE = 10

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Shared:
    """What the workers and their parent share."""

    images_done: Any
    """ctypes uint64: images that all workers have come to."""
    is_stopping: Any
    """ctypes bool: the job has failed or was interrupted, so no worker needs to go on."""


# In a worker process.
_shared: Shared | None = None


class Stopped(Exception):
    """Ends the task of a worker whose result nobody waits for."""


class UndecodableSource(UserError):
    """Too many images of a source do not decode to make a set of the others; nothing was written."""


@dataclass(frozen=True)
class ShardTask(ABC):
    """One shard to write; travels to a worker process."""

    store: Store
    number: int
    stratum: Stratum
    class_index: int
    encoding: str

    @property
    @abstractmethod
    def images(self) -> int:
        """How many images are read for it."""

    @property
    def is_shared(self) -> bool:
        """Whether another process can write it."""
        return self.store.is_shared

    @abstractmethod
    def samples(self, result: ShardResult) -> Iterator[Sample]:
        """What the shard shall hold; ``result`` gets what there is to say of the images.

        Calls ``count_image`` for every image it comes to.
        """

    @abstractmethod
    def take_over(self, row: dict[str, Any], samples: dict[str, Any]) -> ShardResult | None:
        """The result, where an earlier job wrote this shard with these samples (what ``look`` saw, by key); None
        where they are not what the shard shall hold: then it is written again."""

    def look(self, sample: Sample) -> Any:
        """What ``take_over`` wants to know of a sample."""
        return sample.meta


@dataclass
class ShardResult:
    row: dict[str, Any] = field(default_factory=dict)
    undecodable: list[str] = field(default_factory=list)
    """A line for each image that does not decode."""
    hashes: bytearray = field(default_factory=bytearray)
    """A perceptual hash for each image, where the task makes them."""


Results = dict[tuple[Stratum, int], ShardResult]


def write_all(
    tasks: Sequence[ShardTask],
    title: str,
    workers: int,
    take: Callable[[ShardTask, ShardResult], None] | None = None,
) -> Results:
    """Write all shards in ``workers`` processes (0: one per core); ``take`` gets each as soon as it is done. Raises
    UndecodableSource where more than 1 % of the images do not decode."""
    images = sum(task.images for task in tasks)
    results: Results = {}
    undecodable: list[str] = []
    # Large shards first: the last ones to end are small, and all workers stay busy.
    order = sorted(tasks, key=lambda t: (-t.images, t.stratum, t.number))
    in_process = not all(task.is_shared for task in tasks)
    for task, result in work(do_task, order, title, images, workers, in_process=in_process):
        if take:
            take(task, result)
        results[task.stratum, task.number] = result
        undecodable += result.undecodable
        check_undecodable(undecodable, images)
    tell_undecodable(undecodable)
    return results


def check_undecodable(undecodable: list[str], images: int) -> None:
    """Raises UndecodableSource where more than 1 % of the images, and more than one, do not decode."""
    if len(undecodable) > max(1, MAX_UNDECODABLE_SHARE * images):
        raise UndecodableSource(
            f"{len(undecodable)} or more of {images} images do not decode, over "
            f"{MAX_UNDECODABLE_SHARE:.0%} (one is {undecodable[0]}): repair the download, or take "
            "these images away; nothing was written"
        )


def tell_undecodable(undecodable: list[str]) -> None:
    for line in sorted(undecodable)[:LISTED_UNDECODABLE]:
        say(f"left out, does not decode: {shown(line)}")
    if len(undecodable) > LISTED_UNDECODABLE:
        say(f"... and {len(undecodable) - LISTED_UNDECODABLE} more")


def rows_of(results: Results) -> dict[Stratum, list[dict[str, Any]]]:
    """The rows of the shard tables, per stratum."""
    rows: dict[Stratum, list[dict[str, Any]]] = {}
    for (stratum, _), result in sorted(results.items(), key=lambda item: item[0]):
        if result.row["samples"]:
            rows.setdefault(stratum, []).append(result.row)
    return rows


def work(
    function: Callable[[T], R], tasks: Sequence[T], title: str, images: int, workers: int, *, in_process: bool
) -> Iterator[tuple[T, R]]:
    """Each task and its result, in the order in which they are done, by ``workers`` processes (0: one per core).

    The function calls ``count_image``, which shows progress and ends it where the job has failed meanwhile.
    """
    # Spawned, not forked: the caller may hold threads (torch) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
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
            # The parent alone takes a ctrl-C and stops the workers, which would each print a traceback.
            with without_interrupts():
                futures = {pool.submit(function, task): task for task in tasks}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures.pop(future), future.result()
                # Without its lock: a worker that was killed may never let go of it.
                progress.at(shared.images_done.get_obj().value)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, by the system if memory ran out: run the same command again, which "
            "goes on from here, with fewer --workers"
        ) from None
    except MemoryError:
        raise UserError(
            "memory ran out in a worker process: run the same command again, which goes on from here, with fewer "
            "--workers"
        ) from None
    finally:
        shared.is_stopping.value = True
        pool.shutdown(wait=True, cancel_futures=True)


def start_worker(parent: int, shared: Shared) -> None:
    die_with_parent(parent)
    keep_freed_memory()
    share(shared)


def share(shared: Shared) -> None:
    global _shared
    _shared = shared


def do_task(task: ShardTask) -> ShardResult:
    """Write one shard, or take over the one that an earlier, killed job finished."""
    check_going_on()
    done = finished_shard(task.store, task.number, task.stratum, task.class_index, task.encoding, task.look)
    if done and (taken := task.take_over(*done)):
        count_image(task.images)
        return taken
    result = ShardResult()
    samples = task.samples(result)
    result.row = write_shard(task.store, task.number, task.stratum, task.class_index, task.encoding, samples)
    return result


def check_going_on() -> None:
    assert _shared is not None
    if _shared.is_stopping.value:
        raise Stopped


def count_image(images: int = 1) -> None:
    assert _shared is not None
    check_going_on()
    with _shared.images_done.get_lock():
        _shared.images_done.value += images
