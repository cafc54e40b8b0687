"""Blocks of a remote set in memory: fetched by a few threads, the ones to come while the present ones are read.

    sample(block, number) -> block at hand?
                               else in the cache on disk? mapped
                                 else one ranged read, every sample's hash checked, kept on disk, mapped
    prefetch(block)       -> the same, by the same threads, without waiting

Nobody waits for a thread at the end of the process: they are daemons, and what they keep on disk is whole or not
there.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from cxrdist.console import say
from cxrdist.data.storage.block_cache import BlockCache
from cxrdist.data.storage.blocks import BLOCK_BYTES, Block
from cxrdist.data.storage.store import Store

THREADS = 8
AHEAD_BLOCKS = 64
"""At most so many are asked for ahead of need and not used yet."""
HELD_BYTES = 2**30
"""Of blocks that a process keeps at hand; in memory of its own only where there is no cache on disk."""
TRIES = 2
"""For a block with a sample that isn't as it was written."""
SLOW_S = 10.0
TOLD_EVERY_S = 60.0
TOUCHED_EVERY_S = 60.0
IDLE_S = 5.0


@dataclass(slots=True)
class Held:
    """A block at hand."""

    block: Block
    view: memoryview | None
    """Of a file of the cache, or of memory; None where the block is too large for either."""
    touched_s: float = field(default_factory=lambda: time.monotonic())
    was_used: bool = False

    @property
    def cost_bytes(self) -> int:
        # A small one, too, has an open file.
        return max(len(self.view or b""), BLOCK_BYTES)


@dataclass(slots=True)
class _Job:
    key: Hashable
    block: Callable[[], Block]
    is_ahead: bool
    future: concurrent.futures.Future[Held] = field(default_factory=concurrent.futures.Future)


