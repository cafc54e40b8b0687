"""Files that are either whole or absent: written under a temporary name, fsynced, renamed; hashed; locked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cxrdist.errors import UserError

LOCK_NAME = ".lock"


def slug(name: str) -> str:
    """``Pleural Effusion`` -> ``pleural-effusion``: the name of a class as it stands in file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "class"


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: keys sorted, indent 1, ASCII, newline at the end."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its name only when the block ends well; else nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Anew, never through a link that lies there under this name.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it stopped
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def read_json(path: Path) -> Any:
    """A JSON file. Raises UserError where it is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); restore it from a copy") from None


def is_temporary(name: str) -> bool:
    """Whether ``atomic_writer`` gives this name to a file that is not whole yet."""
    return re.fullmatch(r"\..+\.[0-9]+\.tmp", name, re.DOTALL) is not None


def remove_temporaries(folder: Path) -> None:
    """What a killed writer left under temporary names."""
    for path in folder.iterdir():
        if is_temporary(path.name):
            path.unlink(missing_ok=True)


class FolderLock:
    """One writer per folder. The kernel lets go of the lock when the process ends, however it ends."""

    def __init__(self, folder: Path, purpose: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOCK_NAME
        while True:
            try:
                # A link here would have some other file of the user's emptied.
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                if not self.path.is_symlink():
                    raise
                raise UserError(f"{self.path}: a link, which no lock is: remove it") from error
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._descriptor, 1000).decode(errors="replace") or "another process"
                os.close(self._descriptor)
                raise UserError(
                    f"{folder} is being written by {holder}: wait for it to end, stop it, or name another folder"
                ) from None
            if self._is_the_file_on_disk():
                break
            os.close(self._descriptor)
        # On a full disk the lock holds all the same; it only cannot say whose it is.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.write(
                self._descriptor, f"{purpose} (process {os.getpid()} on {socket.gethostname()})".encode()
            )

    def _is_the_file_on_disk(self) -> bool:
        # Its last holder may have removed it between our open and our lock: then we hold a lock on nothing.
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
