"""Keys of synthetic images, and the longer keys that an earlier version wrote.

    <16 hexadecimal digits>-<index, 10 digits>                              27 characters

The hexadecimal digits are the first of a SHA-256 over the canonical JSON of [digest of the generator, seed, class];
the index is that of the image among all that the generator can draw of the class. Earlier keys were

    <12 hexadecimal digits of the generator>-<class>-<shard>-<candidate>    29 characters and the class

The tars hold these whole, but an index has room for 40 characters: a class of more than 11 characters had its keys
truncated there, and several images share one. ``cxrdist shards convert`` replaces such keys.
"""

from __future__ import annotations

import re
import tarfile
from shlex import quote
from typing import Any

import numpy as np

from cxrdist.data.shards.index import KEY_DTYPE, ShardTable, index_name, parse_index
from cxrdist.data.shards.manifest import StratumEntry
from cxrdist.data.shards.schema import Problem, ShardSetError
from cxrdist.data.storage.store import Store
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, sha256_bytes, slug

PREFIX_DIGITS = 16
KEY_BYTES = KEY_DTYPE.itemsize
LONGEST_EARLIER_CLASS = KEY_BYTES - len("0123456789ab--000000-00000000")
"""Characters of a class in file names with which an earlier key fits into an index."""

_EARLIER = re.compile(r"[0-9a-f]{12}-[a-z0-9-]+-[0-9]{6}-[0-9]{8}")
_TRUNCATED = re.compile(rf"[0-9a-f]{{12}}-[a-z0-9-]{{{KEY_BYTES - 13}}}")


def key_prefix(generator_sha256: str, seed: int, class_name: str) -> str:
    """What the keys of a class share in one synthesis."""
    return _digits([generator_sha256, seed, class_name])


def key_of(prefix: str, index: int) -> str:
    return f"{prefix}-{index:010d}"


def index_of(key: str) -> int:
    return int(key.rpartition("-")[2])


def is_long_key(key: str) -> bool:
    """True if a key of a tar is one of an earlier version that no index has room for."""
    return len(key) > KEY_BYTES and _EARLIER.fullmatch(key) is not None


def replaced(key: str) -> str:
    """``key``, or a shorter one if it is a long one of an earlier version. Shard and candidate are kept; the 16
    digits before them are the first of a SHA-256 over the canonical JSON of [generator and class as in the key]."""
    if not is_long_key(key):
        return key
    of_class, shard, candidate = key.rsplit("-", 2)
    return f"{_digits([of_class])}-{shard}-{candidate}"


def are_truncated(keys: np.ndarray) -> bool:
    """True if any of keys [n] S40 of synthetic images lost its end."""
    full = keys[np.char.str_len(keys) == KEY_BYTES].tolist() if len(keys) else []
    return any(_is_truncated(key.decode()) for key in full)


def has_truncated_keys(store: Store, entry: StratumEntry, shards: ShardTable) -> bool:
    """True if the shards of a stratum have truncated keys. Reads one index, or, if that is damaged, the first header
    of its tar; reads nothing if the class has a short name."""
    if entry.origin != "synthetic" or len(slug(entry.class_name)) <= LONGEST_EARLIER_CLASS or not shards:
        return False
    row = shards[0]
    try:
        return are_truncated(parse_index(store.read(index_name(row.name)), row, store)["key"])
    except (FileNotFoundError, UserError):
        return is_long_key(_first_key(store, row.name))


def refusal(place: Store) -> ShardSetError:
    """The error for a set with truncated keys: what to do about it."""
    detail = (
        f"its images are intact, but an earlier version truncated their keys to {KEY_BYTES} characters, so several "
        "images share one"
    )
    remedy = (
        "make a set with whole keys with "
        f"`cxrdist shards convert {quote(str(place))} --out {quote(f'{place}-whole-keys')}`"
    )
    return ShardSetError(place, Problem("truncated keys", "", detail), remedy)


def _digits(words: list[Any]) -> str:
    return sha256_bytes(canonical_json(words))[:PREFIX_DIGITS]


def _is_truncated(key: str) -> bool:
    return _TRUNCATED.fullmatch(key) is not None and _EARLIER.fullmatch(key) is None


def _first_key(store: Store, tar: str) -> str:
    """ "" where it cannot be read."""
    try:
        header = store.read_range(tar, 0, tarfile.BLOCKSIZE)
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict").name.partition(".")[0]
    except (FileNotFoundError, tarfile.HeaderError, ValueError):
        return ""
