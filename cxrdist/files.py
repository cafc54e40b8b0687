"""Files that are complete or absent (temporary name, fsync, rename); their hashes; locks of folders."""

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
SHA256 = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hexadecimal digits."""


def slug(name: str) -> str:
    """``Pleural Effusion`` -> ``pleural-effusion``: the name of a class in file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "class"


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of a JSON value: sorted keys, indent 1, ASCII, newline at the end."""
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


def nearest_folder(place: str | Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = Path(place).absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def is_listed(path: Path) -> bool:
    """Whether a file that another machine may have written is there. NFS may know from before that it does not exist;
    its folder is listed anew."""
    return path.parent.is_dir() and any(each.name == path.name for each in path.parent.iterdir())


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A binary file, which gets its name when the ``with`` block ends without an exception; else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A symlink of this name must not be followed.
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
            error.filename = str(path)  # the error of a full disk names no file
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that is complete or absent; see ``atomic_writer``."""
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises UserError if the file does not exist or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); restore it from a copy") from None


def is_temporary(name: str) -> bool:
    """True for names that ``atomic_writer`` gives to incomplete files."""
    return re.fullmatch(r"\..+\.[0-9]+\.tmp", name, re.DOTALL) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder."""
    for path in folder.iterdir():
        if is_temporary(path.name):
            path.unlink(missing_ok=True)


class FolderLock:
    """A lock that allows one writer per folder. The kernel releases it when the process ends, even if it is killed.

    Raises UserError, with the holder, if another process has the lock.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOCK_NAME
        while True:
            try:
                # O_NOFOLLOW: through a symlink, another file of the user would be truncated.
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                if not self.path.is_symlink():
                    raise
                raise UserError(f"{self.path}: a symlink instead of a lock file: remove it") from error
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._descriptor, 1000).decode(errors="replace") or "another process"
                os.close(self._descriptor)
                raise UserError(
                    f"{folder} is being written by {holder}: wait until it ends, stop it, or use another folder"
                ) from None
            if self._is_the_file_on_disk():
                break
            os.close(self._descriptor)
        # On a full disk the lock works without the name of its holder.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.write(
                self._descriptor, f"{purpose} (process {os.getpid()} on {socket.gethostname()})".encode()
            )

    def _is_the_file_on_disk(self) -> bool:
        # The last holder may have removed the file between our open and our lock: then the lock protects nothing.
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock and remove its file."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
