"""How a command says an error: once on a machine, by the rank that has it first, and in the launcher's last lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from cxrdist import ranks

SAME_ERROR_WITHIN_S = 2.0
"""Ranks that have the same error reach it within this time of each other."""
RANK_0_FIRST_S = 0.5


def say_error(message: str, *, before: str = "") -> None:
    """Print a message on stderr, unless another rank on this machine prints the same one now.

    ``before``: what is printed before it, which may differ between ranks. Returns when the other ranks of this
    machine have had the time to find that it is printed.
    """
    line = before + message
    _tell_launcher(line.removeprefix("error: "))
    if ranks.world_size() == 1:
        _print(line)
        return
    if not ranks.is_main_rank():
        time.sleep(RANK_0_FIRST_S)
    with _claim(message) as is_ours:
        if is_ours:
            _print(line)
            time.sleep(SAME_ERROR_WITHIN_S)


def say_unexpected(error: BaseException) -> None:
    """Print the traceback of an error that no message foresees."""
    where = ranks.place()
    say_error(
        "".join(traceback.format_exception(error)).rstrip(), before=f"error: {where}: " if where else ""
    )


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # who reads it is gone
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _claim(message: str) -> Iterator[bool]:
    """Whether this rank is the first one with ``message``, for the ranks of one launcher on this machine.

    The claim is an abstract socket (Linux), which ends with its process; elsewhere every rank is the first.
    """
    digest = hashlib.sha256(message.encode("utf-8", "replace")).hexdigest()[:16]
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0cxrdist-error-{os.getppid()}-{digest}")
        except OSError:
            yield not sys.platform.startswith("linux")
        else:
            yield True


def _tell_launcher(message: str) -> None:
    """Write the message where torchrun, and accelerate with several processes, take the cause from that they print
    last (torch.distributed.elastic.multiprocessing.errors)."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
