"""What a process of ``loader.py`` receives, and how it is measured, in whichever environment it runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

BATCH = 128
WARM_S = 0.6
MEASURED_S = 1.8

Epochs = Iterator[Iterable[torch.Tensor]]
"""Epoch after epoch of batches, [b, 1, H, W] uint8."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of one system."""

    system: str
    variant: str
    """How it is used, where there is more than one way."""
    folder: str
    """As ``loader_sets.py`` makes it."""
    encoding: str
    images: int
    """Of an epoch."""
    size: int
    workers: int
    measure: str
    """``speed``, ``first_batch`` or ``epoch``."""

    @property
    def is_one_epoch(self) -> bool:
        return self.measure == "epoch"


class Checksum:
    """Images, and the sum of their hashes: the same in any order, another one if any pixel differs or an image came
    too often."""

    def __init__(self) -> None:
        self.images = 0
        self.xxh3_sum = 0

    def saw(self, pixels: np.ndarray) -> None:
        """``pixels`` [b, H, W] or [b, 1, H, W] uint8."""
        self.images += len(pixels)
        for image in pixels:
            self.xxh3_sum = (self.xxh3_sum + xxhash.xxh3_64_intdigest(image.tobytes())) % 2**64

    def report(self) -> dict[str, int]:
        return {"images": self.images, "xxh3_sum": self.xxh3_sum}


def measured(side: Side, epochs: Epochs, began: float) -> dict[str, float]:
    """What ``side.measure`` asks for; the system was ready to be set up at ``began`` (perf_counter)."""
    if side.is_one_epoch:
        checksum = Checksum()
        for batch in next(epochs):
            _check_form(batch, side)
            checksum.saw(batch.numpy())
        return dict(checksum.report())
    first_batch_s = 0.0
    images, seconds = 0, 0.0
    for epoch in epochs:
        last = 0.0
        for batch in epoch:
            now = time.perf_counter()
            _check_form(batch, side)
            if not first_batch_s:
                first_batch_s = now - began
                if side.measure == "first_batch":
                    return {"first_batch_s": first_batch_s}
            # Between two batches of one epoch: what a peer does between epochs counts for nothing.
            if last and now - began > first_batch_s + WARM_S:
                images, seconds = images + len(batch), seconds + now - last
                if seconds > MEASURED_S:
                    return {"img_s": images / seconds, "first_batch_s": first_batch_s}
            last = now
    raise AssertionError("epochs came to an end")


def _check_form(batch: torch.Tensor, side: Side) -> None:
    """Every batch is one that a training step could take as it is."""
    assert batch.dtype == torch.uint8 and batch.is_contiguous(), (batch.dtype, batch.stride())
    assert batch.shape[1:] == (1, side.size, side.size) and len(batch) <= BATCH, batch.shape


def endlessly(loader: Iterable[torch.Tensor]) -> Epochs:
    """A loader that is iterated anew for each epoch."""
    return (loader for _ in itertools.count())
