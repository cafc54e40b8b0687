"""A shard set for reading, in a folder or at a URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cxrdist.data.shards.manifest import Manifest, Stratum, read_manifest
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.shards.synthetic_keys import refusal
from cxrdist.data.storage.block_cache import default_cache
from cxrdist.data.storage.block_reader import BlockReader
from cxrdist.data.storage.store import LocalStore, Store, store_of
from cxrdist.errors import UserError


class ShardSet:
    """A shard set for reading, in a folder or at a URL. Raises UserError if there is none, or if it was changed."""

    def __init__(self, place: str | Path | Store) -> None:
        self.store = store_of(place)
        self.manifest: Manifest = read_manifest(self.store)
        self._readers: dict[Stratum, StratumReader] = {}
        is_local = isinstance(self.store, LocalStore)
        self.blocks = None if is_local else BlockReader(self.store, default_cache())

    def __str__(self) -> str:
        return str(self.store)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    @property
    def image_size(self) -> int:
        return self.manifest.image_size

    @property
    def is_external(self) -> bool:
        """True if its tars are external ones, indexed where they lie."""
        return self.manifest.is_external

    @property
    def strata(self) -> list[Stratum]:
        return [entry.stratum for entry in self.manifest.strata]

    @property
    def has_truncated_keys(self) -> bool:
        """True if an earlier version wrote it with keys that are longer than the key field of an index."""
        return any(
            self.stratum(stratum.split, stratum.class_name, stratum.origin).has_truncated_keys
            for stratum in self.strata
            if stratum.origin == "synthetic"
        )

    def check_keys(self) -> None:
        """Raises UserError, naming the command that mends it, for a set with truncated keys."""
        if self.has_truncated_keys:
            raise refusal(self.store)

    @property
    def unlabelled_samples(self) -> int:
        """Number of images without a class; they are in the stratum ``UNLABELLED_STRATUM``."""
        entry = self.manifest.unlabelled
        return entry.samples if entry is not None else 0

    def samples(self, split: str, class_name: str, origin: str) -> int:
        """Number of images of a class, without those that were removed; 0 for a class that the set does not have."""
        return self.manifest.counts.get(split, {}).get(class_name, {}).get(origin, 0)

    def stratum(self, split: str, class_name: str, origin: str) -> StratumReader:
        """Raises UserError if the set has no such stratum."""
        stratum = Stratum(split, class_name, origin)
        if stratum not in self._readers:
            entry = next((entry for entry in self.manifest.strata if entry.stratum == stratum), None)
            if entry is None:
                raise UserError(f"{self.store}: no {origin} images of {class_name} in its {split} split")
            self._readers[stratum] = StratumReader(
                self.store,
                entry,
                self.manifest.class_index(class_name),
                self.manifest.encoding,
                self.image_size,
                self.manifest.provenance.importer,
                self.blocks,
            )
        return self._readers[stratum]

    def indexes(self) -> Iterator[tuple[Stratum, np.ndarray]]:
        """The index of each shard, [samples] of ``INDEX_DTYPE``, with its stratum. Removed samples are among them:
        what learned from the set before they were removed has seen their patients."""
        for stratum in self.strata:
            reader = self.stratum(stratum.split, stratum.class_name, stratum.origin)
            for shard in range(len(reader.shards)):
                yield stratum, reader.whole_index(shard)

    def images(self, split: str, class_name: str, origin: str, count: int) -> np.ndarray:
        """The first ``count`` images of a stratum, or all if it has fewer, [n, H, W] uint8."""
        reader = self.stratum(split, class_name, origin)
        return np.stack([reader.pixels(i) for i in range(min(count, reader.samples))])

    def close(self) -> None:
        if self.blocks is not None:
            self.blocks.close()
        self.store.close()
