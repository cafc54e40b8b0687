"""A sample, and the tars that hold samples: written whole or not at all, and indexed while they are written.

A sample is three tar members, ``<key>.png|jpg|npy``, ``<key>.cls`` (class index as text) and ``<key>.json``;
any WebDataset reader understands them. The index beside the tar says where each image lies, so that reading any
sample costs one read at a known offset.
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
from cxrdist.data.shards.index import IndexRow, ShardRow, index_bytes, index_name, unwritable
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.schema import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    REMEDY,
    UNLABELLED,
    UNLABELLED_CLS,
    UNLABELLED_INDEX,
    Kind,
    Problem,
    ShardSetError,
    impossible,
    is_key,
    wrong_in_metadata,
)
from cxrdist.data.shards.tar_writer import TarWriter
from cxrdist.data.storage.store import Store, write_to
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes

SHARD_BYTES = 64 * 2**20
TYPICAL_BYTES_PER_PIXEL = {"npy": 1.0, "png": 0.55, "jpg": 0.3}
TAR_BYTES_PER_SAMPLE = 3072
METADATA_FIELDS = ("view", "sex", "age", "findings")
"""What a sample's metadata says of the patient and the image; each may be unknown."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a shard: the encoded image and its metadata."""

    key: str
    image: bytes
    meta: dict[str, Any]


@dataclass(frozen=True)
class TarFile:
    """One tar of a set, all of whose samples are of one stratum."""

    store: Store
    name: str
    stratum: Stratum
    class_index: int
    encoding: str

    def __str__(self) -> str:
        return f"{self.store}/{self.name}"

    @property
    def cls(self) -> str:
        """The content of its ``.cls`` members."""
        return UNLABELLED_CLS if self.class_index == UNLABELLED_INDEX else str(self.class_index)

    def error(self, kind: Kind, detail: str) -> ShardSetError:
        """The error for a tar that is not as it was written."""
        return ShardSetError(self.store, Problem(kind, self.name, detail), REMEDY)


def samples_per_shard(image_size: int, encoding: str, shard_bytes: int = SHARD_BYTES) -> int:
    """How many samples make a shard of about ``shard_bytes``: fixed beforehand, so that shards do not depend
    on which process writes them, nor on which images turn out not to decode."""
    sample_bytes = image_size**2 * TYPICAL_BYTES_PER_PIXEL[encoding] + TAR_BYTES_PER_SAMPLE
    return max(1, int(shard_bytes / sample_bytes))


