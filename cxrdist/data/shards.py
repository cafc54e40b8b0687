"""A sample, and the tars that hold samples: written whole or not at all, read back by offset.

A sample is three tar members, ``<key>.png|jpg|npy``, ``<key>.cls`` (class index as text) and ``<key>.json``;
any WebDataset reader understands them. The index beside the tar says where each image lies, so that reading
sample i costs one ``pread``, wherever i stands.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cxrdist.data.images import UndecodableImage, decode
from cxrdist.data.manifest import REMEDY, Manifest, Stratum, index_bytes, read_manifest, read_table
from cxrdist.errors import UserError
from cxrdist.files import atomic_writer, sha256_bytes, sha256_file, write_atomic

SHARD_BYTES = 64 * 2**20
TYPICAL_BYTES_PER_PIXEL = {"npy": 1.0, "png": 0.55, "jpg": 0.3}
TAR_BYTES_PER_SAMPLE = 3072


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to write: the encoded image and what is known of it."""

    key: str
    image: bytes
    meta: dict[str, Any]


def samples_per_shard(image_size: int, encoding: str, shard_bytes: int = SHARD_BYTES) -> int:
    """How many samples make a shard of about ``shard_bytes``: fixed beforehand, so that shards do not depend
    on which process writes them, nor on which images turn out not to decode."""
    sample_bytes = image_size**2 * TYPICAL_BYTES_PER_PIXEL[encoding] + TAR_BYTES_PER_SAMPLE
    return max(1, int(shard_bytes / sample_bytes))


def write_shard(
    folder: Path,
    number: int,
    stratum: Stratum,
    class_index: int,
    encoding: str,
    samples: Iterable[Sample],
) -> dict[str, Any]:
    """Write one tar and its index under their final names; returns the shard's row of the table.

    Raises OSError (a full disk) with nothing left behind; a tar without samples is not written and has
    ``samples`` 0.
    """
    from webdataset import TarWriter

    path = folder / f"{stratum.stem}-{number:06d}.tar"
    with atomic_writer(path) as file:
        # Fixed owner, mode and time: the bytes of a tar are a function of its samples alone. The time is an
        # int, since tarfile gives every member of a float time an extended header of 1,024 bytes.
        tar = TarWriter(file, encoder=False, user="cxrdist", group="cxrdist", mode=0o444, mtime=0)
        try:
            for sample in samples:
                tar.write(
                    {
                        "__key__": sample.key,
                        encoding: sample.image,
                        "cls": str(class_index).encode(),
                        "json": json.dumps(sample.meta, sort_keys=True).encode(),
                    }
                )
        finally:
            # Also after an error: its finaliser would write to the closed file, and complain on stderr.
            tar.close()
    rows = index_rows(path, stratum, class_index, encoding)
    if not rows:
        path.unlink()
        return {"samples": 0}
    index = index_bytes(rows)
    write_atomic(index_path(path), index)
    return shard_row(path, index, len(rows))


def finished_shard(
    folder: Path, number: int, stratum: Stratum, class_index: int, encoding: str
) -> tuple[dict[str, Any], list[str]] | None:
    """The row and the keys of a shard that an earlier, killed job finished; None where there is no such shard,
    or where it is not what its index says."""
    path = folder / f"{stratum.stem}-{number:06d}.tar"
    if not (path.exists() and index_path(path).exists()):
        return None
    try:
        rows = index_rows(path, stratum, class_index, encoding)
    except (UserError, tarfile.TarError, ValueError):
        return None
    index = index_bytes(rows)
    if index != index_path(path).read_bytes():
        return None
    return shard_row(path, index, len(rows)), [row[0] for row in rows]


def shard_row(path: Path, index: bytes, samples: int) -> dict[str, Any]:
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "index_sha256": sha256_bytes(index),
        "samples": samples,
    }


def index_path(tar_path: Path) -> Path:
    return tar_path.with_name(tar_path.stem + ".index.npy")


def index_rows(path: Path, stratum: Stratum, class_index: int, encoding: str) -> list[tuple[Any, ...]]:
    """The index of a tar, read from the tar itself. Raises UserError where the tar is not whole."""
    members: dict[str, dict[str, Any]] = {encoding: {}, "cls": {}, "json": {}}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None or suffix not in members:
                raise UserError(f"{path}: unexpected member {member.name}; {REMEDY}")
            if key in members[suffix]:
                raise UserError(f"{path}: {member.name} stands in it twice; {REMEDY}")
            data = stream.read()
            if suffix == encoding:
                members[suffix][key] = (member.offset_data, member.size, xxhash.xxh3_64_intdigest(data))
            else:
                members[suffix][key] = json.loads(data)
    images, classes, metas = members.values()
    if not images.keys() == classes.keys() == metas.keys():
        raise UserError(f"{path}: samples lack their image, .cls or .json member; {REMEDY}")
    if wrong := [k for k, c in classes.items() if c != class_index]:
        raise UserError(f"{path}: sample {wrong[0]} has class {classes[wrong[0]]}, not {class_index}")
    if wrong := [k for k, meta in metas.items() if not isinstance(meta, dict)]:
        raise UserError(f"{path}: {wrong[0]}.json is not a mapping; {REMEDY}")
    return [
        (key, stratum.split, class_index, stratum.origin, *images[key], metas[key].get("patient") or "")
        for key in images
    ]


