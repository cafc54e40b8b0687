"""A digest of the samples a run consumed, in their order: equal on any number of ranks, or a rank read other samples
than the order says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from cxrdist.data.loading.stream import Batch


class OrderDigest:
    """A running SHA-256 over the keys of the global batches that were consumed, in the order of their positions.

    Each rank records the keys that it read. ``flush`` gathers them from all ranks and chains one hash per batch, so
    the digest is the same for any number of ranks only if together they read the same samples. ``value``: the digest
    so far, in hexadecimal.
    """

    def __init__(self, value: str = "") -> None:
        self.value = value
        self._seen: list[np.ndarray] = []

    def saw(self, batch: Batch) -> None:
        self._seen.append(batch.keys)

    def flush(
        self, gather: Callable[[torch.Tensor], torch.Tensor], world_size: int, device: torch.device
    ) -> str:
        """Chain the batches seen since the last call, and return the digest. All ranks must call this at the same
        step; ``gather``: [n, ...] of this rank -> [world_size n, ...] of all ranks."""
        if self._seen:
            mine = np.stack(self._seen)  # [steps, b] S40
            raw = torch.from_numpy(mine.view(np.uint8).reshape(*mine.shape, -1).copy()).to(device)
            ranks = gather(raw).cpu().numpy().reshape(world_size, *raw.shape)
            # Rank r reads every world_size-th position, from the r-th on.
            steps = ranks.transpose(1, 2, 0, 3).reshape(len(self._seen), -1, raw.shape[-1])  # [steps, B, 40]
            for keys in np.ascontiguousarray(steps).view(mine.dtype)[..., 0]:
                self.value = hash_keys((bytes(k) for k in keys), bytes.fromhex(self.value)).hex()
            self._seen.clear()
        return self.value


def hash_keys(keys: Iterable[bytes], before: bytes = b"") -> bytes:
    """SHA-256 over ``before`` and then the keys, each ended by a newline."""
    digest = hashlib.sha256(before)
    for key in keys:
        digest.update(key + b"\n")
    return digest.digest()
