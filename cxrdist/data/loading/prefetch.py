"""Reads batches ahead in a thread, and has all ranks agree on each batch before any of them uses it.

    thread:   read batch k -> all ranks: did any rank fail? -> start its copy to the device -> queue
    caller:   queue -> batch k on the device, or the error that all ranks raise at step k

At most ``ahead`` batches are in the queue.

If one rank raised alone, the others would wait for it in the next gradient sync. So the ranks first exchange
failures, on a process group that carries no gradients, and all of them raise the same error at the same step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
import torch

from cxrdist import logs
from cxrdist.data.loading.buffers import Buffers, InUseArrays
from cxrdist.data.loading.config import ALONE, LoaderConfig, Peers
from cxrdist.data.loading.decode_pool import DecodePool
from cxrdist.data.loading.device import CPU, DeviceCache, DeviceCopies, uses_cache
from cxrdist.data.loading.gather import Gather, Substitution
from cxrdist.data.loading.stream import Batch, Stream
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.data.shards.stratum import CorruptSample
from cxrdist.errors import UserError

log = logging.getLogger(__name__)

HELD_BATCHES = 3
"""The batch that is being read, the one that the caller uses, and the one before, which it may still reference."""

Read = tuple[torch.Tensor, np.ndarray, list[Substitution]]
"""Pixels [b, 1, H, W] uint8, keys [b] S40, substitutions."""

Copied = tuple[Batch, torch.cuda.Event | None]
"""Of ``DeviceCopies.start``."""


def read_ahead(
    stream: Stream,
    start: int,
    stop: int,
    config: LoaderConfig | None = None,
    *,
    peers: Peers = ALONE,
    device: torch.device = CPU,
    substituted: int = 0,
) -> ReadAhead:
    """The batches of steps [start, stop) of a stream on ``device``, read ahead; use it in a ``with`` block.
    ``substituted``: number of samples that the run substituted before ``start``, on all ranks."""
    config = config or LoaderConfig()
    is_encoded = any(reader.encoding != "npy" for reader in stream.readers)
    workers = config.workers if config.workers is not None else peers.spare_cores if is_encoded else 0
    return ReadAhead(
        stream, range(start, stop), config, peers, device=device, workers=workers, substituted=substituted
    )


class ReadAhead(Iterator[Batch]):
    """Iterator over the batches of some steps of a stream.

    ``waited_s``: seconds that the caller has waited for batches. ``substituted``: number of samples that were
    substituted on all ranks since the run began, in the batches returned so far. Iterating raises UserError, on all
    ranks at the same step, for a corrupt sample, or for more substitutions than allowed.
    """

    def __init__(
        self,
        stream: Stream,
        steps: range,
        config: LoaderConfig,
        peers: Peers,
        *,
        device: torch.device = CPU,
        workers: int = 0,
        substituted: int = 0,
    ) -> None:
        self.stream, self.config, self.peers, self.workers = stream, config, peers, workers
        self._copies = DeviceCopies(device)
        self.start, self.stop = steps.start, steps.stop
        self.waited_s = 0.0
        self.substituted = substituted
        self._ready: queue.SimpleQueue[tuple[Copied, int] | BaseException] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._given = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> Batch:
        if self.start + self._given >= self.stop:
            raise StopIteration
        if self._is_closing:
            raise ValueError("next() was called after the end of the with block")
        began_s = time.perf_counter()
        found = self._ready.get()
        self.waited_s += time.perf_counter() - began_s
        if isinstance(found, BaseException):
            self._ready.put(found)  # the thread has ended: another call must raise too, not wait
            raise found
        with self._changed:
            self._given += 1
            self._changed.notify()
        copied, self.substituted = found
        return self._copies.finish(*copied)

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
            with self._copies.current(), self._source() as source:
                substituted = self.substituted
                for step in range(self.start, self.stop):
                    if not self._may_read(step):
                        return
                    read, substituted = self._agreed(source, step, substituted)
                    self._ready.put((self._copies.start(self.stream.as_batch(step, *read)), substituted))
        except BaseException as error:
            self._ready.put(error)

    def _source(self) -> _Source:
        steps = range(self.start, self.stop)
        if uses_cache(self.stream, steps, self.config, self._copies.device):
            return _InCache(self.stream, self._copies, self.workers)
        if self.workers:
            return _InPool(self.stream, self.stop, self.config, self.workers)
        return _InThread(self.stream, self.stop, self.config)

    def _may_read(self, step: int) -> bool:
        """Wait until a step is within ``ahead`` of the caller; False if the caller leaves before. Steps that are near
        enough then are still read: the other ranks read them too, and all ranks must agree on the same batches."""
        with self._changed:
            self._changed.wait_for(
                lambda: step < self.start + self._given + self.config.ahead or self._is_closing
            )
            return step < self.start + self._given + self.config.ahead

    def _agreed(self, source: _Source, step: int, substituted: int) -> tuple[Read, int]:
        """Read this rank's part of a step. Returns it, and the number of substitutions of all ranks so far, once
        every rank has read its part."""
        read: Read | None = None
        failed: Exception | None = None
        try:
            read = source.read(step)
        except Exception as error:
            failed = error
        mine = len(read[2]) if read else 0
        failures, more = self.peers.total([failed is not None, mine])
        if failures:
            message = self.peers.first(None if failed is None else message_to_ranks(failed))
            if failed is not None and not isinstance(failed, UserError):
                raise failed
            raise UserError(message)
        assert read is not None
        for substitution in read[2]:
            log.warning(
                "%s; another sample of its class replaces it", substitution.message, extra=logs.EVERY_RANK
            )
        if substituted + more > self.config.most_substitutes:
            raise UserError(
                f"{substituted + more} samples were substituted, more than --loader.most-substitutes "
                f"{self.config.most_substitutes}: `cxrdist shards verify` lists what is wrong with the set"
            )
        return read, substituted + more


def message_to_ranks(error: Exception) -> str:
    """The message with which all ranks raise one rank's failure."""
    if isinstance(error, CorruptSample):
        return f"{error}; --loader.on-corrupt substitute uses another sample of its class instead"
    return str(error) if isinstance(error, UserError) else repr(error)


