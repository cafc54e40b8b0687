"""The samples of a mix as batches of uint8, each rank its own part.

    Order (positions -> stratum, sample)
      -> this rank's part of global batch k
        -> Gather: bytes at known offsets, hashes checked, decoded into one uint8 array [b, 1, H, W]
          -> ReadAhead: the next batches are read while this one is worked on; all ranks agree that each is right

Nothing here iterates over what is not asked for: batch k costs the same at any k, so resuming is asking for
another k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from cxrdist.data.loading.gather import Gather, Substitution
from cxrdist.data.mix.order import Order, StratumQuota, part_of_batch
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.schema import KEY_DTYPE
from cxrdist.data.shards.shard_set import ShardSet, StratumReader
from cxrdist.data.storage.blocks import block_rows_of
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes
from cxrdist.seeds import permutation

ORDER_VERSION = 2
PLANNED_POSITIONS = 4096
PREFETCHED_EVERY = 4


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch."""

    pixels: torch.Tensor  # [b, 1, H, W] uint8
    labels: torch.Tensor  # [b] int64
    keys: np.ndarray  # [b] S40
    strata: np.ndarray  # [b] int64: which of the stream's strata
    samples: np.ndarray  # [b] int64: which sample of its stratum
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
        self.strata: list[tuple[str, str]] = []
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
                self.readers.append(reader)
                self.strata.append((class_name, origin))
                strata.append(
                    StratumQuota(
                        Stratum("train", class_name, origin).stem,
                        first_samples(reader.shard_samples, limit),
                        quota,
                        block_rows_of(reader.entry["bytes"], reader.samples),
                    )
                )
        self.order = Order(tuple(strata), seed=seed, batch=batch)
        for reader, cycles in zip(self.readers, self.order.cycles):
            reader.block_rows = cycles.chunk_samples
        self.has_remote = any(reader.blocks is not None for reader in self.readers)
        self.labels = np.array([real.classes.index(name) for name, _ in self.strata])
        self.image_size = real.image_size
        self.plan = {
            "order": order_version(),
            "sets": sha256_of([s.digest for s in (real, synthetic) if s is not None]),
            "mix": sha256_of([[s.name, s.samples, s.quota] for s in strata]),
            "batch": batch,
            "seed": seed,
        }
        # Worked out for several steps at once, which costs little more than for one.
        self.planned_steps = max(1, PLANNED_POSITIONS // batch)
        self._window = lru_cache(maxsize=4)(self._planned_window)
        self.taking = [stratum.samples for stratum in strata]
        self._gather = Gather(self.readers, taking=self.taking)

    @property
    def epoch_images(self) -> int:
        return self.order.epoch_images

    @property
    def per_rank(self) -> int:
        """Samples of a batch that this rank reads."""
        return len(range(*self.part.indices(self.batch)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[b, 1, H, W]."""
        return self.per_rank, 1, self.image_size, self.image_size

    def positions(self, step: int) -> range:
        """This rank's positions of global batch ``step``."""
        first = step * self.batch
        return range(first + self.part.start, first + self.batch, self.part.step)

    def planned(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Stratum and sample [b] int64 at this rank's positions of global batch ``step``."""
        window, at = divmod(step, self.planned_steps)
        strata, samples = self._window(window)
        mine = slice(at * self.per_rank, (at + 1) * self.per_rank)
        return strata[mine], samples[mine]

    def _planned_window(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        first, last = (n * self.planned_steps * self.batch for n in (window, window + 1))
        return self.order.at(range(first + self.part.start, last, self.part.step))

    def prefetch(self, step: int, stop: int) -> None:
        """Have what the steps after ``step`` need of remote sets fetched, as far as they are planned together."""
        if self.has_remote and step % PREFETCHED_EVERY == 0:
            for later in range(step, min(step + max(self.planned_steps, PREFETCHED_EVERY), stop)):
                self._gather.prefetch(*self.planned(later))

    def keys(self, step: int) -> np.ndarray:
        """Keys [b] S40 at this rank's positions of global batch ``step``; no image is read."""
        return self._gather.keys(*self.planned(step))

    def read(self, step: int) -> Batch:
        """This rank's part of global batch ``step``. Raises UserError for a corrupt sample, naming it."""
        strata, samples = self.planned(step)
        pixels = torch.empty(self.shape, dtype=torch.uint8)
        keys = np.empty(self.per_rank, KEY_DTYPE)
        return self.as_batch(step, pixels, keys, self._gather.fill(strata, samples, pixels.numpy(), keys))

    def as_batch(
        self, step: int, pixels: torch.Tensor, keys: np.ndarray, substitutions: Sequence[Substitution]
    ) -> Batch:
        """What was read for a step, with what the order says of it."""
        strata, samples = self.planned(step)
        samples = samples.copy()
        for substitution in substitutions:
            samples[substitution.row] = substitution.instead
        return Batch(
            pixels,
            torch.from_numpy(self.labels[strata]),
            keys,
            strata,
            samples,
            self.positions(step),
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where a run stands: the next step, and the digests of the plan that the step counts in."""
        return {"step": step, **self.plan, "plan_sha256": sha256_of(self.plan)}

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """The step to go on at. Raises UserError where the state belongs to another plan, and says what differs."""
        if state.get("plan_sha256") == sha256_of(self.plan):
            return int(state["step"])
        batch, seed = state.get("batch"), state.get("seed")
        why, remedy = next(
            (why, remedy)
            for key, why, remedy in (
                (
                    "order",
                    "by another version (of cxrdist or numpy), whose order was another",
                    "start it with that version",
                ),
                (
                    "sets",
                    "on other shard sets, or they were changed",
                    "give the old --shards and --synthetic",
                ),
                ("mix", "on another mix: its quotas or its images differ", "give the old --mix"),
                ("batch", f"with a global batch of {batch}, now {self.batch}", f"give --batch {batch}"),
                ("seed", f"with another seed of the order ({seed})", "give the old --seed"),
                ("plan_sha256", "by a checkpoint that does not fit itself", "restore it from a copy"),
            )
            if key == "plan_sha256" or state.get(key) != self.plan[key]
        )
        raise UserError(f"this run was started {why}: {remedy}, or name another --run")


def first_samples(shard_samples: np.ndarray, limit: int | None) -> np.ndarray:
    """Samples of each shard [shards] of which the first ``limit`` of all take part."""
    if limit is None:
        return shard_samples
    before = np.cumsum(shard_samples) - shard_samples
    return np.clip(limit - before, 0, shard_samples)


@cache
def order_version() -> str:
    """Of this code, and of numpy's algorithm: another one of either gives another order."""
    return f"{ORDER_VERSION}-{sha256_of(permutation(0, 'order', length=1000).tolist())[:8]}"


def sha256_of(value: Any) -> str:
    return sha256_bytes(canonical_json(value))
