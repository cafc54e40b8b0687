"""Shard sets from a third party: every digest fits, whatever they say."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import INDEX_DTYPE, index_name, write_table
from cxrdist.data.shards.manifest import Stratum, digest_of
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.files import canonical_json, sha256_bytes
from tests.helpers.shard_sets import write_set, write_shard

STRATUM = Stratum("train", "Normal", "real")
TAR = "train-normal-real-000000.tar"
KEYS = ("a", "b", "c")
SIZE = 16

Change = Callable[[dict[str, Any]], dict[str, Any]]


def unchanged(value: dict[str, Any]) -> dict[str, Any]:
    return value


def sample(key: str) -> Sample:
    meta = {"patient": f"p-{key}", "origin": "real", "view": "PA", "sex": "F", "age": 50, "findings": []}
    return Sample(key, encode(np.full((SIZE, SIZE), ord(key[0]), np.uint8), "png"), meta)


def forge(
    folder: Path,
    *,
    tar: bytes | None = None,
    index: bytes | None = None,
    row: Change = unchanged,
    table: Callable[[dict[str, Any]], Any] = unchanged,
    entry: Change = unchanged,
    manifest: Change = unchanged,
) -> Path:
    """A set of three images, with a part of it changed and all digests made to fit."""
    store = LocalStore(folder)
    honest = write_shard(store, 0, STRATUM, 0, "png", map(sample, KEYS))
    of_stratum = write_table(store, STRATUM, [honest])
    written = write_set(
        store,
        ["Normal"],
        SIZE,
        "png",
        [of_stratum],
        provenance={"importer": "test", "release": "a third party's set", "is_phantom": False},
    )
    of_shard = honest.json_value()
    if tar is not None:
        (folder / TAR).write_bytes(tar)
        of_shard |= {"bytes": len(tar), "sha256": sha256_bytes(tar)}
    if index is not None:
        (folder / index_name(TAR)).write_bytes(index)
        of_shard["index_sha256"] = sha256_bytes(index)
    (folder / of_stratum.table).unlink()
    whole = {"stratum": STRATUM.stem, "shards": [row(of_shard)]}
    data = canonical_json(whole)
    name = f"{STRATUM.stem}.{sha256_bytes(data)[:12]}.json"
    forged = table(whole)
    data = forged if isinstance(forged, bytes) else canonical_json(forged)
    (folder / name).write_bytes(data)
    in_manifest = {"bytes": of_shard["bytes"], "table": name, "table_sha256": sha256_bytes(data)}
    changed = manifest(written.json_value() | {"strata": [entry(of_stratum.json_value() | in_manifest)]})
    changed.pop("digest", None)
    changed["digest"] = digest_of(changed)
    (folder / MANIFEST).write_bytes(canonical_json(changed))
    return folder


def rows() -> np.ndarray:
    """The index of an honest set, to be changed."""
    honest = [(key, "train", 0, "real", 2560, 100, 0, f"p-{key}") for key in KEYS]
    return np.array(honest, INDEX_DTYPE)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(header: str) -> bytes:
    """An npy file that ends after its header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def index_of_rows(**columns: Any) -> bytes:
    array = rows()
    for name, value in columns.items():
        array[name] = value
    return npy(array)


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def sample_members(key: str, **parts: bytes) -> list[tuple[str, bytes]]:
    """The three members of a sample, of which some say something else."""
    honest = sample(key[:1] if key.isalnum() else "a")
    of_sample = {"cls": b"0", "json": json.dumps(honest.meta).encode(), "png": honest.image} | parts
    return [(f"{key}.{suffix}", of_sample[suffix]) for suffix in ("cls", "json", "png")]


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def with_size(name: str, size: int) -> bytes:
    """A header that tells of any size, as GNU tar writes large and negative ones, with a right checksum."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([0xFF if size < 0 else 0x80]) + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)
