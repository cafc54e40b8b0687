"""The samples of a mix as batches of uint8, each rank its own part.

    Order (positions -> stratum, sample)
      -> this rank's part of global batch k
        -> StratumReader.image_bytes: one read at a known offset, hash checked
          -> decode -> one uint8 array [b, 1, H, W]

Nothing here iterates over what is not asked for: batch k costs the same at any k, so resuming is asking for
another k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cxrdist.data.manifest import Stratum
from cxrdist.data.order import Order, StratumQuota, part_of_batch
from cxrdist.data.shard_set import ShardSet, StratumReader, hash_keys
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch."""

    pixels: torch.Tensor  # [b, 1, H, W] uint8
    labels: torch.Tensor  # [b] int64
    keys: np.ndarray  # [b] S40
    positions: range
    """Positions of these samples in the endless order: what their random numbers are a function of."""


class Stream:
    """Batches of a mix over one real and perhaps one synthetic set, for one rank.

    ``limit`` caps how many samples of each stratum take part (the first ones in the set, which is a random
    choice since sets are ordered by hash).
    """

    def __init__(
        self,
        real: ShardSet,
        synthetic: ShardSet | None,
        quotas: Mapping[str, Mapping[str, int]],
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.part = part_of_batch(batch, rank, world_size)
        self.batch = batch
        self.readers: list[StratumReader] = []
        self.labels: list[int] = []
        strata: list[StratumQuota] = []
        for class_name, origins in quotas.items():
            for origin, quota in origins.items():
                if not quota:
                    continue
                source = real if origin == "real" else synthetic
                if source is None:
                    raise UserError(
                        f"the mix asks for {origin} images of {class_name}, but no such set is given"
                    )
                reader = source.stratum("train", class_name, origin)
                samples = min(reader.samples, limit or reader.samples)
                self.readers.append(reader)
                self.labels.append(real.classes.index(class_name))
                strata.append(StratumQuota(Stratum("train", class_name, origin).stem, samples, quota))
        self.order = Order(tuple(strata), seed)
        self.image_size = real.image_size
        self.plan = {
            "sets": [s.digest for s in (real, synthetic) if s is not None],
            "strata": [[s.name, s.samples, s.quota] for s in strata],
            "batch": batch,
            "seed": seed,
        }

    @property
    def epoch_images(self) -> int:
        return self.order.epoch_images

    def read(self, step: int) -> Batch:
        """This rank's part of global batch ``step``. Raises UserError for a corrupt sample, naming it."""
        first = step * self.batch
        positions = range(first + self.part.start, first + self.part.stop)
        try:
            strata, samples = self.order.at(positions.start, positions.stop)
        except MemoryError:
            planned = sum(stratum.samples for stratum in self.order.strata)
            raise UserError(
                f"{planned:,} samples, {self.epoch_images:,} an epoch, are too many for the memory of this machine: "
                "take a smaller set, or a mix that takes fewer"
            ) from None
        pixels = np.empty((len(positions), 1, self.image_size, self.image_size), np.uint8)
        keys = np.empty(len(positions), "S40")
        for i, (stratum, sample) in enumerate(zip(strata.tolist(), samples.tolist())):
            reader = self.readers[stratum]
            pixels[i, 0] = reader.pixels(sample)
            keys[i] = reader.key(sample)
        labels = torch.tensor([self.labels[s] for s in strata.tolist()])
        return Batch(torch.from_numpy(pixels), labels, keys, positions)

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where a run stands: the next step, and the digest of the plan that the step counts in."""
        return {"step": step, "plan_sha256": sha256_bytes(canonical_json(self.plan))}

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """The step to go on at. Raises UserError where the state belongs to another plan."""
        if state["plan_sha256"] != self.state_dict(0)["plan_sha256"]:
            raise UserError(
                "this run was started on another shard set, mix, seed or batch size, and cannot go on with "
                "these: give the old ones, or name another --run"
            )
        return state["step"]


class OrderDigest:
    """A running SHA-256 over the keys of the global batches really consumed, in the order of their positions.

    Each rank notes the keys that it read; now and then all ranks gather them and chain one hash per batch, so
    that the digest is the same for any number of ranks only if together they read the same samples.
    """

    def __init__(self, value: str = "") -> None:
        self.value = value
        self._seen: list[np.ndarray] = []

    def saw(self, batch: Batch) -> None:
        self._seen.append(batch.keys)

    def flush(
        self, gather: Callable[[torch.Tensor], torch.Tensor], world_size: int, device: torch.device
    ) -> str:
        """Chain what was seen since the last call; every rank calls this at the same step."""
        if self._seen:
            mine = np.stack(self._seen)  # [steps, b] S40
            raw = torch.from_numpy(mine.view(np.uint8).reshape(*mine.shape, -1).copy()).to(device)
            ranks = gather(raw).cpu().numpy().reshape(world_size, *raw.shape)
            steps = ranks.transpose(1, 0, 2, 3).reshape(len(self._seen), -1, raw.shape[-1])  # [steps, B, 40]
            for keys in np.ascontiguousarray(steps).view(mine.dtype)[..., 0]:
                self.value = hash_keys((bytes(k) for k in keys), bytes.fromhex(self.value)).hex()
            self._seen.clear()
        return self.value
