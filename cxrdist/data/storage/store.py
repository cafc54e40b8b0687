"""Stores: where the files of a shard set are, in a local folder or at a prefix of an object store.

Both hold plain files with plain names, and a file is complete or absent: locally by a temporary name, fsync and
rename; remotely because an object store shows an object only when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.data.storage.mapped_file import MappedFile, can_catch_faults
from cxrdist.errors import UserError
from cxrdist.files import FolderLock, atomic_writer, remove_temporaries

_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MAPS = 512 if _DESCRIPTORS == resource.RLIM_INFINITY else min(512, _DESCRIPTORS // 2)
"""Most files that stay mapped, over all stores. Each uses a file descriptor; most systems allow a process 1,024."""

LARGEST_READ_BYTES = 2**26
"""Python reserves memory for as much as it is asked to read, though the file may be shorter."""

# One cache for all stores: an unused store may wait for the garbage collector with its files open.
_maps: OrderedDict[tuple[LocalStore, str], MappedFile] = OrderedDict()
_mapping = threading.Lock()


class Store(Protocol):
    """The files of one set, by name; ``str()`` is the place as the user wrote it.

    Reading a missing file raises FileNotFoundError; other failures raise an OSError or a UserError. Stores can be
    pickled.
    """

    @property
    def is_shared(self) -> bool:
        """True if other processes see the same files."""
        ...

    def exists(self, name: str) -> bool: ...

    def is_there(self) -> bool:
        """True if the place exists. An object store has no folders: there a place exists if it has a file."""
        ...

    def names(self) -> list[str]:
        """Names of the files and folders directly in the place, sorted; [] if it does not exist."""
        ...

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start``; fewer if the file ends before."""
        ...

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file to read it sequentially."""
        ...

    def writer(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A new file, which gets its name when the ``with`` block ends without an exception; else it is removed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        ...

    def lock(self, purpose: str) -> Callable[[], None]:
        """Lock the place against other writers, and return the release function. Raises UserError if another process
        is writing."""
        ...

    def tidy(self) -> None:
        """Remove temporary files that killed writers left."""
        ...

    def remove_if_empty(self) -> None: ...

    def close(self) -> None: ...


class LocalStore:
    """Files in a local folder."""

    is_shared = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self.folder,)

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()

    def is_there(self) -> bool:
        return self.folder.is_dir()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        return self._file(name).read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self.open(name) as file:
            try:
                return _read_at(file.fileno(), start, length)
            except OSError as error:
                reason = f"{error.strerror}, in the {length:,} bytes from byte {start:,} on: check its disk"
                raise UnreadableFile(self, name, reason) from error

    def spans(self, name: str, places: Iterable[tuple[int, int]]) -> list[memoryview]:
        """The bytes of a file at some places, each start and length in bytes; fewer if the file ends before.

        They lie in a map of the file: of what the file loses while they are in use, zeros are read. So compare them
        with a hash. Raises FileNotFoundError.
        """
        if not can_catch_faults():
            return [memoryview(self.read_range(name, *place)) for place in places]
        whole = self._mapped(name)
        return [whole[start : start + length] for start, length in places]

    def _mapped(self, name: str) -> memoryview:
        with _mapping:
            file = _maps.pop((self, name), None)
            if file is None or file.is_torn or _size(file) != len(file):
                with self.open(name) as opened:
                    try:
                        file = MappedFile(opened.fileno())
                    except ValueError:
                        return memoryview(b"")  # an empty file can't be mapped
            _maps[self, name] = file
            while len(_maps) > MAPS:
                _maps.popitem(last=False)  # unmapped when its last view is gone
        return memoryview(file)

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return self._file(name).open("rb")

    def _file(self, name: str) -> Path:
        """The path of a file. Raises UnreadableFile for a pipe or a device, reading which may never end."""
        path = self.folder / name
        if path.exists() and not path.is_file():
            raise UnreadableFile(self, name, "not a regular file; remove it from the set")
        return path

    def writer(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return atomic_writer(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def lock(self, purpose: str) -> Callable[[], None]:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file; name a folder with --out")
        return FolderLock(self.folder, purpose).release

    def tidy(self) -> None:
        remove_temporaries(self.folder)

    def remove_if_empty(self) -> None:
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def close(self) -> None:
        with _mapping:
            for key in [key for key in _maps if key[0] is self]:
                del _maps[key]


def _read_at(descriptor: int, start: int, length: int) -> bytes:
    """``length`` bytes from byte ``start``; fewer if the file ends before."""
    parts = []
    while length and (part := os.pread(descriptor, min(length, LARGEST_READ_BYTES), start)):
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _size(file: MappedFile) -> int:
    try:
        return file.size()
    except OSError as error:
        if error.errno != errno.ESTALE:  # removed on another host, as NFS says it
            raise
        return -1


def store_of(place: str | Path | Store) -> Store:
    """The store at a folder or an fsspec URL (``s3://bucket/set``, ``gs://``, ``memory://`` ...).

    Raises UserError for a URL that fsspec does not know, and for ``pipe:`` and chained URLs (``a::b``): they run
    commands, or read other places than they name.
    """
    if not isinstance(place, str | Path):
        return place
    text = str(place)
    if text.startswith("pipe:"):
        raise UserError(
            f"{text}: a pipe: URL would run a command, which is refused; give a folder or another URL"
        )
    if isinstance(place, Path) or "://" not in text:
        return LocalStore(Path(place))
    if text.startswith(("file://", "local://")):
        return LocalStore(Path(text.partition("://")[2]))
    from cxrdist.data.storage.remote import RemoteStore

    return RemoteStore(text)


def write_to(store: Store, name: str, data: bytes) -> None:
    """Write a file, complete or not at all."""
    with store.writer(name) as file:
        file.write(data)


@contextlib.contextmanager
def locked(store: Store, purpose: str) -> Iterator[None]:
    """Hold a store's lock for the ``with`` block."""
    release = store.lock(purpose)
    try:
        yield
    finally:
        release()
