"""The samples of a mix as batches of uint8, each rank its own part.

    Order (positions -> stratum, sample)
      -> this rank's part of global batch k
        -> Gather: bytes at known offsets, hashes checked, decoded into one uint8 array [b, 1, H, W]
          -> ReadAhead: the next batches are read while this one is in use; all ranks agree on each batch

Batch k costs the same at any k, since nothing iterates over the batches before it. So resuming at step k is reading
batch k.
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
from cxrdist.data.shards.index import KEY_DTYPE
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.schema import UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
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
    strata: np.ndarray  # [b] int64: number of the stratum in ``Stream.strata``
    samples: np.ndarray  # [b] int64: number of the sample in its stratum
    positions: range
    """Positions of these samples in the endless order; their random numbers are functions of these."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The order of a stream, and which part of it a rank reads."""

    batch: int
    """Global batch size, over all ranks."""
    seed: int
    """Seed of the order."""
    rank: int = 0
    world_size: int = 1
    limit: int | None = None
    """Use only the first samples of each class, at most this many. Keys are hashes, and sets are sorted by key, so
    this is a random choice. All unlabelled images are used."""
    classes: Sequence[str] | None = None
    """A sample's label is the index of its class here; by default in the classes of the real set. They must contain
    ``UNLABELLED`` if the quotas do."""


class Stream:
    """Batches of a mix of a real set and, if its quotas need one, a synthetic set, for one rank.

    ``quotas``: ``{class: {origin: samples in an epoch}}``. Raises UserError if a quota needs a set or samples that do
    not exist, or if the batch does not divide evenly among the ranks.
    """

    def __init__(
        self,
        real: ShardSet,
        synthetic: ShardSet | None,
        quotas: Mapping[str, Mapping[str, int]],
        options: StreamOptions,
    ) -> None:
        self.part = part_of_batch(options.batch, options.rank, options.world_size)
        self.batch = options.batch
        readers: list[StratumReader] = []
        self.strata: list[tuple[str, str]] = []
        strata: list[StratumQuota] = []
        for class_name, origins in quotas.items():
            for origin, quota in origins.items():
                if not quota:
                    continue
                source = real if origin == "real" else synthetic
                if source is None:
                    raise UserError(
                        f"the mix needs {origin} images of {class_name}, but no {origin} set is given"
                    )
                reader = source.stratum("train", class_name, origin)
                readers.append(reader)
                self.strata.append((class_name, origin))
                strata.append(
                    StratumQuota(
                        Stratum("train", class_name, origin).stem,
                        first_samples(
                            reader.shard_samples, None if class_name == UNLABELLED else options.limit
                        ),
                        quota,
                        block_rows_of(reader.entry.bytes, reader.samples),
                    )
                )
        self.order = Order(tuple(strata), seed=options.seed, batch=options.batch)
        # Blocks of remote sets are the chunks of the order, so that each is fetched once in a cycle.
        self.readers = [
            reader.with_block_rows(shuffle.chunk_samples)
            for reader, shuffle in zip(readers, self.order.shuffles)
        ]
        self.has_remote = any(reader.blocks is not None for reader in self.readers)
        classes = list(real.classes if options.classes is None else options.classes)
        self.labels = np.array([classes.index(name) for name, _ in self.strata])  # [strata] int64
        self.image_size = real.image_size
        self.plan = {
            "order": order_version(),
            "sets": sha256_of([s.digest for s in (real, synthetic) if s is not None]),
            "mix": sha256_of([[s.name, s.samples, s.quota] for s in strata]),
            "batch": options.batch,
            "seed": options.seed,
        }
        # Planning several steps at once costs little more than planning one.
        self.planned_steps = max(1, PLANNED_POSITIONS // options.batch)
        self._window = lru_cache(maxsize=4)(self._planned_window)
        self.samples_in_use = [stratum.samples for stratum in strata]
        self._gather = Gather(self.readers, samples_in_use=self.samples_in_use)

    @property
    def epoch_images(self) -> int:
        return self.order.epoch_images

    @property
    def per_rank(self) -> int:
        """Number of samples of a batch that this rank reads."""
        return len(range(*self.part.indices(self.batch)))

    @property
    def bytes_in_use(self) -> int:
        """Bytes of the pixels of all images that any rank may read."""
        return sum(self.samples_in_use) * self.image_size**2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of this rank's part of a batch: [b, 1, H, W]."""
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
        """Start to fetch the samples of remote sets that ``step`` and the steps planned with it need, before
        ``stop``."""
        if self.has_remote and step % PREFETCHED_EVERY == 0:
            for later in range(step, min(step + max(self.planned_steps, PREFETCHED_EVERY), stop)):
                self._gather.prefetch(*self.planned(later))

    def keys(self, step: int) -> np.ndarray:
        """Keys [b] S40 at this rank's positions of global batch ``step``. Reads no image."""
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
        """The batch of what was read for a step: pixels [b, 1, H, W] uint8, keys [b] S40."""
        strata, samples = self.planned(step)
        samples = samples.copy()
        for substitution in substitutions:
            samples[substitution.row] = substitution.instead
        labels = torch.from_numpy(self.labels[strata])
        if torch.cuda.is_available():
            labels = labels.pin_memory()  # as the pixels are: a copy from pageable memory makes the host wait
        return Batch(
            pixels,
            labels,
            keys,
            strata,
            samples,
            self.positions(step),
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        """The state of a run whose next step is ``step``: the step, and the digests of the plan that it belongs
        to."""
        return {"step": step, **self.plan, "plan_sha256": sha256_of(self.plan)}

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """The step to resume at. Raises UserError, saying what differs, if the state belongs to another plan."""
        if state.get("plan_sha256") == sha256_of(self.plan):
            return int(state["step"])
        batch, seed = state.get("batch"), state.get("seed")
        why, remedy = next(
            (why, remedy)
            for key, why, remedy in (
                (
                    "order",
                    "by another version of cxrdist or numpy, which has another order",
                    "resume it with that version",
                ),
                (
                    "sets",
                    "on other shard sets, or the sets have changed",
                    "give the old --shards and --synthetic",
                ),
                ("mix", "on another mix: its quotas or images differ", "give the old --mix"),
                ("batch", f"with a global batch of {batch}, now {self.batch}", f"give --batch {batch}"),
                ("seed", f"with another seed of the order ({seed})", "give the old --seed"),
                ("plan_sha256", "from a checkpoint that is not consistent", "restore it from a copy"),
            )
            if key == "plan_sha256" or state.get(key) != self.plan[key]
        )
        raise UserError(f"this run was started {why}: {remedy}, or name another --run")


def first_samples(shard_samples: np.ndarray, limit: int | None) -> np.ndarray:
    """[shards] int64: how many samples of each shard are among the first ``limit`` samples of the stratum."""
    if limit is None:
        return shard_samples
    before = np.cumsum(shard_samples) - shard_samples
    return np.clip(limit - before, 0, shard_samples)


@cache
def order_version() -> str:
    """Version of the order: of this code, and of numpy's permutation, since both determine the order."""
    return f"{ORDER_VERSION}-{sha256_of(permutation(0, 'order', length=1000).tolist())[:8]}"


def sha256_of(value: Any) -> str:
    return sha256_bytes(canonical_json(value))
