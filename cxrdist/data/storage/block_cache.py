"""Blocks of remote sets on the local disk, shared by all processes of the machine.

    <folder>/<SHA-256 of a tar>-<start>-<digest>   images of the tar, from byte <start> on, end to end
    <folder>/.lock                                 who may change the folder, who fetches what, bytes in use

The folder is ``$CXRDIST_CACHE``, else ``$XDG_CACHE_HOME/cxrdist/blocks``, else ``~/.cache/cxrdist/blocks``. What lies
there are images of people, with nothing told of them; so only its user may look into it. Files are named by their
content: whatever set, run or rank left one, it serves every other. The folder may be deleted at any time, also under
a job that runs: ``rm -r ~/.cache/cxrdist/blocks``. It holds at most 20 GiB, or a quarter of the disk space that is
free without it; ``$CXRDIST_CACHE_GIB`` says otherwise, and 0 that there shall be none. Files of other names are left
alone.

Nothing in it is trusted: whoever maps a file checks the hash of every sample in it first. So files need no fsync,
and a power cut costs a fetch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import math
import mmap
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

from cxrdist.console import say
from cxrdist.errors import UserError
from cxrdist.files import LOCK_NAME

FOLDER_VARIABLE, LIMIT_VARIABLE = "CXRDIST_CACHE", "CXRDIST_CACHE_GIB"
DEFAULT_LIMIT_BYTES = 20 * 2**30
SHARE_OF_FREE_DISK = 0.25
SPARE_SHARE = 1 / 64
"""Of the limit, made free beyond what a new block needs, since finding the oldest files takes a look at all."""
CHANGE_PATIENCE_S = 10.0
CLAIM_PATIENCE_S = 60.0
"""Who fetches a block may have been stopped (Ctrl-Z) by its user."""
_OURS = re.compile(r"\.?[0-9a-f]{64}-[0-9]+-[0-9a-f]{16}(?P<temporary>\.[0-9]+\.tmp)?")
_IN_USE = struct.Struct("<Q")
_CHANGES = 0
"""The byte of the lock file that stands for the folder; the others stand for blocks."""


class BlockCache:
    """A folder of blocks, each there whole or not at all, together at most ``limit_bytes``: the ones used last.

    The limit holds with what is being written, but not for files that were removed while a process still reads
    them: these keep their space until it lets go (at most ``block_reader.HELD_BYTES`` a process). Where
    the folder can't be written, or its disk is full, it says so once and keeps nothing more.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """``limit_bytes`` None: 20 GiB, or a quarter of the free disk where that is less."""
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
        """The file, mapped; None where there is none of that length."""
        if not self.is_on:
            return None
        try:
            # Without waiting, should it be a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.folder / name, flags)
            try:
                if os.fstat(descriptor).st_size != length_bytes:
                    return None
                mapped = mmap.mmap(descriptor, length_bytes, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return None
        self.touch(name)
        return memoryview(mapped)

    def touch(self, name: str) -> None:
        """Note that it is in use: the ones not used for longest go first."""
        with contextlib.suppress(OSError):
            now = time.time_ns()  # the file system's own clock may tick too slowly to tell two uses apart
            os.utime(self.folder / name, ns=(now, now))

    def discard(self, name: str) -> None:
        """Remove a file that isn't what its name says."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Within the block no other process that claims the same is at it; so the second one finds what the first
        has fetched. Waits for a minute, then goes on without."""
        # Two blocks that share a number would only wait for each other.
        byte = 1 + xxhash.xxh3_64_intdigest(name.encode()) % 2**62
        is_ours = False
        try:
            is_ours = self.is_on and self._lock(byte, CLAIM_PATIENCE_S, pause_s=0.01)
        except OSError as error:
            self._give_up(error)
        try:
            yield
        finally:
            if is_ours:
                self._unlock(byte)

    def add(self, name: str, data: bytes) -> None:
        """Keep a block; others go for it, and it isn't kept where it is larger than the limit."""
        if not self.is_on:
            return
        try:
            if len(data) > self.limit_bytes:
                return
            with self._changing() as is_ours:
                if is_ours:
                    # Raises FileNotFoundError, too, where the folder was removed; and perhaps made again by another.
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
        """Whether it can be used. Not before it is asked for is the folder made, or any trouble with it told."""
        with self._opening:
            if self._descriptor < 0 and not self._is_off:
                self._open()
        return not self._is_off

    def _open(self) -> None:
        """Also anew, where somebody has removed the folder. A lock file that lay there stays open: claims may still
        hold on to it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never through a link, which might lead to a file of the user's.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.folder / LOCK_NAME, flags, 0o600)
            with self._changing() as is_ours:
                if is_ours:
                    self._count(self._look_around())
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
        """Count a new block in, beforehand: a process killed now has counted too much, which is found out."""
        in_use = self._in_use()
        if in_use + length_bytes > self.limit_bytes:
            in_use = self._look_around(self.limit_bytes - length_bytes)
        self._count(in_use + length_bytes)

    def _look_around(self, most_bytes: int | None = None) -> int:
        """Remove what killed writers left, and of the blocks the oldest until no more than ``most_bytes`` are in use;
        returns how many are."""
        files = []
        for entry in os.scandir(self.folder):
            found = _OURS.fullmatch(entry.name)
            if found and found["temporary"]:
                (self.folder / entry.name).unlink(missing_ok=True)  # nobody else writes at this moment
            elif found:
                with contextlib.suppress(FileNotFoundError):
                    told = entry.stat(follow_symlinks=False)
                    files.append((told.st_mtime_ns, entry.name, told.st_size))
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
        told = os.pread(self._descriptor, _IN_USE.size, 0)
        return int(_IN_USE.unpack(told)[0]) if len(told) == _IN_USE.size else 0

    def _count(self, in_use: int) -> None:
        os.pwrite(self._descriptor, _IN_USE.pack(in_use), 0)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[bool]:
        """Whether nobody else changes the folder within the block: no, where somebody does for very long."""
        with self._threads:
            is_ours = self._lock(_CHANGES, CHANGE_PATIENCE_S, pause_s=0.001)
            try:
                yield is_ours
            finally:
                if is_ours:
                    self._unlock(_CHANGES)

    def _lock(self, byte: int, patience_s: float, *, pause_s: float) -> bool:
        """Whether the byte was locked in time. The kernel lets go of it when this process ends, however it ends."""
        until = time.monotonic() + patience_s
        while not self._set_lock(fcntl.F_WRLCK, byte):
            if time.monotonic() > until:
                return False
            time.sleep(pause_s)
        return True

    def _unlock(self, byte: int) -> None:
        with contextlib.suppress(OSError):
            self._set_lock(fcntl.F_UNLCK, byte)

    def _set_lock(self, kind: int, byte: int) -> bool:
        # Of the open file, so that closing it elsewhere in this process doesn't lose them. Linux has them.
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
            say(
                f"note: {self.folder}: {error.strerror or error}: remote images are not cached on disk; free some "
                f"space there, or name another folder with {FOLDER_VARIABLE}"
            )


def default_cache() -> BlockCache | None:
    """The cache that the environment names; None where it says that there shall be none. Raises UserError."""
    limit = os.environ.get(LIMIT_VARIABLE, "")
    gib = math.nan
    if limit:
        with contextlib.suppress(ValueError):
            gib = float(limit)
        if not 0 <= gib * 2**30 < math.inf:
            raise UserError(f"{LIMIT_VARIABLE}={limit}: not a size in GiB; give a number, 0 for no cache")
        if gib == 0:
            return None
    named = os.environ.get(FOLDER_VARIABLE)
    try:
        folder = Path(
            named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cxrdist", "blocks")
        )
    except RuntimeError:
        raise UserError(
            f"no home folder to cache remote images in: name one with {FOLDER_VARIABLE}, or set {LIMIT_VARIABLE}=0"
        ) from None
    return _cache_at(folder, int(gib * 2**30) if limit else None)


@functools.cache
def _cache_at(folder: Path, limit_bytes: int | None) -> BlockCache:
    return BlockCache(folder, limit_bytes)
