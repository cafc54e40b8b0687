"""Synthetic sets whose quality is known: fresh phantoms passed off as generated, noise, or copies of real images.

A study on them has a known answer: a perfect generator helps, and noise or copies do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxrdist.data.imaging.codecs import EncodingName, encode
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import (
    Lineage,
    Manifest,
    Stratum,
    checked_provenance,
    write_manifest,
)
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import key_of, key_prefix
from cxrdist.data.shards.tar import Sample, TarFile, tar_name, write_shard
from cxrdist.data.storage.store import store_of
from cxrdist.files import sha256_bytes
from cxrdist.phantom import CLASSES

ENCODING: EncodingName = "npy"

Images = Mapping[str, np.ndarray]
"""``{class: [n, H, W] uint8}``."""


def planted_set(place: Path, real: ShardSet, images: Images, kind: str) -> Manifest:
    """Write ``images`` as the synthetic set of ``real``. ``kind`` takes the place of the generator's digest."""
    store = store_of(str(place))
    digest = sha256_bytes(kind.encode())
    rows = {}
    for name, of_class in images.items():
        stratum = Stratum("train", name, "synthetic")
        tar = TarFile(store, tar_name(stratum, 0), stratum, real.classes.index(name), ENCODING)
        prefix = key_prefix(digest, 0, name)
        meta = {"patient": None, "origin": "synthetic", "source": kind, "generator_sha256": digest, "seed": 0}
        samples = (
            Sample(key_of(prefix, number), encode(image, ENCODING), {**meta, "index": number})
            for number, image in enumerate(of_class)
        )
        row = write_shard(tar, samples)
        assert row is not None, f"no images of {name}"
        rows[stratum] = [row]
    provenance = checked_provenance(
        {
            "importer": "synthesis",
            "release": kind,
            "is_phantom": False,
            "options": {"encoding": ENCODING, "seed": 0, "label_rule": None},
            "generators": dict.fromkeys(images, digest),
        },
        str(place),
    )
    return write_manifest(
        store,
        classes=real.classes,
        image_size=real.image_size,
        encoding=ENCODING,
        strata=[write_table(store, stratum, of_stratum) for stratum, of_stratum in rows.items()],
        provenance=provenance,
        lineage=Lineage(kind="synthetic", **made_from(real), generators=provenance.generators),
    )


def fresh_phantoms(place: Path, size: int, per_class: int, seed: int) -> dict[str, np.ndarray]:
    """Phantoms of other patients than those of any other seed, the same number of each class; computed once."""
    from benchmarks.gan.phantom_oracle import EqualPhantoms

    phantoms = EqualPhantoms(seed=seed, train_per_class=per_class, val_per_class=1, test_per_class=1)
    ingest(phantoms, IngestOptions(out=str(place), size=size, encoding=ENCODING, seed=seed))
    shards = ShardSet(place)
    return {name: shards.images("train", name, "real", per_class) for name in CLASSES}


def noise(per_class: Mapping[str, int], size: int, seed: int) -> dict[str, np.ndarray]:
    """Uniform noise, which shows no class."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (n, size, size), np.uint8) for name, n in per_class.items()}


def copies(real: ShardSet, per_class: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Copies of the real training images, each class's in turn: a generator that has memorized them."""
    found = {}
    for name, count in per_class.items():
        images = real.images("train", name, "real", real.samples("train", name, "real"))
        found[name] = images[np.arange(count) % len(images)]
    return found


def phantom_set(place: Path, size: int, seed: int, *, val: int, test: int, images: int = 1128) -> ShardSet:
    """Phantoms of a seed, with ``val`` and ``test`` images of each class: 790 training images of the default
    ``images``, 56 of the rarest class."""
    phantoms = Phantom(seed=seed, images=images, val_images=val, test_images=test)
    ingest(phantoms, IngestOptions(out=str(place), size=size, encoding=ENCODING, seed=seed))
    return ShardSet(place)
