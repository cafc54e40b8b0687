"""Batches read ahead by a thread, and agreed upon by all ranks before any of them works on one.

    thread:   read batch k -> all ranks: did anyone fail? -> queue          (at most ``ahead`` of them)
    caller:   queue -> batch k, or the error that all ranks raise at step k

A rank that fails alone would leave the others waiting for it in the next gradient sync. Here it says so first, on a
channel that no gradient uses, and every rank raises the same error at the same step.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
import torch

from cxrdist.console import say
from cxrdist.data.loading.buffers import Buffers, InUseArrays
from cxrdist.data.loading.config import ALONE, LoaderConfig, Peers
from cxrdist.data.loading.decode_pool import DecodePool
from cxrdist.data.loading.gather import Gather, Substitution
from cxrdist.data.loading.stream import Batch, Stream
from cxrdist.data.shards.schema import KEY_DTYPE
from cxrdist.data.shards.shard_set import CorruptSample
from cxrdist.errors import UserError

HELD_BATCHES = 3
"""What is being read, what the caller works on, and the one before, which it may still have."""

Read = tuple[torch.Tensor, np.ndarray, list[Substitution]]


def read_ahead(
    stream: Stream,
    start: int,
    stop: int,
    config: LoaderConfig | None = None,
    *,
    peers: Peers = ALONE,
    substituted: int = 0,
) -> ReadAhead:
    """The batches of steps [start, stop) of a stream, read ahead; use it in a ``with`` block. ``substituted``: how
    many samples the run had substituted before ``start``."""
    config = config or LoaderConfig()
    is_encoded = any(reader.encoding != "npy" for reader in stream.readers)
    workers = config.workers if config.workers is not None else peers.spare_cores if is_encoded else 0
    return ReadAhead(stream, start, stop, config, peers, workers=workers, substituted=substituted)


class ReadAhead(Iterator[Batch]):
    """The batches of steps [start, stop) of a stream, one after the other.

    ``waited_s`` is how long the caller has waited for them; ``substituted`` how many samples of all ranks were
    substituted since the run began, in the batches given out. Raises UserError, on all ranks at the same step, for a
    corrupt sample, or for more substitutes than allowed.
    """

    def __init__(
        self,
        stream: Stream,
        start: int,
        stop: int,
        config: LoaderConfig,
        peers: Peers,
        *,
        workers: int = 0,
        substituted: int = 0,
    ) -> None:
        self.stream, self.config, self.peers, self.workers = stream, config, peers, workers
        self.start, self.stop = start, stop
        self.waited_s = 0.0
        self.substituted = substituted
        self._ready: queue.SimpleQueue[tuple[Batch, int] | BaseException] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._given = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> Batch:
        if self.start + self._given == self.stop:
            raise StopIteration
        if self._is_closing:
            raise ValueError("batches asked for after the end of their with block")
        began_s = time.perf_counter()
        found = self._ready.get()
        self.waited_s += time.perf_counter() - began_s
        if isinstance(found, BaseException):
            self._ready.put(found)  # nothing comes after it: who asks again must not wait
            raise found
        with self._changed:
            self._given += 1
            self._changed.notify()
        batch, self.substituted = found
        return batch

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        # After an error the other ranks may be gone, and the thread would wait for them.
        if error is None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._source() as source:
                substituted = self.substituted
                for step in range(self.start, self.stop):
                    if not self._may_read(step):
                        return
                    read, substituted = self._agreed(source, step, substituted)
                    self._ready.put((self.stream.as_batch(step, *read), substituted))
        except BaseException as error:
            self._ready.put(error)

    def _source(self) -> _Source:
        if self.workers:
            return _InPool(self.stream, self.stop, self.config, self.workers)
        return _InThread(self.stream, self.stop, self.config)

    def _may_read(self, step: int) -> bool:
        """Wait until a step is near enough. When the caller leaves, those that are near enough are still read: on the
        other ranks they are as well, and all have to agree on the same ones."""
        with self._changed:
            self._changed.wait_for(
                lambda: step < self.start + self._given + self.config.ahead or self._is_closing
            )
            return step < self.start + self._given + self.config.ahead

    def _agreed(self, source: _Source, step: int, substituted: int) -> tuple[Read, int]:
        """A step's batch and the substitutes of all ranks so far, once every rank has its part."""
        read: Read | None = None
        failed: Exception | None = None
        try:
            read = source.read(step)
        except Exception as error:
            failed = error
        mine = len(read[2]) if read else 0
        failures, more = self.peers.total([failed is not None, mine])
        if failures:
            message = self.peers.first(None if failed is None else told_of(failed))
            if failed is not None and not isinstance(failed, UserError):
                raise failed
            raise UserError(message)
        assert read is not None
        for substitution in read[2]:
            say(f"warning: {substitution.message}; another of its class takes its place", every_rank=True)
        if substituted + more > self.config.most_substitutes:
            raise UserError(
                f"{substituted + more} samples had to be substituted, more than --loader.most-substitutes "
                f"{self.config.most_substitutes}: `cxrdist shards verify` lists what is wrong with the set"
            )
        return read, substituted + more


