"""Batches on the device that trains: copied while earlier ones are in use, or taken from a set that lies there as a
whole.

On a GPU the copies run on a stream of their own, from pinned memory, so neither the host nor a training step waits
for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.decode_pool import DecodePool
from cxrdist.data.loading.gather import Gather
from cxrdist.data.loading.stream import Batch, Stream
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.errors import UserError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CACHED_PART = 0.1
"""The part of the device's free memory that the images of ``--loader.device-cache auto`` may take: activations come
later."""
CHUNK_BYTES = 2**25
"""Images that are read and copied at once into a cache."""


class DeviceCopies:
    """Copies batches to a device. ``start`` is called by the thread that reads, ``finish`` by the one that trains."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _copy_stream(device) if device.type == "cuda" else None
        self.device = device if self._stream is None else self._stream.device  # with its index

    def current(self) -> contextlib.AbstractContextManager[object]:
        """A thread that works on the device runs in this block: its current device is at first GPU 0, on which it
        would otherwise make a context of half a GiB."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.device(self.device)

    def ahead(self) -> contextlib.AbstractContextManager[object]:
        """Work on the device inside this block runs beside that of the training."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        """The batch on the device, and the event after which its tensors are complete."""
        with self.ahead():
            copied = replace(
                batch,
                pixels=batch.pixels.to(self.device, non_blocking=True),
                labels=batch.labels.to(self.device, non_blocking=True),
            )
            return copied, None if self._stream is None else self._stream.record_event()

    def finish(self, batch: Batch, copied: torch.cuda.Event | None) -> Batch:
        """The batch of ``start``, for use in the caller's current stream, which waits for the copy; the host does
        not."""
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            for tensor in (batch.pixels, batch.labels):
                tensor.record_stream(current)  # else the memory could be given to a later copy too early
        return batch


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trainings of a process: memory that is freed belongs to its stream."""
    return torch.cuda.Stream(device)


class DeviceCache:
    """All images that a stream uses, on a device as uint8. Filling it checks the hash of each image.

    Raises UserError for a corrupt sample, naming it, or if the images do not fit.
    """

    def __init__(self, stream: Stream, copies: DeviceCopies, *, workers: int = 0) -> None:
        self.copies = copies
        counts = np.array(stream.samples_in_use, np.int64)
        self._first = np.cumsum(counts) - counts  # [strata] int64: the row of each stratum's first sample
        log.info("keeping %d images on the device (%.0f MiB)", counts.sum(), stream.bytes_in_use / 2**20)
        shape = (int(counts.sum()), 1, stream.image_size, stream.image_size)
        with copies.ahead():
            try:
                self.images = torch.empty(shape, dtype=torch.uint8, device=copies.device)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{counts.sum():,} images take {stream.bytes_in_use / 2**30:.1f} GiB, and the device has no "
                    "such room left: use --loader.device-cache off"
                ) from None
            for first, pixels in _chunks(stream, workers):
                self.images[first : first + len(pixels)].copy_(pixels, non_blocking=True)

    def take(self, strata: np.ndarray, samples: np.ndarray) -> torch.Tensor:
        """Stratum and sample [b] int64 each -> pixels [b, 1, H, W] uint8 on the device."""
        rows = torch.from_numpy(self._first[strata] + samples)
        if self.copies.device.type == "cuda":
            rows = rows.pin_memory()
        with self.copies.ahead():
            return self.images.index_select(0, rows.to(self.copies.device, non_blocking=True))


def _chunks(stream: Stream, workers: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The images that a stream uses, in the order of strata and samples: number of the first, and pixels
    [n, 1, H, W] uint8, pinned on machines with a GPU. ``workers`` processes decode encoded images."""
    counts = stream.samples_in_use
    strata = np.repeat(np.arange(len(counts)), counts)
    samples = np.concatenate([np.arange(count) for count in counts])
    size = CHUNK_BYTES // stream.image_size**2
    if workers:  # enough chunks to share
        size = min(size, -(-len(strata) // (4 * workers)))
    size = max(1, size)
    chunks = [slice(first, first + size) for first in range(0, len(strata), size)]

    def empty(chunk: slice) -> torch.Tensor:
        shape = (len(strata[chunk]), 1, stream.image_size, stream.image_size)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())

    if not workers:
        gather = Gather(stream.readers)
        for chunk in chunks:
            pixels = empty(chunk)
            keys = np.empty(len(pixels), KEY_DTYPE)
            gather.fill(strata[chunk], samples[chunk], pixels.numpy(), keys)
            yield chunk.start, pixels
        return
    pool = DecodePool(stream.readers, workers=workers, batch=size, slots=workers)
    submitted = 0
    try:
        for number, chunk in enumerate(chunks):
            for ahead in chunks[submitted : number + workers]:
                pool.submit(submitted, strata[ahead], samples[ahead])
                submitted += 1
            found, _, _ = pool.result(number)
            pixels = empty(chunk)
            pixels.numpy()[:] = found
            pool.free(number)
            yield chunk.start, pixels
    finally:
        pool.close()


def uses_cache(stream: Stream, steps: range, config: LoaderConfig, device: torch.device) -> bool:
    """Whether the images of these steps are taken from a cache on the device. ``auto``: on a GPU, if they fit well
    and filling the cache reads no more images than the steps do."""
    if config.device_cache != "auto":
        return config.device_cache == "on"
    free_bytes = free_memory_bytes(device)
    return (
        free_bytes is not None
        and config.on_corrupt == "raise"
        and not stream.has_remote  # those are fetched in the order of the training
        and stream.bytes_in_use <= CACHED_PART * free_bytes
        and sum(stream.samples_in_use) <= len(steps) * stream.per_rank
    )


def free_memory_bytes(device: torch.device) -> int | None:
    """Of a GPU, with what torch holds but does not use; None for the CPU, where images are in the page cache."""
    if device.type != "cuda":
        return None
    unused_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused_bytes
