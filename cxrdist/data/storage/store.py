"""Where the files of a shard set lie: a local folder, or a prefix of an object store.

Both hold plain files with plain names, and a file is there whole or not at all: locally by a temporary name,
fsync and rename, remotely because a store shows an object once it has all of it.
"""

from __future__ import annotations

import contextlib
import mmap
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.errors import UserError
from cxrdist.files import FolderLock, atomic_writer, remove_temporaries

_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MAPS = 512 if _DESCRIPTORS == resource.RLIM_INFINITY else min(512, _DESCRIPTORS // 2)
"""Files of all folders that are kept mapped. Each holds a descriptor, of which most systems give a process 1,024."""

# Of all stores together: those that nobody uses any more may wait for the garbage collector, their files open.
_maps: OrderedDict[tuple[LocalStore, str], mmap.mmap] = OrderedDict()
_mapping = threading.Lock()


class Store(Protocol):
    """The files of one set by name; ``str()`` is the place as the user wrote it.

    Reading a file that is not there raises FileNotFoundError; whatever else a place refuses is an OSError or a
    UserError. Stores travel to worker processes.
    """

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same files."""
        ...

    def exists(self, name: str) -> bool: ...

    def is_there(self) -> bool:
        """Whether the place itself exists; an object store has no folders, so there it needs a file."""
        ...

    def names(self) -> list[str]:
        """The files (and folders) directly in the place, sorted; [] where it does not exist."""
        ...

    def size(self, name: str) -> int:
        """Bytes."""
        ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the file ends before."""
        ...

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """The file for reading from its beginning, sequentially."""
        ...

    def writer(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A new file that takes its name only when the block ends well; else nothing of it is left."""
        ...

    def remove(self, name: str) -> None:
        """Nothing happens where it is not there."""
        ...

    def lock(self, purpose: str) -> Callable[[], None]:
        """Keep other writers out; returns what lets them in again. Raises UserError where one is writing."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers left under temporary names."""
        ...

    def remove_if_empty(self) -> None: ...

    def close(self) -> None: ...


class LocalStore:
    """A folder."""

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
        return bytes(self.mapped(name)[start : start + length])

    def mapped(self, name: str) -> memoryview:
        """The bytes of a file, not copied: the system reads those that are looked at. Raises FileNotFoundError.

        Reading behind the end of a file that was truncated kills the process (SIGBUS), so a file is mapped anew when
        its length is not what it was; ask for it again, then, before each batch of reads.
        """
        with _mapping:
            file = _maps.pop((self, name), None)
            if file is None or file.size() != len(file):
                with self.open(name) as opened:
                    if not opened.seek(0, 2):
                        return memoryview(b"")  # it can't be mapped
                    file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            _maps[self, name] = file
            while len(_maps) > MAPS:
                _maps.popitem(last=False)  # unmapped once nobody holds a view of it
        return memoryview(file)

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return self._file(name).open("rb")

    def _file(self, name: str) -> Path:
        """Raises UnreadableFile for what may never end, as a pipe or a device does."""
        path = self.folder / name
        if path.exists() and not path.is_file():
            raise UnreadableFile(self, name, "not a file, as all of a set are; move it to another folder")
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


def store_of(place: str | Path | Store) -> Store:
    """The store at a folder or an fsspec URL (``s3://bucket/set``, ``gs://``, ``memory://`` ...).

    Raises UserError for a URL that fsspec does not know; ``pipe:`` and chained URLs (``a::b``) are never
    followed, since they run commands or read other places than they name.
    """
    if not isinstance(place, str | Path):
        return place
    text = str(place)
    if text.startswith("pipe:"):
        raise UserError(f"{text}: a pipe: URL runs a command, and none is run here; name a folder or a URL")
    if isinstance(place, Path) or "://" not in text:
        return LocalStore(Path(place))
    if text.startswith(("file://", "local://")):
        return LocalStore(Path(text.partition("://")[2]))
    from cxrdist.data.storage.remote import RemoteStore

    return RemoteStore(text)


def write_to(store: Store, name: str, data: bytes) -> None:
    with store.writer(name) as file:
        file.write(data)


@contextlib.contextmanager
def locked(store: Store, purpose: str) -> Iterator[None]:
    release = store.lock(purpose)
    try:
        yield
    finally:
        release()
