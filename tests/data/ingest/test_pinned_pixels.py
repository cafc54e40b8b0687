"""The pixels of an import do not change unnoticed: XXH3 of all decoded images, in the order of their keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from cxrdist.data.importers.common.base import Importer
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet

pytestmark = pytest.mark.usefixtures("inline")


def pixels_xxh3(importer: Importer, folder: Path) -> str:
    salt = folder / "salt"
    salt.write_text("a salt of this test alone\n")
    options = IngestOptions(
        out=str(folder / "set"), size=64, workers=1, salt_file=str(salt), find_duplicates=False
    )
    ingest(importer, options)
    shards = ShardSet(folder / "set")
    readers = [shards.stratum(*vars(stratum).values()) for stratum in shards.strata]
    of_key = {reader.key(i): reader.pixels(i).tobytes() for reader in readers for i in range(reader.samples)}
    hashed = xxhash.xxh3_64()
    for key in sorted(of_key):
        hashed.update(of_key[key])
    return f"{len(of_key)} images, {hashed.hexdigest()}"


def test_phantoms(tmp_path: Path) -> None:
    assert pixels_xxh3(Phantom(images=100), tmp_path) == "100 images, 227a174967d0bef5"


@pytest.mark.skipif("CXRDIST_REAL_DATA" not in os.environ, reason="needs $CXRDIST_REAL_DATA")
def test_films(tmp_path: Path) -> None:
    importer = NIH14(root=str(Path(os.environ["CXRDIST_REAL_DATA"]) / "nih256"))
    assert pixels_xxh3(importer, tmp_path) == "779 images, 642b4c51f65ad29d"