class BlockReader:
    """The blocks of one set, under any keys. Safe to use from several threads; travels to other processes empty."""

    def __init__(self, store: Store, cache: BlockCache | None) -> None:
        self.store = store
        self.cache = cache
        self._changed = threading.Condition()
        self._held: OrderedDict[Hashable, Held] = OrderedDict()
        self._held_bytes = 0
        self._jobs: dict[Hashable, _Job] = {}
        self._needed: deque[_Job] = deque()
        self._ahead: OrderedDict[Hashable, _Job] = OrderedDict()
        self._threads = self._idle = 0
        self._told_s = -TOLD_EVERY_S

    @property
    def is_shared(self) -> bool:
        """Whether other processes find what this one has fetched."""
        return self.cache is not None and self.cache.is_on

    def sample(self, key: Hashable, block: Callable[[], Block], number: int) -> memoryview:
        """The bytes of sample ``number`` of a block that ``block()`` tells of, waited for; their hash is that of the
        index unless they are not so in the store. Raises what the store raises."""
        held = self._get(key, block)
        start, stop = held.block.places[number]
        if held.view is None:
            return memoryview(self.store.read_range(held.block.tar, held.block.offsets[number], stop - start))
        return held.view[start:stop]

    def _get(self, key: Hashable, block: Callable[[], Block]) -> Held:
        with self._changed:
            held = self._held.get(key)
            if held is not None:
                self._use(key, held)
                return held
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(key, block, is_ahead=False)
                self._needed.append(job)
                self._call_thread()
            elif self._ahead.pop(key, None):
                self._needed.append(job)
            job.is_ahead = False
        if not concurrent.futures.wait([job.future], SLOW_S).done:
            self._tell_slow()
        return job.future.result()

    def prefetch(self, key: Hashable, block: Callable[[], Block]) -> bool:
        """Fetch a block soon, if it is not at hand; False where enough are on their way, and it is to be asked for
        again later. What goes wrong shows when the block is needed and fetched again."""
        with self._changed:
            if key in self._held or key in self._jobs:
                return True
            on_their_way = sum(job.is_ahead for job in self._jobs.values())
            if on_their_way + sum(not held.was_used for held in self._held.values()) >= AHEAD_BLOCKS:
                return False
            self._jobs[key] = self._ahead[key] = _Job(key, block, is_ahead=True)
            self._call_thread()
        return True

    def note_used(self, key: Hashable) -> None:
        """Another process has read a block that was fetched ahead for it, or fetched it itself: so others may be."""
        with self._changed:
            if self._ahead.pop(key, None):
                del self._jobs[key]
            elif job := self._jobs.get(key):
                job.is_ahead = False
            elif held := self._held.get(key):
                self._use(key, held)

    def close(self) -> None:
        """Let go of everything; what is being fetched is not waited for."""
        with self._changed:
            for job in (*self._needed, *self._ahead.values()):
                job.future.cancel()
                del self._jobs[job.key]
            self._needed.clear()
            self._ahead.clear()
            self._held.clear()
            self._held_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockReader, (self.store, self.cache)

    def _use(self, key: Hashable, held: Held) -> None:
        self._held.move_to_end(key)
        held.was_used = True
        now = time.monotonic()
        if self.cache and now - held.touched_s > TOUCHED_EVERY_S:
            held.touched_s = now
            self.cache.touch(held.block.name)

    def _keep(self, key: Hashable, held: Held, *, was_used: bool) -> None:
        held.was_used = was_used
        self._held[key] = held
        self._held_bytes += held.cost_bytes
        while self._held_bytes > HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= self._held.popitem(last=False)[1].cost_bytes

    def _call_thread(self) -> None:
        if len(self._needed) + len(self._ahead) > self._idle and self._threads < THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="block", daemon=True).start()
        self._changed.notify()

    def _work(self) -> None:
        while job := self._next():
            try:
                held = self._bring(job.block())
            except BaseException as error:
                with self._changed:
                    del self._jobs[job.key]
                job.future.set_exception(error)
            else:
                with self._changed:
                    del self._jobs[job.key]
                    self._keep(job.key, held, was_used=not job.is_ahead)
                job.future.set_result(held)

    def _next(self) -> _Job | None:
        """What is to be done now; None where nothing was for a while, and the thread ends."""
        with self._changed:
            while True:
                if self._needed:
                    return self._needed.popleft()
                if self._ahead:
                    return self._ahead.popitem(last=False)[1]
                self._idle += 1
                was_called = self._changed.wait(IDLE_S)
                self._idle -= 1
                if not was_called and not self._needed and not self._ahead:
                    self._threads -= 1
                    return None

    def _bring(self, block: Block) -> Held:
        if block.is_large:
            return Held(block, None)
        if self.cache is None:
            return Held(block, memoryview(self._fetch(block)))
        view = self._cached(block)
        if view is None:
            with self.cache.claim(block.name):
                view = self._cached(block)  # another process may have been at it
                if view is None:
                    data = self._fetch(block)
                    if block.is_whole(data):
                        self.cache.add(block.name, data)
                        view = self._cached(block)
                    view = memoryview(data) if view is None else view
        return Held(block, view)

    def _cached(self, block: Block) -> memoryview | None:
        assert self.cache is not None
        view = self.cache.find(block.name, block.length_bytes)
        if view is not None and not block.is_whole(view):
            self.cache.discard(block.name)
            return None
        return view

    def _fetch(self, block: Block) -> bytes:
        """Fetched again where a sample is not as it was written; if it isn't then, whoever reads that one says so."""
        for _ in range(TRIES):
            data = block.pack(
                [self.store.read_range(block.tar, start, stop - start) for start, stop in block.ranges]
            )
            if block.is_whole(data):
                break
        return data

    def _tell_slow(self) -> None:
        with self._changed:
            now = time.monotonic()
            is_due = now - self._told_s >= TOLD_EVERY_S
            self._told_s = now if is_due else self._told_s
        if is_due:
            say(
                f"note: {self.store}: waiting for images for {SLOW_S:.0f} s now: it is slow, busy or out of reach; "
                "still asking"
            )
