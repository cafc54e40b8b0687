"""Batch memory that is reused once no tensor references it any more."""

from __future__ import annotations

import sys

import numpy as np
import torch


class InUseArrays:
    """Arrays that were handed out as tensors and are still referenced, at most ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._arrays: dict[int, np.ndarray] = {}
        self._own_references: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        return len(self._arrays) == self.limit

    def hand_out(self, ticket: int, array: np.ndarray) -> torch.Tensor:
        """The array as a tensor that shares its memory; ``ticket`` identifies it in ``released``."""
        # A view, so that only this object and the tensor hold references to it.
        self._arrays[ticket] = array.view()
        self._own_references[ticket] = self._references(ticket)
        return torch.from_numpy(self._arrays[ticket])

    def released(self) -> list[int]:
        """Tickets of the arrays whose tensors are gone; each is returned once."""
        back = [t for t in self._arrays if self._references(t) == self._own_references[t]]
        for ticket in back:
            del self._arrays[ticket], self._own_references[ticket]
        return back

    def _references(self, ticket: int) -> int:
        return sys.getrefcount(self._arrays[ticket])


class Buffers:
    """Batch buffers, reused once their tensors are gone: the kernel zeroes every page of a new allocation, which
    takes as long as filling it. On GPU machines the memory is pinned, and torch's own allocator reuses it."""

    def __init__(self, shape: tuple[int, ...], limit: int) -> None:
        self.shape = shape
        self._in_use = InUseArrays(limit)
        self._free: list[np.ndarray] = []
        self._taken: dict[int, np.ndarray] = {}

    def take(self) -> torch.Tensor:
        """[b, 1, H, W] uint8, uninitialised."""
        if torch.cuda.is_available():
            return torch.empty(self.shape, dtype=torch.uint8, pin_memory=True)
        self._free += [self._taken.pop(ticket) for ticket in self._in_use.released()]
        buffer = self._free.pop() if self._free else np.empty(self.shape, np.uint8)
        if self._in_use.is_full:
            return torch.from_numpy(buffer)
        ticket = id(buffer)
        self._taken[ticket] = buffer
        return self._in_use.hand_out(ticket, buffer)
