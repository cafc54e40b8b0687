"""A synthetic set without a generator: the train images of a real set under other keys."""

from __future__ import annotations

from pathlib import Path

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers.shard_sets import write_set, write_shard


def synthetic_copy(place: Path, out: Path, *, most: int | None = None, encoding: str = "png") -> Path:
    """Write the set; ``most``: images of each class."""
    real, store, entries = ShardSet(place), LocalStore(out), []
    for class_index, name in enumerate(real.classes):
        reader = real.stratum("train", name, "real")
        stratum, samples = Stratum("train", name, "synthetic"), []
        for number in range(min(most or reader.samples, reader.samples)):
            image = encode(reader.pixels(number), encoding)
            meta = {"origin": "synthetic", "class": name}
            samples.append(Sample(f"{class_index:016x}-000000-{number:08d}", image, meta))
        entries.append(
            write_table(store, stratum, [write_shard(store, 0, stratum, class_index, encoding, samples)])
        )
    lineage = {"kind": "synthetic", "real_digest": real.digest, "split": "train"}
    write_set(store, real.classes, real.image_size, encoding, entries, lineage=lineage)
    return out
