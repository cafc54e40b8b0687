"""A sample, and the tars that hold samples: written whole or not at all, and indexed on the way.

A sample is three tar members, ``<key>.png|jpg|npy``, ``<key>.cls`` (class index as text) and ``<key>.json``;
any WebDataset reader understands them. The index beside the tar says where each image lies, so that reading
sample i costs one read at a known offset, wherever i stands.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar, cast

import xxhash

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.shards.manifest import REMEDY, Stratum, index_bytes
from cxrdist.data.shards.schema import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, check_meta, check_sample, is_key
from cxrdist.data.shards.tar_writer import TarWriter
from cxrdist.data.storage.store import Store, write_to
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes

SHARD_BYTES = 64 * 2**20
TYPICAL_BYTES_PER_PIXEL = {"npy": 1.0, "png": 0.55, "jpg": 0.3}
TAR_BYTES_PER_SAMPLE = 3072

T = TypeVar("T")
IndexRow = tuple[Any, ...]
"""As ``manifest.INDEX_DTYPE``: key, split, class, origin, offset, length, hash, patient."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a shard: the encoded image and what is known of it."""

    key: str
    image: bytes
    meta: dict[str, Any]


def samples_per_shard(image_size: int, encoding: str, shard_bytes: int = SHARD_BYTES) -> int:
    """How many samples make a shard of about ``shard_bytes``: fixed beforehand, so that shards do not depend
    on which process writes them, nor on which images turn out not to decode."""
    sample_bytes = image_size**2 * TYPICAL_BYTES_PER_PIXEL[encoding] + TAR_BYTES_PER_SAMPLE
    return max(1, int(shard_bytes / sample_bytes))


