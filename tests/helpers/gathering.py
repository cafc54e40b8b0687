"""A set of drawn samples whose pixels follow from their keys."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset import TarWriter

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.ingest.ingest import IngestOptions
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers import shard_sets
from tests.helpers.shard_sets import write_shard

SIZE = 16
CLASSES = {"Normal": (4, 1, 3), "Mass": (2, 2)}
"""Samples of each shard."""
TAR = "train-normal-real-000000.tar"


def drawn(key: str) -> np.ndarray:
    """[SIZE, SIZE] uint8: smooth, so that a JPEG gives about the same, and of no two samples alike."""
    return np.add.outer(np.arange(SIZE) * 5, np.arange(SIZE) + 3 * int(key[1:])).astype(np.uint8)


def write_set(place: Path, encoding: str, image: Callable[[str], bytes] | None = None) -> ShardSet:
    """Samples k0 to k7 are Normal, k8 to k11 Mass, in the order of the set; ``image`` may write other bytes."""
    image = image or (lambda key: encode(drawn(key), encoding))
    store, strata, number = LocalStore(place), [], 0
    for label, (name, shards) in enumerate(CLASSES.items()):
        stratum, rows = Stratum("train", name, "real"), []
        for shard, count in enumerate(shards):
            keys = [f"k{n}" for n in range(number, number + count)]
            number += count
            samples = [Sample(key, image(key), {"patient": key}) for key in keys]
            rows.append(write_shard(store, shard, stratum, label, encoding, samples))
        strata.append(write_table(store, stratum, rows))
    shard_sets.write_set(store, [*CLASSES], SIZE, encoding, strata, provenance={"importer": "test"})
    return ShardSet(place)


def write_foreign(root: Path) -> ShardSet:
    """Two tars of others with both classes in each, colour and grey, wide and tall, PNG and JPEG."""
    root.mkdir()
    for tar in range(2):
        with TarWriter(str(root / f"{tar}.tar"), encoder=False) as writer:
            for number in range(6 * tar, 6 * tar + 6):
                image = Image.fromarray(drawn(f"k{number}")[:, : 8 + number])
                buffer = io.BytesIO()
                (image.convert("RGB") if number % 3 else image).save(buffer, "JPEG" if number % 2 else "PNG")
                suffix = "jpg" if number % 2 else "png"
                cls = str(number // 3 % 2).encode()
                writer.write({"__key__": f"k{number}", suffix: buffer.getvalue(), "cls": cls})
    importer = WebDataset(root=str(root), class_names=("Normal", "Mass"), in_place=True)
    index_in_place(importer, IngestOptions(out="", size=SIZE, val=1, test=1, workers=1))
    return ShardSet(root)


def readers_of(shards: ShardSet) -> list[StratumReader]:
    return [shards.stratum("train", name, "real") for name in CLASSES]


def flip(place: Path, reader: StratumReader, number: int, at: int | None = None) -> str:
    """Change a byte of a sample's image, by default its middle one; how the message begins that tells of it."""
    shard, row = reader.locate(number)
    entry = reader.index(shard)[row]
    path = place / reader.shards[shard].name
    offset = int(entry["offset_bytes"])
    at = int(entry["length_bytes"]) // 2 if at is None else at
    with path.open("r+b") as file:
        file.seek(offset + at)
        (old,) = file.read(1)
        file.seek(offset + at)
        file.write(bytes([old ^ 1]))
    return f"{path}: sample {entry['key'].decode()} at byte {offset}: its bytes do not match their hash"
