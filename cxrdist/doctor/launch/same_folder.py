"""Whether all machines see one folder: rank 0 writes a token, and the others look for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cxrdist.doctor.folders import PREFIX

T = TypeVar("T")
PATIENCE_S = 5.0
"""NFS may show a new file late: it keeps what it knows of a folder for some seconds."""


@contextlib.contextmanager
def token(folder: Path) -> Iterator[Path]:
    """A file with its own name in it, in the folder, which is made if need be and then removed again."""
    above = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        path.write_text(path.name)
        yield path
    finally:
        path.unlink(missing_ok=True)
        for made in above:
            with contextlib.suppress(OSError):  # another job has written into it
                made.rmdir()


def sees(path: Path) -> bool:
    """True if this process reads the token."""
    return bool(_patiently(lambda: path.is_file() and path.read_text() == path.name))


def is_refused_lock(path: Path) -> bool:
    """True if this process can't lock the token, which rank 0 has locked."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _patiently(look: Callable[[], T]) -> T:
    until = time.monotonic() + PATIENCE_S
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.2)
    return found
