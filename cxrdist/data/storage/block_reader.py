"""Reads blocks of a remote set: a few threads fetch blocks ahead while others are in use.

    sample(block, number) -> is the block in memory?
                               else is it in the cache on disk? map it
                                 else one ranged read, every sample's hash checked, added to the cache, mapped
    prefetch(block)       -> the same, by the same threads, without waiting

The threads are daemons, so the process does not wait for them at its end; a block that they add to the cache is
complete or absent.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from cxrdist.data.storage.block_cache import BlockCache
from cxrdist.data.storage.blocks import BLOCK_BYTES, Block
from cxrdist.data.storage.store import Store

log = logging.getLogger(__name__)

THREADS = 8
AHEAD_BLOCKS = 64
"""Most blocks that may be prefetched, or on their way, and not used yet."""
HELD_BYTES = 2**30
"""Limit of the blocks that a process holds. They are mapped from the cache on disk; without a cache they use
memory."""
TRIES = 2
"""Times that a block is fetched if a sample's hash is wrong."""
SLOW_S = 10.0
WARN_EVERY_S = 60.0
TOUCH_EVERY_S = 60.0
IDLE_S = 5.0


@dataclass(slots=True)
class Held:
    """A block in memory."""

    block: Block
    view: memoryview | None
    """The block's bytes, in a mapped file of the cache or in memory; None if the block is too large for either."""
    touched_s: float = field(default_factory=lambda: time.monotonic())
    was_used: bool = False

    @property
    def cost_bytes(self) -> int:
        # A small block counts as a full one: it has an open file as well.
        return max(len(self.view or b""), BLOCK_BYTES)


@dataclass(slots=True)
class _Job:
    key: Hashable
    block: Callable[[], Block]
    is_ahead: bool
    future: concurrent.futures.Future[Held] = field(default_factory=concurrent.futures.Future)


class BlockReader:
    """Reads and holds the blocks of one set, under keys that the caller chooses.

    Thread-safe. A pickled reader holds no blocks. Each method takes ``block``, a function that returns the block of a
    key: it may read an index, so a thread of the reader calls it.
    """

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
        self._warned_s = -WARN_EVERY_S

    @property
    def is_shared(self) -> bool:
        """True if other processes can use the blocks that this one fetches."""
        return self.cache is not None and self.cache.is_on

    def sample(self, key: Hashable, block: Callable[[], Block], number: int) -> memoryview:
        """Wait for a block, and return the bytes of its sample ``number``. They had the hash of the index when the
        block was read, unless the store itself has other bytes. Raises what the store raises."""
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
            self._warn_slow()
        return job.future.result()

    def prefetch(self, key: Hashable, block: Callable[[], Block]) -> bool:
        """Start to fetch a block that is not in memory. Returns False, without fetching it, if enough blocks are on
        their way: call it again later. An error is raised by ``sample``, which fetches the block again."""
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
        """Record that another process has read a block: it no longer counts as prefetched and unused, so that others
        can be prefetched."""
        with self._changed:
            if self._ahead.pop(key, None):
                del self._jobs[key]
            elif job := self._jobs.get(key):
                job.is_ahead = False
            elif held := self._held.get(key):
                self._use(key, held)

    def forget(self, key: Hashable) -> None:
        """Release a block, so that it is read again, and checked, when it is needed next."""
        with self._changed:
            if held := self._held.pop(key, None):
                self._held_bytes -= held.cost_bytes

    def close(self) -> None:
        """Release all blocks and cancel waiting fetches. Running fetches are not waited for."""
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
        if self.cache and now - held.touched_s > TOUCH_EVERY_S:
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
                held = self._load(job.block())
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
        """Wait for the next job; None if there was none for ``IDLE_S``: the thread then ends."""
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

    def _load(self, block: Block) -> Held:
        """The block from the cache on disk, else from the store."""
        if block.is_large:
            return Held(block, None)
        if self.cache is None:
            return Held(block, memoryview(self._fetch(block)))
        view = self._cached(block)
        if view is None:
            with self.cache.claim(block.name):
                view = self._cached(block)  # another process may have fetched it meanwhile
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
        """Fetch a block, and once more if a sample's hash is wrong. If it is wrong again, the reader of that sample
        raises the error."""
        for _ in range(TRIES):
            data = block.pack(
                [self.store.read_range(block.tar, start, stop - start) for start, stop in block.ranges]
            )
            if block.is_whole(data):
                break
        return data

    def _warn_slow(self) -> None:
        with self._changed:
            now = time.monotonic()
            is_due = now - self._warned_s >= WARN_EVERY_S
            self._warned_s = now if is_due else self._warned_s
        if is_due:
            log.warning(
                "%s: has not sent images for %.0f s: it is slow, busy or unreachable; still trying",
                self.store,
                SLOW_S,
            )
