"""All images that readers may see, by number: first those of the synthetic set, then the real ones of one split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader


class Pool:
    """Keys and classes are in memory; an image is read when it is asked for, and its hash is checked."""

    def __init__(self, synthetic: ShardSet, real: ShardSet, split: str) -> None:
        self.classes = synthetic.classes
        self._strata = [
            *_strata(synthetic, origin="synthetic"),
            *_strata(real, origin="real", split=split),
        ]
        sizes = [stratum.samples for stratum in self._strata]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.class_index = np.repeat([stratum.class_index for stratum in self._strata], sizes)
        """[n] int"""
        self.is_real = np.repeat([stratum.entry.origin == "real" for stratum in self._strata], sizes)
        """[n] bool"""
        self._keys = [key.decode() for stratum in self._strata for key in _keys(stratum)]
        self._numbers = {key: number for number, key in enumerate(self._keys)}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def numbers(self, *, is_real: bool, class_index: int | None = None) -> np.ndarray:
        """[n] int64: the images of one origin, or of one class of it."""
        of_class = True if class_index is None else self.class_index == class_index
        return np.flatnonzero((self.is_real == is_real) & of_class)

    def key(self, number: int) -> str:
        return self._keys[number]

    def class_name(self, number: int) -> str:
        return self.classes[self.class_index[number]]

    def origin(self, number: int) -> str:
        return "real" if self.is_real[number] else "synthetic"

    def numbers_of(self, keys: set[str]) -> np.ndarray:
        """[n] int64, sorted; keys that no image has are passed over."""
        return np.array(sorted(self._numbers[key] for key in keys if key in self._numbers), np.int64)

    def pixels(self, number: int) -> np.ndarray:
        """[H, W] uint8. Raises UserError for an image that is not as it was written, or cannot be read."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        stratum = self._strata[place]
        return stratum.pixels(number - int(self._ends[place]) + stratum.samples)


def _strata(shards: ShardSet, *, origin: str, split: str | None = None) -> Sequence[StratumReader]:
    """Those of classes: not the stratum of images without one."""
    return [
        shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for stratum in shards.strata
        if stratum.origin == origin
        and stratum.class_name in shards.classes
        and split in (None, stratum.split)
    ]


def _keys(stratum: StratumReader) -> list[bytes]:
    return [key for shard in range(len(stratum.shards)) for key in stratum.index(shard)["key"].tolist()]