class _Source(Protocol):
    def read(self, step: int) -> Read: ...

    def __enter__(self) -> _Source: ...

    def __exit__(self, *error: object) -> None: ...


class _InThread:
    """Reads and decodes in the calling thread."""

    def __init__(self, stream: Stream, stop: int, config: LoaderConfig) -> None:
        self.stream, self.stop = stream, stop
        self._gather = Gather(stream.readers, config.on_corrupt, stream.samples_in_use)
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
    """Reads and decodes in worker processes, a batch each, into memory that they share with this process: the batch
    that is returned is the memory that a worker filled."""

    def __init__(self, stream: Stream, stop: int, config: LoaderConfig, workers: int) -> None:
        self.stream, self.stop = stream, stop
        self._ahead = workers + config.ahead
        self._submitted = -1
        self._gather = Gather(stream.readers)
        # Blocks that this process fetches reach the workers only through the cache on disk.
        self._shares_blocks = any(r.blocks is not None and r.blocks.is_shared for r in stream.readers)
        self._buffers = Buffers(stream.shape, config.ahead + HELD_BATCHES)
        self._in_use = InUseArrays(config.ahead + HELD_BATCHES)
        self._pool = DecodePool(
            stream.readers,
            workers=workers,
            batch=stream.per_rank,
            slots=self._ahead + self._in_use.limit,
            on_corrupt=config.on_corrupt,
            samples_in_use=stream.samples_in_use,
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
        if self._in_use.is_full or torch.cuda.is_available():  # copies from pinned memory are faster
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


class _InCache:
    """Takes batches from images that lie on the device."""

    def __init__(self, stream: Stream, copies: DeviceCopies, workers: int) -> None:
        self.stream, self.copies, self.workers = stream, copies, workers
        self._cache: DeviceCache | None = None

    def read(self, step: int) -> Read:
        # Filled here, not in the constructor, so that all ranks raise if it fails on one.
        if self._cache is None:
            self._cache = DeviceCache(self.stream, self.copies, workers=self.workers)
        return self._cache.take(*self.stream.planned(step)), self.stream.keys(step), []

    def __enter__(self) -> _InCache:
        return self

    def __exit__(self, *error: object) -> None:
        pass