def cuts(samples: int, length: int, min_shards: int) -> list[tuple[int, int]]:
    """Start and stop of each shard of a stratum: about equal, at most ``length`` long, and ``min_shards`` of them
    where there are so many samples."""
    shards = max(-(-samples // length), min(min_shards, samples))
    return [(samples * n // shards, samples * (n + 1) // shards) for n in range(shards)]


def tar_name(stratum: Stratum, number: int) -> str:
    return f"{stratum.stem}-{number:06d}.tar"


TOLD = ("view", "sex", "age", "findings")
"""What a sample's metadata tells of the patient and the image, each unknown perhaps."""


def index_name(tar: str) -> str:
    """The index beside a tar."""
    return tar.removesuffix(".tar") + ".index.npy"


def write_shard(
    store: Store,
    number: int,
    stratum: Stratum,
    class_index: int,
    encoding: str,
    samples: Iterable[Sample],
) -> dict[str, Any]:
    """Write one tar and its index under their final names; returns the shard's row of the table.

    The bytes are those of webdataset's TarWriter for the same samples. Raises UserError for a sample that no reader
    accepts, and OSError (a full disk), with nothing left behind; a tar without samples is not written and has
    ``samples`` 0.
    """
    name = tar_name(stratum, number)
    where = f"{store}/{name}"
    rows: list[IndexRow] = []
    written: set[str] = set()
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        return {"samples": 0}
    with store.writer(name) as file:
        tar = TarWriter(file)
        for sample in itertools.chain((first,), iterator):
            if sample.key in written:
                raise UserError(f"{where}: {sample.key} would stand in it twice")
            written.add(sample.key)
            check_sample(sample.key, sample.meta, len(sample.image), where)
            members = _members_of(sample, class_index, encoding)
            if len(members[f"{sample.key}.json"]) > MAX_TEXT_BYTES:
                raise UserError(f"{where}: {sample.key}.json would have more than {MAX_TEXT_BYTES:,} bytes")
            offsets = tar.add(members)
            rows.append(index_row(sample, stratum, class_index, offsets[f"{sample.key}.{encoding}"]))
        index = index_bytes(rows, where)  # which may refuse a row: before the tar takes its name
        tar.finish()
    write_to(store, index_name(name), index)
    return _table_row(name, (tar.bytes, tar.sha256), index, len(rows))


def _members_of(sample: Sample, class_index: int, encoding: str) -> dict[str, bytes]:
    """The members of a sample by name, in their order."""
    members = {
        encoding: sample.image,
        "cls": str(class_index).encode(),
        "json": json.dumps(sample.meta, sort_keys=True).encode(),
    }
    return {f"{sample.key}.{suffix}": members[suffix] for suffix in sorted(members)}


def index_row(sample: Sample, stratum: Stratum, class_index: int, offset: int) -> IndexRow:
    return (
        sample.key,
        stratum.split,
        class_index,
        stratum.origin,
        offset,
        len(sample.image),
        xxhash.xxh3_64_intdigest(sample.image),
        sample.meta.get("patient") or "",
    )


def _table_row(name: str, tar: tuple[int, str], index: bytes, samples: int) -> dict[str, Any]:
    size, sha256 = tar
    return {
        "name": name,
        "bytes": size,
        "sha256": sha256,
        "index_sha256": sha256_bytes(index),
        "samples": samples,
    }


def finished_shard(
    store: Store,
    number: int,
    stratum: Stratum,
    class_index: int,
    encoding: str,
    look: Callable[[Sample], T],
) -> tuple[dict[str, Any], dict[str, T]] | None:
    """The row of a shard that an earlier, killed job finished, and by key what ``look`` sees in each sample; None
    where there is no such shard, or where a byte of it is not the one that would be written."""
    name = tar_name(stratum, number)
    seen: dict[str, T] = {}
    rows: list[IndexRow] = []
    try:
        index = store.read(index_name(name))
        with store.open(name) as file, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            tar, again = hashed(file), TarWriter(nowhere)
            for offset, sample in read_tar(file, f"{store}/{name}", class_index, encoding):
                again.add(_members_of(sample, class_index, encoding))
                rows.append(index_row(sample, stratum, class_index, offset))
                seen[sample.key] = look(sample)
            again.finish()
    except (FileNotFoundError, UserError, UndecodableImage):
        return None
    # The table will vouch for every byte, also for those that no reader looks at.
    if index != index_bytes(rows, name) or tar != (again.bytes, again.sha256):
        return None
    return _table_row(name, tar, index, len(rows)), seen


def hashed(file: IO[bytes]) -> tuple[int, str]:
    """Bytes and SHA-256 of a file that is then at its beginning again."""
    digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size, digest


def read_tar(
    file: IO[bytes],
    name: str,
    class_index: int,
    encoding: str,
    *,
    is_valid_key: Callable[[str], bool] = is_key,
) -> Iterator[tuple[int, Sample]]:
    """Offset of the image, and sample, for all samples of one of our tars, in order.

    Raises UserError, naming the member, where it is not whole, or holds anything that our writer never writes:
    nothing else is opened.
    """
    suffixes = sorted((encoding, "cls", "json"))
    seen: set[str] = set()
    parts: dict[str, bytes] = {}
    offset, key = 0, ""
    for member, at in _members(file, name):
        before = key if parts else None
        key, _, suffix = member.name.partition(".")
        if (
            not member.isreg()
            or suffix != suffixes[len(parts)]
            or before not in (None, key)
            or not is_valid_key(key)
        ):
            raise UserError(f"{name}: unexpected member {member.name!r}; {REMEDY}")
        if not parts and key in seen:
            raise UserError(f"{name}: {member.name} stands in it twice; {REMEDY}")
        if member.size > (MAX_IMAGE_BYTES if suffix == encoding else MAX_TEXT_BYTES):
            raise UserError(f"{name}: {member.name} has {member.size:,} bytes, which no sample has; {REMEDY}")
        if suffix == encoding:
            offset = at
        parts[suffix] = _content(file, member, name)
        if len(parts) == len(suffixes):
            seen.add(key)
            yield offset, _sample(name, key, class_index, parts, encoding)
            parts = {}
    if parts:
        raise UserError(f"{name}: {key} lacks its .{suffixes[len(parts)]} member; {REMEDY}")


def _members(file: IO[bytes], name: str) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member's header, and the offset of its bytes, which are to be read before the next one.

    Not tarfile's own loop: that one follows extended headers, which our tars have none of, wherever they lead, and
    takes a damaged header for the end.
    """
    at = 0
    while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
        at += tarfile.BLOCKSIZE
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise UserError(
                f"{name}: not a tar as it was written (the header at byte {at - len(header)}: {error}); {REMEDY}"
            ) from None
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            raise UserError(f"{name}: unexpected member {member.name!r}; {REMEDY}")
        yield member, at
        at += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if not header:
        raise UserError(f"{name}: ends without an end mark at byte {at:,}; {REMEDY}")
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise UserError(f"{name}: goes on after its end mark at byte {at:,}; {REMEDY}")


def _content(file: IO[bytes], member: tarfile.TarInfo, name: str) -> bytes:
    """A member's bytes, its padding read, too."""
    data = file.read(member.size)
    padding = file.read(-member.size % tarfile.BLOCKSIZE)
    if len(data) + len(padding) < -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE:
        raise UserError(f"{name}: ends inside {member.name}; {REMEDY}")
    if padding.strip(b"\0"):
        raise UserError(f"{name}: changed behind {member.name}; {REMEDY}")
    return data


def _sample(name: str, key: str, class_index: int, parts: dict[str, bytes], encoding: str) -> Sample:
    if parts["cls"] != str(class_index).encode():
        told = parts["cls"][:20].decode(errors="replace")
        raise UserError(f"{name}: sample {key} has class {told}, not {class_index}; {REMEDY}")
    try:
        meta = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {key}.json is not JSON ({error}); {REMEDY}") from None
    if not isinstance(meta, dict):
        raise UserError(f"{name}: {key}.json is not a mapping; {REMEDY}")
    check_meta(meta, f"{name}: {key}.json")
    return Sample(key, parts[encoding], meta)


def is_tar_name(name: str) -> bool:
    return name.lower().endswith(".tar") and not name.startswith(".")
