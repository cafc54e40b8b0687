"""Indexes and shard tables: the parts of a set that have a row for each sample or shard, checked as arrays.

index, one file beside each tar:    key, split, class, origin, offset, length, hash and patient of every image
shard table, one file per stratum:  name, bytes, digests and number of samples of every tar
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from cxrdist.data.imaging.npy import header_of
from cxrdist.data.shards.manifest import Stratum, StratumEntry
from cxrdist.data.shards.schema import (
    MANIFEST,
    MAX_COUNT,
    MAX_IMAGE_BYTES,
    MIN_SAMPLE_BYTES,
    ORIGINS,
    PATIENT_HASH,
    REMEDY,
    REMEDY_IN_PLACE,
    SPLITS,
    UNLABELLED_INDEX,
    Problem,
    ShardSetError,
    excerpt,
    first_error,
    impossible,
    is_key,
    is_name,
    wrong_in_metadata,
)
from cxrdist.data.storage.store import Store, write_to
from cxrdist.errors import UserError
from cxrdist.files import SHA256, canonical_json, sha256_bytes

INDEX_DTYPE = np.dtype(
    [
        ("key", "S40"),
        ("split", "S5"),
        ("class", "<u2"),
        ("origin", "S9"),
        ("offset_bytes", "<u8"),
        ("length_bytes", "<u8"),
        ("xxh3_64", "<u8"),
        ("patient", "S24"),
    ]
)
KEY_DTYPE = INDEX_DTYPE["key"]
_WORD_BYTES = np.zeros(256, bool)
_WORD_BYTES[[0, *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"]] = True


def index_name(tar: str) -> str:
    """The index beside a tar."""
    return tar.removesuffix(".tar") + ".index.npy"


# ---- indexes


class IndexRow(NamedTuple):
    """A row of ``INDEX_DTYPE``."""

    key: str
    split: str
    class_index: int
    origin: str
    offset_bytes: int
    length_bytes: int
    xxh3_64: int
    patient: str
    """Salted hash; "" if unknown."""


def _is_below(limit: int) -> Any:
    return lambda value: isinstance(value, int) and 0 <= value < limit


# Numpy would truncate what is too long without an error.
_FITS = IndexRow(
    key=lambda value: isinstance(value, str) and is_key(value),  # type: ignore[arg-type]
    split=lambda value: value in SPLITS,  # type: ignore[arg-type]
    class_index=_is_below(UNLABELLED_INDEX + 1),
    origin=lambda value: value in ORIGINS,  # type: ignore[arg-type]
    offset_bytes=_is_below(2**64),
    length_bytes=_is_below(MAX_IMAGE_BYTES + 1),
    xxh3_64=_is_below(2**64),
    patient=lambda value: isinstance(value, str) and PATIENT_HASH.fullmatch(value) is not None,  # type: ignore[arg-type]
)


def unwritable(where: str, field: str, value: Any) -> UserError:
    """The error for a value to be written that readers refuse."""
    return UserError(
        f"{where}: its {field} is {ascii(value)[:100]}, which readers of shard sets refuse; nothing of it was "
        "written: change it in the source or the options"
    )


def index_array(rows: Sequence[IndexRow], tar: str) -> np.ndarray:
    """The rows of a tar's index, [samples] of ``INDEX_DTYPE``. Raises UserError, naming tar, key and field, for a
    value that does not fit its field: a key has 1 to 40 of ``A-Za-z0-9_-``, a patient at most 24."""
    for row in rows:
        for field, fits, value in zip(INDEX_DTYPE.names or (), _FITS, row):
            if not fits(value):  # type: ignore[operator]
                raise unwritable(f"{tar}: sample {row.key!a}", field, value)
        if row.class_index == UNLABELLED_INDEX and (row.split, row.origin) != ("train", "real"):
            raise unwritable(f"{tar}: sample {row.key!a}", "class", row.class_index)
    return np.array([*rows], INDEX_DTYPE)


def index_bytes(rows: Sequence[IndexRow], tar: str) -> bytes:
    """``index_array`` as an ``.npy`` file without pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, index_array(rows, tar), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def parse_index(data: bytes, row: ShardRow, place: object, *, is_external: bool = False) -> np.ndarray:
    """The bytes of an index as [samples] of ``INDEX_DTYPE``, checked against its row of the shard table; the index of
    an external tar also holds samples of other tables.

    Raises UserError if they are anything else, or name bytes outside the tar. Nothing is unpickled, and no memory is
    allocated for a size that the bytes merely state.
    """
    name = index_name(row.name)
    stream = io.BytesIO(data)
    try:
        shape, _, dtype = header_of(stream)
    except Exception:  # external bytes may raise nearly anything
        shape, dtype = (), np.dtype(object)
    if dtype != INDEX_DTYPE or len(shape) != 1 or len(data) - stream.tell() != shape[0] * dtype.itemsize:
        raise impossible(place, name, "it is not an index")
    if shape[0] < row.samples or (shape[0] > row.samples and not is_external):
        raise impossible(place, name, f"it has {shape[0]:,} rows for {row.samples:,} samples")
    index = np.frombuffer(data, INDEX_DTYPE, offset=stream.tell())
    for field in ("key", "split", "origin", "patient"):
        if not _WORD_BYTES[np.ascontiguousarray(index[field]).view(np.uint8)].all():
            raise impossible(place, name, f"{field} holds other characters than A-Z, a-z, 0-9, _ and -")
    offset, length = index["offset_bytes"], index["length_bytes"]
    # Each alone first: the sum of two numbers of 64 bits may overflow.
    end = np.uint64(row.bytes)
    if (offset > end).any() or (length > np.uint64(MAX_IMAGE_BYTES)).any() or (offset + length > end).any():
        raise impossible(place, name, "offset_bytes and length_bytes point outside the tar")
    return index