@dataclass
class StratumReader:
    """Samples of one stratum by number, through the indexes; opens a tar when a sample of it is read."""

    folder: Path
    entry: dict[str, Any]
    encoding: str
    image_size: int
    _indexes: dict[int, np.ndarray] = field(default_factory=dict)
    _descriptors: dict[int, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return self.entry["samples"]

    @cached_property
    def shards(self) -> list[dict[str, Any]]:
        return read_table(self.folder, self.entry)

    @cached_property
    def ends(self) -> np.ndarray:
        """[shards] int64: how many samples the shards up to each one hold together."""
        return np.cumsum([s["samples"] for s in self.shards])

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and row of sample ``number``."""
        if not 0 <= number < self.samples:
            raise IndexError(f"sample {number} of {self.samples}")
        shard = int(np.searchsorted(self.ends, number, side="right"))
        before = int(self.ends[shard - 1]) if shard else 0
        return shard, number - before

    def index(self, shard: int) -> np.ndarray:
        if shard not in self._indexes:
            row = self.shards[shard]
            path = index_path(self.folder / row["name"])
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise UserError(f"{path}: missing; {REMEDY}", every_rank=True) from None
            if sha256_bytes(data) != row["index_sha256"]:
                raise UserError(f"{path}: changed since it was written; {REMEDY}", every_rank=True)
            self._indexes[shard] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        return self._indexes[shard]

    def key(self, number: int) -> bytes:
        shard, row = self.locate(number)
        return bytes(self.index(shard)[row]["key"])

    def image_bytes(self, number: int) -> bytes:
        """The encoded image. Raises UserError, naming shard, key and offset, where its hash does not fit."""
        shard, row = self.locate(number)
        entry = self.index(shard)[row]
        offset, length = int(entry["offset_bytes"]), int(entry["length_bytes"])
        data = os.pread(self._descriptor(shard), length, offset)
        if xxhash.xxh3_64_intdigest(data) != int(entry["xxh3_64"]):
            raise self._corrupt(shard, entry, "its bytes are not the ones that were written")
        return data

    def pixels(self, number: int) -> np.ndarray:
        """One image, [H, W] uint8."""
        data = self.image_bytes(number)
        try:
            return decode(data, self.encoding, self.image_size)
        except UndecodableImage as error:
            shard, row = self.locate(number)
            raise self._corrupt(shard, self.index(shard)[row], str(error)) from None

    def _descriptor(self, shard: int) -> int:
        if shard not in self._descriptors:
            path = self.folder / self.shards[shard]["name"]
            try:
                self._descriptors[shard] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise UserError(f"{path}: missing; {REMEDY}", every_rank=True) from None
        return self._descriptors[shard]

    def _corrupt(self, shard: int, entry: np.void, why: str) -> UserError:
        path = self.folder / self.shards[shard]["name"]
        return UserError(
            f"{path}: sample {entry['key'].decode()} at byte {int(entry['offset_bytes'])}: {why}; "
            f"`cxrdist shards verify {self.folder}` lists all that is wrong",
            every_rank=True,
        )

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


class ShardSet:
    """A shard set for reading. Raises UserError where the folder holds none, or a changed one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._readers: dict[Stratum, StratumReader] = {}

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def classes(self) -> list[str]:
        return self.manifest["classes"]

    @property
    def image_size(self) -> int:
        return self.manifest["image_size"]

    def samples(self, split: str, class_name: str, origin: str) -> int:
        return self.manifest["counts"].get(split, {}).get(class_name, {}).get(origin, 0)

    def stratum(self, split: str, class_name: str, origin: str) -> StratumReader:
        stratum = Stratum(split, class_name, origin)
        if stratum not in self._readers:
            for entry in self.manifest["strata"]:
                if (entry["split"], entry["class"], entry["origin"]) == (split, class_name, origin):
                    self._readers[stratum] = StratumReader(
                        self.folder, entry, self.manifest["encoding"], self.image_size
                    )
                    break
            else:
                raise UserError(f"{self.folder}: no {origin} images of {class_name} in its {split} split")
        return self._readers[stratum]

    def images(self, split: str, class_name: str, origin: str, count: int) -> np.ndarray:
        """The first ``count`` images of a stratum (fewer where it has fewer), [n, H, W] uint8."""
        reader = self.stratum(split, class_name, origin)
        return np.stack([reader.pixels(i) for i in range(min(count, reader.samples))])

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def hash_keys(keys: Iterable[bytes], before: bytes = b"") -> bytes:
    """SHA-256 over ``before`` and then the keys, each ended by a newline."""
    digest = hashlib.sha256(before)
    for key in keys:
        digest.update(key + b"\n")
    return digest.digest()