def told_of(error: Exception) -> str:
    """What all ranks are told of one rank's failure."""
    if isinstance(error, CorruptSample):
        return f"{error}; --loader.on-corrupt substitute goes on with another of its class in its place"
    return str(error) if isinstance(error, UserError) else repr(error)


class _Source(Protocol):
    def read(self, step: int) -> Read: ...

    def __enter__(self) -> _Source: ...

    def __exit__(self, *error: object) -> None: ...


class _InThread:
    """Reads in the thread that asks."""

    def __init__(self, stream: Stream, stop: int, config: LoaderConfig) -> None:
        self.stream, self.stop = stream, stop
        self._gather = Gather(stream.readers, config.on_corrupt, stream.taking)
        self._buffers = Buffers(stream.shape, config.ahead + HELD_BATCHES)

    def read(self, step: int) -> Read:
        strata, samples = self.stream.planned(step)
        pixels, keys = self._buffers.take(), np.empty(len(strata), KEY_DTYPE)
        self.stream.prefetch(step, self.stop)
        return pixels, keys, self._gather.fill(strata, samples, pixels.numpy(), keys)

    def __enter__(self) -> _InThread:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _InPool:
    """Has worker processes read and decode, each a batch of its own, in memory that they share with this one: what
    they decode into is the batch that is given out."""

    def __init__(self, stream: Stream, stop: int, config: LoaderConfig, workers: int) -> None:
        self.stream, self.stop = stream, stop
        self._ahead = workers + config.ahead
        self._submitted = -1
        self._gather = Gather(stream.readers)
        # What is fetched here reaches the workers through the cache on disk alone.
        self._shares_blocks = any(r.blocks is not None and r.blocks.is_shared for r in stream.readers)
        self._buffers = Buffers(stream.shape, config.ahead + HELD_BATCHES)
        self._in_use = InUseArrays(config.ahead + HELD_BATCHES)
        self._pool = DecodePool(
            stream.readers,
            workers=workers,
            batch=stream.per_rank,
            slots=self._ahead + self._in_use.limit,
            on_corrupt=config.on_corrupt,
            taking=stream.taking,
        )

    def read(self, step: int) -> Read:
        for ticket in self._in_use.released():
            self._pool.free(ticket)
        for later in range(max(step, self._submitted + 1), min(step + self._ahead, self.stop)):
            if self._shares_blocks:
                self.stream.prefetch(later, self.stop)
            self._pool.submit(later, *self.stream.planned(later))
            self._submitted = later
        found, keys, substitutions = self._pool.result(step)
        if self._shares_blocks:
            self._gather.note_used(*self.stream.planned(step))
        if self._in_use.is_full or torch.cuda.is_available():  # where pinned memory is faster to copy from
            pixels = self._buffers.take()
            pixels.numpy()[:] = found
            self._pool.free(step)
        else:
            pixels = self._in_use.hand_out(step, found)
        return pixels, keys, substitutions

    def __enter__(self) -> _InPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()
