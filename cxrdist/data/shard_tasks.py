"""The shards of an import, written by worker processes: decode, resize, encode, write the tar, index, hash."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from cxrdist.data.images import UndecodableImage, encode
from cxrdist.data.importers.base import Importer, Record
from cxrdist.data.importers.tables import OLDEST_TOLD_YEARS
from cxrdist.data.manifest import Stratum
from cxrdist.data.privacy import Salt
from cxrdist.data.shards import Sample, finished_shard, write_shard
from cxrdist.data.store import Store
from cxrdist.errors import UserError
from cxrdist.process import die_with_parent, keep_freed_memory
from cxrdist.progress import Progress, say

MAX_UNDECODABLE_SHARE = 0.01
LISTED_UNDECODABLE = 10


@dataclass(frozen=True)
class Shared:
    """What the workers and their parent share."""

    images_done: Any
    """ctypes uint64: images that all workers have come to."""
    is_stopping: Any
    """ctypes bool: the import has failed or was interrupted, so no worker needs to go on."""


# In a worker process.
_shared: Shared | None = None


class Stopped(Exception):
    """Ends the task of a worker whose result nobody waits for."""


class UndecodableSource(Exception):
    """Too many images of a source do not decode to make a set of the others."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to write; travels to a worker process."""

    store: Store
    number: int
    stratum: Stratum
    class_index: int
    encoding: str
    image_size: int
    fit: str
    importer: Importer
    salt: Salt
    records: list[Record]


@dataclass
class ShardResult:
    row: dict[str, Any] = field(default_factory=dict)
    undecodable: list[str] = field(default_factory=list)


def run(tasks: list[ShardTask], title: str, workers: int) -> tuple[dict[Stratum, list[dict[str, Any]]], int]:
    """Write all shards in ``workers`` processes (0: one per core); returns the rows per stratum and how many
    images did not decode. Raises UndecodableSource where these are more than 1 %."""
    images = sum(len(task.records) for task in tasks)
    results: dict[tuple[Stratum, int], ShardResult] = {}
    undecodable: list[str] = []
    # Spawned, not forked: the caller may hold threads (torch) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    shared = Shared(context.Value("Q", 0), context.RawValue("b", False))
    pool: Executor
    if tasks[0].store.is_shared:
        pool = ProcessPoolExecutor(
            min(workers or available_cores(), len(tasks)),
            mp_context=context,
            initializer=start_worker,
            initargs=(os.getpid(), shared),
        )
    else:
        pool = ThreadPoolExecutor(1, initializer=share, initargs=(shared,))
    try:
        with Progress(title, images) as progress:
            # Large shards first: the last ones to end are small, and all workers stay busy.
            order = sorted(tasks, key=lambda t: (-len(t.records), t.stratum, t.number))
            # The parent alone takes a ctrl-C and stops the workers, which would each print a traceback.
            with without_interrupts():
                futures = {pool.submit(do_task, task): task for task in order}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    task, result = futures[future], future.result()
                    results[task.stratum, task.number] = result
                    undecodable += result.undecodable
                # Without its lock: a worker that was killed may never let go of it.
                progress.at(shared.images_done.get_obj().value)
                if len(undecodable) > MAX_UNDECODABLE_SHARE * images:
                    raise UndecodableSource(
                        f"{len(undecodable)} or more of {images} images do not decode, over "
                        f"{MAX_UNDECODABLE_SHARE:.0%} (one is {undecodable[0]}): repair the download, or take "
                        "these images out of the table"
                    )
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, by the system if memory ran out: run the same command again, which "
            "goes on from here, with fewer --workers"
        ) from None
    finally:
        shared.is_stopping.value = True
        pool.shutdown(wait=True, cancel_futures=True)
    for line in sorted(undecodable)[:LISTED_UNDECODABLE]:
        say(f"left out, does not decode: {line}")
    if len(undecodable) > LISTED_UNDECODABLE:
        say(f"... and {len(undecodable) - LISTED_UNDECODABLE} more")
    rows: dict[Stratum, list[dict[str, Any]]] = {}
    for (stratum, _), result in sorted(results.items(), key=lambda item: item[0]):
        if result.row["samples"]:
            rows.setdefault(stratum, []).append(result.row)
    return rows, len(undecodable)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold ctrl-C back for the time of the block; a process started in it never gets one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(parent: int, shared: Shared) -> None:
    die_with_parent(parent)
    keep_freed_memory()
    share(shared)


def share(shared: Shared) -> None:
    global _shared
    _shared = shared


def do_task(task: ShardTask) -> ShardResult:
    """Write one shard, or take over the one that an earlier, killed import finished."""
    check_going_on()
    if done := finished_shard(task.store, task.number, task.stratum, task.class_index, task.encoding):
        row, kept = done
        left_out = [record for record in task.records if task.salt.key(record.source_id) not in kept]
        reasons = [why_undecodable(task, record) for record in left_out]
        # Where one has been repaired since, the shard is written again, with it.
        if all(reasons):
            count_image(len(task.records))
            return ShardResult(row, [reason for reason in reasons if reason])
    result = ShardResult()
    samples = encoded_samples(task, result.undecodable)
    result.row = write_shard(task.store, task.number, task.stratum, task.class_index, task.encoding, samples)
    return result


def why_undecodable(task: ShardTask, record: Record) -> str | None:
    try:
        task.importer.pixels(record, task.image_size, task.fit)
    except UndecodableImage as error:
        return str(error)
    return None


def check_going_on() -> None:
    assert _shared is not None
    if _shared.is_stopping.value:
        raise Stopped


def count_image(images: int = 1) -> None:
    assert _shared is not None
    check_going_on()
    with _shared.images_done.get_lock():
        _shared.images_done.value += images


def encoded_samples(task: ShardTask, undecodable: list[str]) -> Iterator[Sample]:
    for record in task.records:
        count_image()
        try:
            pixels = task.importer.pixels(record, task.image_size, task.fit)
        except UndecodableImage as error:
            undecodable.append(str(error))
            continue
        meta = sample_meta(record, task.importer, task.salt)
        image = encode(pixels, task.encoding)
        yield Sample(task.salt.key(record.source_id), image, meta)


def patient_of(record: Record) -> str:
    """The source's name of the patient; an image of nobody known is its own patient."""
    return record.patient_id or record.source_id


def sample_meta(record: Record, importer: Importer, salt: Salt) -> dict[str, Any]:
    """What a sample's ``.json`` says of it."""
    return {
        "patient": salt.patient(patient_of(record)),
        "origin": "real",
        "source": importer.name,
        "phantom": importer.is_phantom,
        "view": record.view,
        "sex": record.sex,
        # From 90 up an age alone may tell who a person is.
        "age": None if record.age is None else min(record.age, OLDEST_TOLD_YEARS),
        "findings": list(record.findings),
    }
