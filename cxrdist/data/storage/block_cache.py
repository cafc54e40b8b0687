"""A cache of blocks of remote sets on the local disk, shared by all processes of the machine.

    <folder>/<SHA-256 of a tar>-<start>-<digest>   images of the tar, from byte <start> on, end to end
    <folder>/.lock                                 locks of the folder and of blocks being fetched; bytes in use

The folder is ``$CXRDIST_CACHE``, else ``$XDG_CACHE_HOME/cxrdist/blocks``, else ``~/.cache/cxrdist/blocks``. It
contains images of people, without metadata, so only its user has access. Files are named by their content: a file
that one set, run or rank added serves all others. The folder may be deleted at any time, even while a job is running:
``rm -r ~/.cache/cxrdist/blocks``. It holds at most 20 GiB, or a quarter of the disk space that would be free without
it; ``$CXRDIST_CACHE_GIB`` sets another limit, and 0 disables the cache. Files with other names are not touched.

No file of the cache is trusted: a process that maps one checks the hash of every sample first. So files need no
fsync, and a power failure costs at most another fetch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import math
import os
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from cxrdist.data.storage.blocks import BLOCK_BYTES
from cxrdist.data.storage.mapped_file import MappedFile, can_catch_faults
from cxrdist.errors import UserError
from cxrdist.files import LOCK_NAME

log = logging.getLogger(__name__)

FOLDER_VARIABLE, LIMIT_VARIABLE = "CXRDIST_CACHE", "CXRDIST_CACHE_GIB"
DEFAULT_LIMIT_BYTES = 20 * 2**30
SHARE_OF_FREE_DISK = 0.25
SPARE_SHARE = 1 / 64
"""Share of the limit that is freed beyond what a new block needs, since finding the oldest files means a scan of
all."""
FOLDER_LOCK_TIMEOUT_S = 10.0
CLAIM_TIMEOUT_S = 60.0
"""Not forever: the process that fetches a block may have been suspended (Ctrl-Z)."""
_OURS = re.compile(r"\.?[0-9a-f]{64}-[0-9]+-[0-9a-f]{16}(?P<temporary>\.[0-9]+\.tmp)?")
_IN_USE = struct.Struct("<Q")
_FOLDER_BYTE = 0
"""The byte of the lock file whose lock protects the folder; the other bytes are for blocks."""


class BlockCache:
    """A folder of the blocks that were used last, each complete or absent, with a total of at most ``limit_bytes``.

    The limit includes blocks that are being written. It does not include removed files that a process still reads:
    they keep their disk space until the process releases them (at most ``block_reader.HELD_BYTES`` per process). If
    the folder can't be written, its disk is full, or the limit is less than a usual block, the cache logs one warning
    and turns itself off.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """``limit_bytes`` None: 20 GiB, or a quarter of the free disk space if that is less."""
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._opening, self._threads = threading.Lock(), threading.Lock()
        self._descriptor = -1
        self._is_off = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _cache_at, (self.folder, self._limit_bytes)

    @property
    def limit_bytes(self) -> int:
        if self._limit_bytes is None and self.is_on:
            free = shutil.disk_usage(self.folder).free + self._in_use()
            self._limit_bytes = min(DEFAULT_LIMIT_BYTES, int(SHARE_OF_FREE_DISK * free))
        return self._limit_bytes or 0

    def find(self, name: str, length_bytes: int) -> memoryview | None:
        """The bytes of a file, memory-mapped; None if there is no file of that name and length. Of what the file
        loses later, zeros are read: compare what you use with its hash."""
        if not self.is_on:
            return None
        try:
            # O_NONBLOCK: opening a pipe would wait.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.folder / name, flags)
            try:
                if os.fstat(descriptor).st_size != length_bytes:
                    return None
                if can_catch_faults():
                    view = memoryview(MappedFile(descriptor))
                else:
                    view = memoryview(os.pread(descriptor, length_bytes, 0))
                if len(view) != length_bytes:
                    return None
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return None
        self.touch(name)
        return view

    def touch(self, name: str) -> None:
        """Mark a file as used now: files that were not used for longest are removed first."""
        with contextlib.suppress(OSError):
            now = time.time_ns()  # the file system's own clock may be too coarse to order two uses
            os.utime(self.folder / name, ns=(now, now))

    def discard(self, name: str) -> None:
        """Remove a file whose content does not match its name."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Hold the claim to fetch a block: another process that claims the same block waits, and then finds the block
        in the cache. Waits at most a minute, then continues without the claim."""
        # Two blocks with the same byte would only wait for each other.
        byte = 1 + xxhash.xxh3_64_intdigest(name.encode()) % 2**62
        is_locked = False
        try:
            is_locked = self.is_on and self._lock(byte, CLAIM_TIMEOUT_S, pause_s=0.01)
        except OSError as error:
            self._give_up(error)
        try:
            yield
        finally:
            if is_locked:
                self._unlock(byte)

    def add(self, name: str, data: bytes) -> None:
        """Add a block, and remove old ones to make room. A block larger than the limit is not added."""
        if not self.is_on:
            return
        try:
            if len(data) > self.limit_bytes:
                if self.limit_bytes < BLOCK_BYTES:
                    why = f"it may hold {self.limit_bytes:,} bytes, less than the {BLOCK_BYTES:,} of a usual block"
                    raise OSError(errno.ENOSPC, why)
                return
            with self._locked_folder() as is_locked:
                if is_locked:
                    # The folder may have been removed, and perhaps created again by another process.
                    if not os.path.samestat(os.fstat(self._descriptor), (self.folder / LOCK_NAME).stat()):
                        raise FileNotFoundError
                    self._make_room(len(data))
                    self._write(name, data)
        except FileNotFoundError:
            self._open()
        except OSError as error:
            self._give_up(error)

    @property
    def is_on(self) -> bool:
        """True if the cache can be used. The first call creates the folder, and warns if it can't be used."""
        with self._opening:
            if self._descriptor < 0 and not self._is_off:
                self._open()
        return not self._is_off

    def _open(self) -> None:
        """Create and open the folder, also again after it was removed. The descriptor of a removed lock file stays
        open: claims may still use it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # O_NOFOLLOW: a symlink might lead to another file of the user.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.folder / LOCK_NAME, flags, 0o600)
            with self._locked_folder() as is_locked:
                if is_locked:
                    self._set_in_use(self._clean_up())
        except OSError as error:
            self._give_up(error)

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
            temporary.replace(self.folder / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.touch(name)

    def _make_room(self, length_bytes: int) -> None:
        """Reserve the space of a new block before it is written. If the process is killed in between, the count is
        too high until the next scan corrects it."""
        in_use = self._in_use()
        if in_use + length_bytes > self.limit_bytes:
            in_use = self._clean_up(self.limit_bytes - length_bytes)
        self._set_in_use(in_use + length_bytes)

    def _clean_up(self, most_bytes: int | None = None) -> int:
        """Scan the folder: remove files that killed writers left, and the oldest blocks until at most ``most_bytes``
        are in use. Returns the bytes in use."""
        files = []
        for entry in os.scandir(self.folder):
            found = _OURS.fullmatch(entry.name)
            if found and found["temporary"]:
                # This process has the lock, so no other one is writing the file.
                (self.folder / entry.name).unlink(missing_ok=True)
            elif found:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_mtime_ns, entry.name, status.st_size))
        in_use = sum(size for _, _, size in files)
        if most_bytes is None or in_use <= most_bytes:
            return in_use
        spare = int(SPARE_SHARE * self.limit_bytes)
        for _, name, size in sorted(files):
            if in_use <= most_bytes and in_use - size < most_bytes - spare:
                break
            (self.folder / name).unlink(missing_ok=True)
            in_use -= size
        return in_use

    def _in_use(self) -> int:
        data = os.pread(self._descriptor, _IN_USE.size, 0)
        return int(_IN_USE.unpack(data)[0]) if len(data) == _IN_USE.size else 0

    def _set_in_use(self, in_use: int) -> None:
        os.pwrite(self._descriptor, _IN_USE.pack(in_use), 0)

    @contextlib.contextmanager
    def _locked_folder(self) -> Iterator[bool]:
        """Lock the folder for the ``with`` block. Yields True if the lock was acquired before the timeout."""
        with self._threads:
            is_locked = self._lock(_FOLDER_BYTE, FOLDER_LOCK_TIMEOUT_S, pause_s=0.001)
            try:
                yield is_locked
            finally:
                if is_locked:
                    self._unlock(_FOLDER_BYTE)

    def _lock(self, byte: int, timeout_s: float, *, pause_s: float) -> bool:
        """True if the byte was locked before the timeout. The kernel releases the lock when this process ends, even
        if it is killed."""
        until = time.monotonic() + timeout_s
        while not self._set_lock(fcntl.F_WRLCK, byte):
            if time.monotonic() > until:
                return False
            time.sleep(pause_s)
        return True

    def _unlock(self, byte: int) -> None:
        with contextlib.suppress(OSError):
            self._set_lock(fcntl.F_UNLCK, byte)

    def _set_lock(self, kind: int, byte: int) -> bool:
        # Locks of the open file (Linux only): unlike POSIX locks they survive when this process closes the file
        # elsewhere.
        if not hasattr(fcntl, "F_OFD_SETLK"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, wanted)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _give_up(self, error: OSError) -> None:
        if not self._is_off:
            self._is_off = True
            log.warning(
                "%s: %s: remote images are not cached on disk; free some space there, or set another folder with %s",
                self.folder,
                error.strerror or error,
                FOLDER_VARIABLE,
            )


def default_cache() -> BlockCache | None:
    """The cache that the environment variables configure; None if they disable it. Raises UserError for an invalid
    size, or if there is no home folder."""
    limit = os.environ.get(LIMIT_VARIABLE, "")
    gib = math.nan
    if limit:
        with contextlib.suppress(ValueError):
            gib = float(limit)
        if not 0 <= gib * 2**30 < math.inf:
            raise UserError(f"{LIMIT_VARIABLE}={limit}: not a size in GiB; set a number, or 0 for no cache")
        if gib == 0:
            return None
    chosen = os.environ.get(FOLDER_VARIABLE)
    try:
        folder = Path(
            chosen or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cxrdist", "blocks")
        )
    except RuntimeError:
        raise UserError(
            f"no home folder to cache remote images in: set a folder with {FOLDER_VARIABLE}, or {LIMIT_VARIABLE}=0"
        ) from None
    return _cache_at(folder, int(gib * 2**30) if limit else None)


@functools.cache
def _cache_at(folder: Path, limit_bytes: int | None) -> BlockCache:
    return BlockCache(folder, limit_bytes)