def read_index(store: Store, row: ShardRow, *, is_external: bool) -> np.ndarray:
    """The index of a shard, [samples] of ``INDEX_DTYPE``; that of an external tar holds the samples of all strata.
    Raises UserError if it is missing, was changed, or is none that a writer writes."""
    name = index_name(row.name)
    remedy = REMEDY_IN_PLACE if is_external else index_remedy(store)
    data = read_whole(store, name, remedy)
    if sha256_bytes(data) != row.index_sha256:
        raise ShardSetError(store, changed(name), remedy)
    return parse_index(data, row, store, is_external=is_external)


def index_remedy(place: object) -> str:
    """What to do about an index of our own: its tar holds all that is in it."""
    return f"rebuild it with `cxrdist shards index {place}`"


# ---- shard tables


class ShardRow(NamedTuple):
    """One shard, as the table of its stratum lists it."""

    name: str
    """Of the tar."""
    bytes: int
    sha256: str
    index_sha256: str
    samples: int
    """Of this stratum."""
    metadata: list[dict[str, Any]] | None = None
    """External tars: view, sex, age and findings of each sample, which our own tars hold themselves."""

    def json_value(self) -> dict[str, Any]:
        value = dict(zip(ShardRow._fields[:5], self))
        return value if self.metadata is None else value | {"told": self.metadata}


@dataclass(frozen=True, eq=False)
class ShardTable(Sequence[ShardRow]):
    """The shards of a stratum, in their order."""

    names: list[str]
    bytes: np.ndarray  # [shards] int64
    sha256: list[str]
    index_sha256: list[str]
    samples: np.ndarray  # [shards] int64
    metadata: list[list[dict[str, Any]] | None]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, shard: Any) -> Any:
        return ShardRow(
            self.names[shard],
            int(self.bytes[shard]),
            self.sha256[shard],
            self.index_sha256[shard],
            int(self.samples[shard]),
            self.metadata[shard],
        )

    def __iter__(self) -> Iterator[ShardRow]:
        return (self[shard] for shard in range(len(self)))


