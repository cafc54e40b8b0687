"""Read the ``.wandb`` file of a run: what an earlier process has handed to W&B.

W&B ships no reader for Python. The file is a leveldb log (github.com/google/leveldb, doc/log_format.md) whose header
is 7 bytes: blocks of 32 KiB, in each chunks of ``crc uint32, length uint16, type uint8, bytes``; a record is one
chunk (type 1), or a first (2), middle ones (3) and a last (4). Its bytes are a protobuf ``wandb_internal.Record``.
"""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32 * 1024
CLOSE_TIMEOUT_S = 10
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a file, up to the first incomplete one."""
    return (record for record, _ in _records(path))


def _records(path: Path) -> Iterator[tuple[Any, int]]:
    """Each record, and the offset in bytes of its end."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER_BYTES, b""
    while True:
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < _CHUNK.size:
            at += left
        if at + _CHUNK.size > len(data):
            return
        _, length, kind = _CHUNK.unpack_from(data, at)
        start, at = at + _CHUNK.size, at + _CHUNK.size + length
        if kind == 0 or at > len(data):
            return
        parts = data[start:at] if kind in (_WHOLE, _FIRST) else parts + data[start:at]
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record, at


def files_of(folder: Path, run_id: str) -> list[Path]:
    """The ``.wandb`` files of one W&B run in a run folder, oldest first."""
    return sorted((folder / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb"))


def rows_logged(folder: Path, run_id: str) -> int:
    """The number of history rows of a W&B run that the files in a run folder hold, by their step."""
    steps = [step for path in files_of(folder, run_id) for step in _steps(path)]
    return max(steps, default=-1) + 1


def _steps(path: Path) -> Iterator[int]:
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                if [*item.nested_key] == ["_step"] or item.key == "_step":
                    yield int(json.loads(item.value_json))


def settle(folder: Path, run_id: str) -> None:
    """Wait for W&B's process of an earlier job, which writes for a moment after the job has ended, and cut what a
    killed one left incomplete: `wandb sync` stops at the first such file, and uploads none after it. The folder of a
    file without any record is removed."""
    end_s = time.monotonic() + CLOSE_TIMEOUT_S
    for path in files_of(folder, run_id):
        while _is_open(path):
            if time.monotonic() > end_s:
                return
            time.sleep(0.1)
        end = max((end for _, end in _records(path)), default=0)
        if end == 0:
            shutil.rmtree(path.parent)
        elif end < path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(end)
    # W&B names folders by the second, and a second one of that name would overwrite the first.
    while any(time.strftime("%Y%m%d_%H%M%S") in path.parent.name for path in files_of(folder, run_id)):
        time.sleep(0.1)


def _is_open(path: Path) -> bool:
    """True if a process of this user has the file open."""
    wanted = path.resolve()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == wanted:
                return True
        except OSError:  # closed in the meantime, or another user's
            continue
    return False
