"""The two sides of ``import.py``, each run in a process of its own.

Run as ``python -m benchmarks.data.import_sides SIDE JSON``.

The last line that it prints is JSON: seconds, seconds to start the workers, bytes of all encoded images, and (ours)
peak memory. Interpreter and imports of the first process count for neither side.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

POLL_S = 0.05


def ours(
    root: str, out: str, size: int, encoding: str, workers: int, min_shards: int, watches_memory: bool = False
) -> dict[str, Any]:
    """``cxrdist import folder``: reading the folder, split, hashes, indexes, tables, manifest, fsync; all but the
    search for near-duplicates, which the peer has nothing like."""
    import numpy as np

    from cxrdist.cli.main import dispatch

    words = f"import folder --root {root} --out {out} --size {size} --encoding {encoding} --workers {workers}"
    peaks = Peaks()
    began, cpu_before_s = time.perf_counter(), cpu_seconds()
    # Watching costs time, so it is done where nobody looks at the clock.
    with peaks if watches_memory else contextlib.nullcontext():
        dispatch(
            [
                *words.split(),
                "--min-shards",
                str(min_shards),
                "--salt-file",
                f"{root}.salt",
                "--no-find-duplicates",
            ]
        )
    seconds, cpu_s = time.perf_counter() - began, cpu_seconds() - cpu_before_s
    indexes = [np.load(path) for path in Path(out).glob("*.index.npy")]
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "start_s": start_s(multiprocessing.get_context("spawn"), workers),
        "image_bytes": int(sum(index["length_bytes"].sum() for index in indexes)),
        "shards": len(indexes),
        "parent_peak_bytes": high_water_bytes(os.getpid()),
        "worker_peak_bytes": max(peaks.of_child.values(), default=0),
    }


def peer(
    root: str, out: str, size: int, encoding: str, workers: int, per_shard: int, chunk: int
) -> dict[str, Any]:
    """webdataset's ShardWriter in the parent; a pool decodes and encodes. Nothing is hashed, indexed or fsynced."""
    from webdataset import ShardWriter

    import cxrdist.data.imaging.radiograph  # noqa: F401  (before the fork: the workers have it at once)

    # Forked, which starts at once: the best that can be had where no thread is at work.
    context = multiprocessing.get_context("fork")
    Path(out).mkdir()
    image_bytes = 0
    began, cpu_before_s = time.perf_counter(), cpu_seconds()
    classes = sorted(entry.name for entry in os.scandir(root))
    files = [
        (entry.path, label)
        for label, name in enumerate(classes)
        for entry in sorted(os.scandir(f"{root}/{name}"), key=lambda e: e.name)
    ]
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        ShardWriter(
            f"{out}/%06d.tar", maxcount=per_shard, maxsize=float("inf"), encoder=False, verbose=0
        ) as sink,
    ):
        for sample in pool.map(partial(encoded_sample, size, encoding), files, chunksize=chunk):
            sink.write(sample)
            image_bytes += len(sample[encoding])
    seconds, cpu_s = time.perf_counter() - began, cpu_seconds() - cpu_before_s
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "start_s": start_s(context, workers),
        "image_bytes": image_bytes,
    }


def encoded_sample(size: int, encoding: str, file: tuple[str, int]) -> dict[str, Any]:
    from cxrdist.data.imaging.codecs import encode
    from cxrdist.data.imaging.radiograph import load_grey

    path, label = file
    return {
        "__key__": Path(path).stem,
        encoding: encode(load_grey(path, size), encoding),
        "cls": str(label).encode(),
        "json": json.dumps({"source": "folder", "view": None, "sex": None, "age": None}).encode(),
    }


def start_s(context: BaseContext, workers: int) -> float:
    """Seconds until all workers of such a pool have imported what they need and begun a task."""
    barrier = context.Barrier(workers)
    began = time.perf_counter()
    # None is through its initializer before the last one has come to it.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=barrier.wait) as pool:
        list(pool.map(abs, range(workers)))
        return time.perf_counter() - began


def cpu_seconds() -> float:
    """Of this process and its ended children: what other programs do at the same time adds little to it."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


class Peaks:
    """Peak resident bytes of each child process; what was said last is kept when it ends."""

    def __init__(self) -> None:
        self.of_child: dict[int, int] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        import psutil  # type: ignore[import-untyped]

        me = psutil.Process()
        while not self._is_over.wait(POLL_S):
            for child in me.children():
                self.of_child[child.pid] = high_water_bytes(child.pid) or self.of_child.get(child.pid, 0)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def high_water_bytes(process: int) -> int:
    """Peak resident bytes of a process; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else 0


if __name__ == "__main__":
    side, options = sys.argv[1:]
    run = ours if side == "ours" else peer
    print(json.dumps(run(**json.loads(options))))