def cuts(samples: int, length: int, min_shards: int) -> list[tuple[int, int]]:
    """Start and stop of each shard of a stratum: about equal, at most ``length`` long, and ``min_shards`` of them
    if there are that many samples."""
    shards = max(-(-samples // length), min(min_shards, samples))
    return [(samples * n // shards, samples * (n + 1) // shards) for n in range(shards)]


def tar_name(stratum: Stratum, number: int) -> str:
    return f"{stratum.stem}-{number:06d}.tar"


def is_tar_name(name: str) -> bool:
    return name.lower().endswith(".tar") and not name.startswith(".")


# ---- writing


def write_shard(tar: TarFile, samples: Iterable[Sample]) -> ShardRow | None:
    """Write one tar and its index under their final names; returns the shard's row of the table, or None if there
    are no samples, and then writes nothing.

    The bytes are those of webdataset's TarWriter for the same samples. Raises UserError for a sample that readers
    refuse, and OSError (a full disk), with nothing left behind.
    """
    rows: list[IndexRow] = []
    written: set[str] = set()
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        return None
    with tar.store.writer(tar.name) as file:
        writer = TarWriter(file)
        for sample in itertools.chain((first,), iterator):
            if sample.key in written:
                raise UserError(f"{tar}: the key {sample.key} would occur twice")
            written.add(sample.key)
            offsets = writer.add(_checked_members(sample, tar))
            rows.append(index_row(sample, tar, offsets[f"{sample.key}.{tar.encoding}"]))
        index = index_bytes(rows, str(tar))  # may refuse a row: before the tar gets its name
        writer.finish()
    write_to(tar.store, index_name(tar.name), index)
    return ShardRow(tar.name, writer.bytes, writer.sha256, sha256_bytes(index), len(rows))


def _checked_members(sample: Sample, tar: TarFile) -> dict[str, bytes]:
    """The members of a sample by name. Raises UserError for what readers refuse."""
    where = f"{tar}: sample {sample.key!a}"
    if not is_key(sample.key):
        raise unwritable(where, "key", sample.key)
    if (tar.class_index == UNLABELLED_INDEX) != (tar.stratum.class_name == UNLABELLED):
        raise unwritable(where, "class", tar.class_index)
    if wrong := wrong_in_metadata(sample.meta):
        raise UserError(f"{where}: not written, since in its metadata {wrong}")
    if len(sample.image) > MAX_IMAGE_BYTES:
        raise unwritable(where, "length_bytes", len(sample.image))
    members = _members_of(sample, tar)
    if (size := len(members[f"{sample.key}.json"])) > MAX_TEXT_BYTES:
        raise unwritable(where, "size of its metadata in bytes", size)
    return members


def _members_of(sample: Sample, tar: TarFile) -> dict[str, bytes]:
    """The members of a sample by name, in their order."""
    members = {
        tar.encoding: sample.image,
        "cls": tar.cls.encode(),
        "json": json.dumps(sample.meta, sort_keys=True).encode(),
    }
    return {f"{sample.key}.{suffix}": members[suffix] for suffix in sorted(members)}


def index_row(sample: Sample, tar: TarFile, offset: int) -> IndexRow:
    """The row of a sample in the index of its tar; ``offset``: of its image, in bytes."""
    return IndexRow(
        sample.key,
        tar.stratum.split,
        tar.class_index,
        tar.stratum.origin,
        offset,
        len(sample.image),
        xxhash.xxh3_64_intdigest(sample.image),
        sample.meta.get("patient") or "",
    )


def finished_shard(tar: TarFile, look: Callable[[Sample], T]) -> tuple[ShardRow, dict[str, T]] | None:
    """The row of a shard that an earlier, killed job finished, and ``look(sample)`` of each sample by key; None if
    there is no such shard, or if a byte of it is not the one that would be written."""
    seen: dict[str, T] = {}
    rows: list[IndexRow] = []
    try:
        index = tar.store.read(index_name(tar.name))
        with tar.store.open(tar.name) as file, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            found, again = hashed(file), TarWriter(nowhere)
            for offset, sample in read_tar(file, tar):
                again.add(_members_of(sample, tar))
                rows.append(index_row(sample, tar, offset))
                seen[sample.key] = look(sample)
            again.finish()
    except (FileNotFoundError, UserError, UndecodableImage):
        return None
    # The table will vouch for every byte, also for those that no reader looks at.
    if index != index_bytes(rows, str(tar)) or found != (again.bytes, again.sha256):
        return None
    return ShardRow(tar.name, *found, sha256_bytes(index), len(rows)), seen


# ---- reading


def hashed(file: IO[bytes]) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, which is then at its beginning again."""
    digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size, digest


def read_tar(
    file: IO[bytes], tar: TarFile, *, is_valid_key: Callable[[str], bool] = is_key
) -> Iterator[tuple[int, Sample]]:
    """Offset of the image, and sample, for all samples of one of our tars, in order.

    Raises ShardSetError, naming the member, if the tar is not whole, or holds anything that ``write_shard`` never
    writes; no such member is read.
    """
    suffixes = sorted((tar.encoding, "cls", "json"))
    seen: set[str] = set()
    parts: dict[str, bytes] = {}
    offset, key = 0, ""
    for member, at in _members(file, tar):
        before = key if parts else None
        key, _, suffix = member.name.partition(".")
        if (
            not member.isreg()
            or suffix != suffixes[len(parts)]
            or before not in (None, key)
            or not is_valid_key(key)
        ):
            raise tar.error("member", f"unexpected member {member.name!r}")
        if not parts and key in seen:
            raise tar.error("member", f"{member.name} occurs twice")
        if member.size > (MAX_IMAGE_BYTES if suffix == tar.encoding else MAX_TEXT_BYTES):
            raise tar.error("member", f"{member.name} has {member.size:,} bytes, more than any sample has")
        if suffix == tar.encoding:
            offset = at
        parts[suffix] = _content(file, member, tar)
        if len(parts) == len(suffixes):
            seen.add(key)
            yield offset, _sample(tar, key, parts)
            parts = {}
    if parts:
        raise tar.error("member", f"{key} lacks its .{suffixes[len(parts)]} member")


def _members(file: IO[bytes], tar: TarFile) -> Iterator[tuple[tarfile.TarInfo, int]]:
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
            raise tar.error(
                "format", f"not the tar that was written (the header at byte {at - len(header)}: {error})"
            ) from None
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            raise tar.error("member", f"unexpected member {member.name!r}")
        yield member, at
        at += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if not header:
        raise tar.error("format", f"ends without an end mark at byte {at:,}")
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise tar.error("format", f"continues after its end mark at byte {at:,}")


def _content(file: IO[bytes], member: tarfile.TarInfo, tar: TarFile) -> bytes:
    """A member's bytes; reads its padding, too."""
    data = file.read(member.size)
    padding = file.read(-member.size % tarfile.BLOCKSIZE)
    if len(data) + len(padding) < -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE:
        raise tar.error("format", f"ends inside {member.name}")
    if padding.strip(b"\0"):
        raise tar.error("format", f"changed after the end of {member.name}")
    return data


def _sample(tar: TarFile, key: str, parts: dict[str, bytes]) -> Sample:
    if parts["cls"] != tar.cls.encode():
        found = parts["cls"][:20].decode(errors="replace")
        raise tar.error("member", f"sample {key} has class {found}, not {tar.cls}")
    try:
        meta = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
        raise tar.error("member", f"{key}.json is not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise tar.error("member", f"{key}.json is not a mapping")
    if wrong := wrong_in_metadata(meta):
        raise impossible(tar.store, tar.name, f"{key}.json: {wrong}")
    return Sample(key, parts[tar.encoding], meta)
