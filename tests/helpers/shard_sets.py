"""Write, read, damage and cut short the files of a shard set."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.shards import tar
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.manifest import Lineage, Manifest, Provenance, Stratum, StratumEntry, write_manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample, TarFile, tar_name
from cxrdist.data.shards.writing.write_job import FOUND_LATER
from cxrdist.data.storage.store import Store
from cxrdist.files import canonical_json


def tar_file(store: Store, number: int, stratum: Stratum, class_index: int, encoding: str) -> TarFile:
    """Tar ``number`` of a stratum."""
    return TarFile(store, tar_name(stratum, number), stratum, class_index, encoding)


def write_shard(
    store: Store, number: int, stratum: Stratum, class_index: int, encoding: str, samples: Iterable[Sample]
) -> ShardRow:
    """Write tar ``number`` of a stratum, of one sample or more, and its index; returns its row of the table."""
    row = tar.write_shard(tar_file(store, number, stratum, class_index, encoding), samples)
    assert row is not None
    return row


def write_set(
    store: Store,
    classes: Sequence[str],
    image_size: int,
    encoding: str,
    strata: Sequence[StratumEntry],
    *,
    provenance: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest of strata whose tables are written; a real set of unknown provenance by default."""
    return write_manifest(
        store,
        classes=classes,
        image_size=image_size,
        encoding=encoding,
        strata=strata,
        provenance=Provenance.model_validate(provenance or {}),
        lineage=Lineage.model_validate(lineage or {"kind": "real"}),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def make_unfinished(folder: Path) -> None:
    """What an import that was killed before its manifest leaves."""
    provenance = json.loads((folder / "manifest.json").read_bytes())["provenance"]
    for name in FOUND_LATER:
        provenance.pop(name, None)
    (folder / ".job.json").write_bytes(canonical_json(provenance))
    (folder / "manifest.json").unlink()
    (folder / ".lock").write_text("a job that writes a shard set (process 1 on a host)")


def spoil(path: Path, class_name: str, number: int) -> str:
    """Flip a bit of an image; returns the sample's key."""
    reader = ShardSet(path).stratum("train", class_name, "real")
    shard, row = reader.locate(number)
    entry = reader.index(shard)[row]
    tar = path / reader.shards[shard].name
    data = bytearray(tar.read_bytes())
    data[int(entry["offset_bytes"]) + int(entry["length_bytes"]) // 2] ^= 1
    tar.write_bytes(data)
    return entry["key"].decode()


def members(folder: Path, suffix: str) -> dict[str, dict[str, bytes]]:
    """Stratum -> member name -> bytes, in the order of the tars."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(suffix):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found.setdefault(path.name[: -len("-000000.tar")], {})[member.name] = stream.read()
    return found


def pixels(folder: Path) -> dict[str, np.ndarray]:
    shards = ShardSet(folder)
    readers = [shards.stratum(s.split, s.class_name, s.origin) for s in shards.strata]
    return {r.key(i).decode(): r.pixels(i) for r in readers for i in range(r.samples)}
