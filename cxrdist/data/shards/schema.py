"""What the files of a shard set may say, checked before anything is made of it.

A digest tells that a file is the one that was written, not who wrote it: in a set from a stranger all digests may
fit, and its manifest name a thousand billion samples, or its index a place outside the tar.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cxrdist.data.imaging.codecs import ENCODINGS
from cxrdist.data.imaging.errors import MAX_PIXELS
from cxrdist.data.imaging.npy import header_of
from cxrdist.data.imaging.radiograph import FOREIGN
from cxrdist.errors import CONTROL_CHARACTERS, UserError, is_plain

SPLITS = ("train", "val", "test")
ORIGINS = ("real", "synthetic")
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
MAX_IMAGE_BYTES = 2**30
MAX_TEXT_BYTES = 2**20
KEY_DTYPE = INDEX_DTYPE["key"]
MOST_CLASSES = 2**16 - 1
LONGEST_SLUG = 200
"""Characters of a class in file names: with split, origin, number and ending they stay within 255 bytes, also under
the temporary name of a file that is being written."""
LARGEST_COUNT = 2**53
"""Larger whole numbers are not exact in every reader of JSON."""
LONGEST_NAME_BYTES = 255
LEAST_SAMPLE_BYTES = 4 * 512
"""Two members of a tar, an image and what is told of it, each a header and a block."""

_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PATIENT = re.compile(r"[A-Za-z0-9_-]{0,24}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD_BYTES = np.zeros(256, bool)
_WORD_BYTES[[0, *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"]] = True

Check = Callable[[Any], bool]
Form = Mapping[str, Check]


def is_text(value: Any) -> bool:
    """Text that a terminal can show."""
    return isinstance(value, str) and is_plain(value)


def is_name(value: Any) -> bool:
    """The name of a file in the set itself: not hidden, and leading nowhere else."""
    is_one = is_text(value) and not value.startswith(".") and not set(value) & {"/", "\\"}
    return is_one and 0 < len(value.encode()) <= LONGEST_NAME_BYTES


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _is_some(value: Any) -> bool:
    return is_count(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST_COUNT  # which no NaN is


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_option(value: Any) -> bool:
    return not isinstance(value, list) or all(isinstance(item, str) for item in value)


def _is_patient(value: Any) -> bool:
    return isinstance(value, str) and _PATIENT.fullmatch(value) is not None


def _is_below(limit: int) -> Check:
    return lambda value: isinstance(value, int) and 0 <= value < limit


def _list_of(is_item: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


def _mapping_of(is_item: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(is_item, value.values()))


def _with(form: Form, needed: Collection[str] = ()) -> Check:
    return lambda value: isinstance(value, dict) and not _wrong(value, form, needed)


def _wrong(value: Mapping[str, Any], form: Form, needed: Collection[str]) -> list[str]:
    """The keys of a form that are not as they should be, or needed and missing."""
    return [
        key for key, is_right in form.items() if (not is_right(value[key]) if key in value else key in needed)
    ]


# What is read of a sample's metadata, in whichever set; others may be beside it.
_META: Form = {
    "patient": lambda value: value is None or _is_patient(value),
    "view": lambda value: value is None or is_text(value),
    "sex": lambda value: value is None or is_text(value),
    "age": lambda value: value is None or is_text(value) or _is_number(value),
    "findings": _list_of(is_text),
}
_TOLD: Form = {**_META, "age": lambda value: value is None or is_count(value)}
_ROW: Form = {
    "name": lambda name: is_name(name) and name.endswith(".tar"),
    "bytes": _is_some,
    "sha256": _is_digest,
    "index_sha256": _is_digest,
    "samples": _is_some,
    # Of others' tars alone: our own hold what is told of each sample.
    "told": _list_of(_with(_TOLD)),
}
# What a row need not have.
_ROW_NEEDED = _ROW.keys() - {"told"}
_STRATUM: Form = {
    "split": lambda split: split in SPLITS,
    "class": is_text,
    "origin": lambda origin: origin in ORIGINS,
    "samples": _is_some,
    "bytes": _is_some,
    "shards": _is_some,
    "table": is_name,
    "table_sha256": _is_digest,
}
_GATE: Form = {"admitted": is_count, "tried": is_count}
# All that is told of where a set comes from; a set need not have it.
_PROVENANCE: Form = {
    "importer": is_text,
    "release": is_text,
    "options": _mapping_of(_is_option),
    "source_options": _mapping_of(_is_option),
    "left_out": _mapping_of(is_count),
    "notes": _mapping_of(is_count),
    "undecodable": is_count,
    "unused_tars": _list_of(is_name),
    "near_duplicates": lambda value: value is None or _mapping_of(is_count)(value),
    "gates": _mapping_of(_with(_GATE, _GATE)),
    "converted": _list_of(_with({"from": is_text}, ("from",))),
}
_LINEAGE: Form = {"kind": is_text, "real_digest": is_text, "split": is_text, "ancestors": _list_of(is_text)}
_MANIFEST: Form = {
    "classes": lambda names: _list_of(is_text)(names) and 0 < len(names) == len(set(names)) <= MOST_CLASSES,
    "image_size": lambda size: is_count(size) and 0 < size <= math.isqrt(MAX_PIXELS),
    "encoding": lambda encoding: encoding in (*ENCODINGS, *FOREIGN.values()),
    "strata": _list_of(_with(_STRATUM, _STRATUM)),
    "counts": _mapping_of(_mapping_of(_mapping_of(is_count))),
    "provenance": _with(_PROVENANCE),
    "lineage": _with(_LINEAGE, ("kind",)),
}


def check_manifest(manifest: dict[str, Any], where: str) -> None:
    """Raises UserError, naming what it is about, for a manifest that no writer of ours writes."""
    _refuse(where, _wrong_in_manifest(manifest))


def _wrong_in_manifest(manifest: dict[str, Any]) -> list[str]:
    wrong = _wrong(manifest, _MANIFEST, _MANIFEST)
    if not wrong and _holds_no_text(manifest):
        wrong.append("text")
    if not wrong:
        strata = [(entry["split"], entry["class"], entry["origin"]) for entry in manifest["strata"]]
        is_known = all(name in manifest["classes"] for _, name, _ in strata)
        is_once = len(set(strata)) == len(strata)
        wrong += [] if is_known and is_once and _is_room(manifest["strata"]) else ["strata"]
    return wrong


def _holds_no_text(value: Any) -> bool:
    """Whether anything in a JSON value is no text that a terminal can show."""
    words = json.dumps(value, ensure_ascii=False).replace("\\\\", "")
    return re.search(rf"\\[bfnrtu]|{CONTROL_CHARACTERS.pattern}", words) is not None


def check_table(table: Any, where: str) -> None:
    """Likewise for a shard table."""
    _refuse(where, _wrong_in_table(table))


def _wrong_in_table(table: Any) -> list[str]:
    wrong = (
        _wrong(table, {"shards": _list_of(_with(_ROW, _ROW_NEEDED))}, ("shards",))
        if isinstance(table, dict)
        else ["shards"]
    )
    if not wrong:
        rows = table["shards"]
        is_once = len({row["name"] for row in rows}) == len(rows)
        is_told = all(len(row["told"]) == row["samples"] for row in rows if "told" in row)
        wrong += [] if is_once and is_told and _is_room(rows) else ["shards"]
    return wrong


def _is_room(rows: list[dict[str, Any]]) -> bool:
    """Whether so many samples fit into so many bytes."""
    return all(row["samples"] * LEAST_SAMPLE_BYTES <= row["bytes"] for row in rows)


def index_of(data: bytes, row: Mapping[str, Any], where: str, *, is_foreign: bool = False) -> np.ndarray:
    """The bytes of an index, as [samples] of ``INDEX_DTYPE``, for a row of a shard table; of a tar that others wrote
    (``is_foreign``) it also has the samples of other tables. Raises UserError where
    they are anything else, or name a place outside the tar; nothing is unpickled, or allocated at their word."""
    stream = io.BytesIO(data)
    try:
        shape, _, dtype = header_of(stream)
    except Exception:  # on foreign bytes it may raise nearly anything
        shape, dtype = (), np.dtype(object)
    if (
        dtype != INDEX_DTYPE
        or len(shape) != 1
        or len(data) - stream.tell() != shape[0] * INDEX_DTYPE.itemsize
    ):
        raise _refusal(where, "form")
    if shape[0] < row["samples"] or (shape[0] > row["samples"] and not is_foreign):
        raise _refusal(where, "form")
    index = np.frombuffer(data, INDEX_DTYPE, offset=stream.tell())
    for name in ("key", "split", "origin", "patient"):
        if not _WORD_BYTES[np.ascontiguousarray(index[name]).view(np.uint8)].all():
            raise _refusal(where, name)
    offset, length = index["offset_bytes"], index["length_bytes"]
    # Each alone first: the sum of two numbers of 64 bits may come out small.
    most = np.uint64(row["bytes"])
    if (offset > most).any() or (length > np.uint64(MAX_IMAGE_BYTES)).any() or (offset + length > most).any():
        raise _refusal(where, "offset_bytes")
    return index


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


# The fields of INDEX_DTYPE, in their order; numpy would truncate what is too long without a word.
_INDEX_FIELDS: Form = {
    "key": lambda value: isinstance(value, str) and is_key(value),
    "split": lambda value: value in SPLITS,
    "class": _is_below(MOST_CLASSES),
    "origin": lambda value: value in ORIGINS,
    "offset_bytes": _is_below(2**64),
    "length_bytes": _is_below(MAX_IMAGE_BYTES + 1),
    "xxh3_64": _is_below(2**64),
    "patient": _is_patient,
}


def check_row(row: Sequence[Any], tar: str) -> None:
    """Raises UserError for a row of an index to be written that does not fit ``INDEX_DTYPE``, or that no reader
    accepts: a key has 1 to 40 of ``A-Za-z0-9_-``, a patient at most 24."""
    for (field, fits), value in zip(_INDEX_FIELDS.items(), row, strict=True):
        if not fits(value):
            raise _unwritable(f"{tar}: sample {row[0]!a}", field, value)


def check_sample(key: str, meta: dict[str, Any], image_bytes: int, tar: str) -> None:
    """Raises UserError for a sample to be written whose key, metadata or size no reader accepts."""
    if not is_key(key):
        raise _unwritable(f"{tar}: sample {key!a}", "key", key)
    if wrong := _wrong(meta, _META, ()):
        raise _unwritable(f"{tar}: sample {key!r}", wrong[0], meta[wrong[0]])
    if image_bytes > MAX_IMAGE_BYTES:
        raise _unwritable(f"{tar}: sample {key!r}", "length_bytes", image_bytes)


def check_provenance(provenance: dict[str, Any], where: str) -> None:
    """Raises UserError for a provenance to be written that no reader accepts: an option with a control
    character, say."""
    for name, value in provenance.items():
        if _wrong({name: value}, _PROVENANCE, ()) or _holds_no_text(value):
            raise _unwritable(where, name, value)


def check_written_manifest(manifest: dict[str, Any], where: str) -> None:
    """Raises UserError for a manifest to be written that no reader accepts."""
    if wrong := _wrong_in_manifest(manifest):
        raise _unwritable(where, wrong[0], manifest.get(wrong[0]))


def check_written_table(table: dict[str, Any], where: str) -> None:
    """Raises UserError for a shard table to be written that no reader accepts."""
    if wrong := _wrong_in_table(table):
        raise _unwritable(where, wrong[0], table[wrong[0]])


def _unwritable(where: str, field: str, value: Any) -> UserError:
    return UserError(
        f"{where}: its {field} is {ascii(value)[:100]}, which no reader of shard sets accepts; nothing of it was "
        "written: change it in the source or the options",
        every_rank=True,
    )


def check_meta(meta: Any, where: str) -> None:
    """Raises UserError for a sample's metadata that no writer of ours writes."""
    _refuse(where, _wrong(meta, _META, ()) if isinstance(meta, dict) else ["form"])


def _refuse(where: str, wrong: Collection[str]) -> None:
    if wrong:
        raise _refusal(where, next(iter(wrong)))


def _refusal(where: str, what: str) -> UserError:
    return UserError(
        f"{where}: what it says of its {what} can't be true of a set, though its digest fits: somebody else wrote "
        "it; do not use this set",
        every_rank=True,
    )