def parse_table(value: Any) -> ShardTable:
    """A shard table from its JSON. Raises ValueError, naming the field, for one that no set has."""
    rows = value.get("shards") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("shards is not a list of shards")
    if unknown := {*value} - {"stratum", "shards"}:
        raise ValueError(f"{min(unknown)}: unknown field")
    columns = {field: [row.get(field) for row in rows] for field in ShardRow._fields[:5]}
    for field, column in columns.items():
        checks = {"name": _is_tar, "sha256": _is_digest, "index_sha256": _is_digest}
        is_right = checks.get(field, _is_positive)
        wrong = next((i for i, item in enumerate(column) if not is_right(item)), None)
        if wrong is not None:
            raise ValueError(f"shards[{wrong}].{field} is {excerpt(column[wrong])}")
    if len(set(columns["name"])) != len(rows):
        raise ValueError("shards: a name occurs twice")
    table = ShardTable(
        columns["name"],
        np.array(columns["bytes"], np.int64),
        columns["sha256"],
        columns["index_sha256"],
        np.array(columns["samples"], np.int64),
        [row.get("told") for row in rows],
    )
    too_many = np.flatnonzero(table.samples > table.bytes // MIN_SAMPLE_BYTES)
    if len(too_many):
        row = table[too_many[0]]
        raise ValueError(f"shards[{too_many[0]}]: {row.samples} samples do not fit into {row.bytes} bytes")
    for number, row in enumerate(rows):
        if len(row) > len(columns) and {*row} - {*columns, "told"}:
            raise ValueError(f"shards[{number}].{min({*row} - {*columns, 'told'})}: unknown field")
        if "told" in row:
            _check_metadata(row["told"], int(table.samples[number]), number)
    return table


def _check_metadata(metadata: Any, samples: int, shard: int) -> None:
    if not isinstance(metadata, list) or len(metadata) != samples:
        raise ValueError(f"shards[{shard}].told is not a list of its {samples} samples")
    for number, of_sample in enumerate(metadata):
        if not isinstance(of_sample, dict):
            raise ValueError(f"shards[{shard}].told[{number}] is {excerpt(of_sample)}: expected a mapping")
        wrong = wrong_in_metadata(of_sample)
        age = of_sample.get("age") if wrong is None else None
        if wrong is None and not (age is None or (isinstance(age, int) and 0 <= age <= MAX_COUNT)):
            wrong = f"age is {excerpt(age)}"
        if wrong is not None:
            raise ValueError(f"shards[{shard}].told[{number}].{wrong}")


def _is_tar(value: Any) -> bool:
    return is_name(value) and value.endswith(".tar")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _is_positive(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_COUNT


def write_table(store: Store, stratum: Stratum, rows: Sequence[ShardRow]) -> StratumEntry:
    """Write a stratum's shard table; returns the stratum's entry in the manifest. Raises UserError for values that
    readers refuse."""
    value = {"stratum": stratum.stem, "shards": [row.json_value() for row in rows]}
    try:
        parse_table(value)
    except ValueError as error:
        raise UserError(f"{store}: the table of {stratum.stem} is not written, since {error}") from None
    data = canonical_json(value)
    digest = sha256_bytes(data)
    name = f"{stratum.stem}.{digest[:12]}.json"
    write_to(store, name, data)
    entry = {
        "split": stratum.split,
        "class": stratum.class_name,
        "origin": stratum.origin,
        "samples": sum(row.samples for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "shards": len(rows),
        "table": name,
        "table_sha256": digest,
    }
    try:
        return StratumEntry.model_validate(entry)
    except ValidationError as error:
        raise UserError(f"{store}: {stratum.stem} is not written, since {first_error(error)}") from None


def read_table(store: Store, entry: StratumEntry) -> ShardTable:
    """A stratum's shard table. Raises UserError if it is missing or not the one that the manifest names."""
    data = read_whole(store, entry.table)
    if sha256_bytes(data) != entry.table_sha256:
        problem = Problem("changed", entry.table, f"changed since {MANIFEST} was written")
        raise ShardSetError(store, problem, REMEDY)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        problem = Problem("format", entry.table, f"not valid JSON ({error})")
        raise ShardSetError(store, problem, REMEDY) from None
    try:
        return parse_table(value)
    except ValueError as error:
        raise impossible(store, entry.table, str(error)) from None


def read_whole(store: Store, name: str, remedy: str = REMEDY) -> bytes:
    """A file of a set. Raises UserError if it is missing."""
    try:
        return store.read(name)
    except FileNotFoundError:
        raise ShardSetError(store, missing(name), remedy) from None


def missing(name: str) -> Problem:
    return Problem("missing", name, "missing")


def changed(name: str) -> Problem:
    return Problem("changed", name, "changed since it was written")
