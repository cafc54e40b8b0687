"""Read, damage and cut short the files of a shard set."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.write_job import FOUND_LATER
from cxrdist.files import canonical_json


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
    tar = path / reader.shards[shard]["name"]
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
