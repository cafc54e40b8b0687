"""Files that are mapped into memory, though another process may truncate them, or their disk may fail.

    read of a mapped page that the file no longer has
      -> SIGBUS, which would kill this process
        -> the handler maps zeros there, marks the map as torn, and returns: the read gives zeros

So whoever reads a map must compare what it has read with a hash: zeros fail it, and a read of the file itself then
says what is wrong. ``pread`` would need no handler, but enters the system once per image: it takes 25 % (64 px) to
50 % (256 px) more time for images in the page cache. libwayland reads its clients' memory in the same way
(wl_shm_buffer_begin_access).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import signal
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

_FLAGS = 0x4 | 0x10000000  # SA_SIGINFO | SA_RESTART
_MAP_FIXED = 0x10
_CODE_AT, _ADDRESS_AT = 8, 16  # in siginfo_t


class _Action(ctypes.Structure):
    """struct sigaction of the C library (glibc and musl, x86-64 and AArch64)."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@dataclass(slots=True)
class _Region:
    """Where a file is mapped."""

    start: int
    stop: int
    is_torn: bool = False


_regions: dict[int, _Region] = {}
"""By start."""


class MappedFile(mmap.mmap):
    """A file, mapped read-only as long as a view of it exists. Of what the file loses later zeros are read, and then
    ``is_torn`` is true. Make one only where ``can_catch_faults()``.
    """

    _region: _Region

    def __new__(cls, descriptor: int) -> MappedFile:
        """Map an open file as it is now. Raises ValueError if it is empty."""
        mapped = super().__new__(cls, descriptor, 0, access=mmap.ACCESS_READ)
        start = int(np.frombuffer(mapped, np.uint8).ctypes.data)
        mapped._region = _regions[start] = _Region(start, start + len(mapped))
        return mapped

    @property
    def is_torn(self) -> bool:
        return self._region.is_torn

    def __del__(self) -> None:
        # Runs before the memory is unmapped, so no other map can have this address yet.
        region = getattr(self, "_region", None)
        if region is not None:
            _regions.pop(region.start, None)


@functools.cache
def can_catch_faults() -> bool:
    """True if reads of a truncated map do not kill this process; the first call sets the handler of SIGBUS."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    try:
        _catch_faults()
    except (OSError, MemoryError):  # a system that forbids ctypes to make executable memory
        return False
    return True


def _catch_faults() -> None:
    # PyDLL: these calls keep the interpreter lock. A fault may come from code that holds it, or from code that has
    # released it, as numpy does to copy; the callback takes it if need be.
    libc = ctypes.PyDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    previous = _Action()

    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    def on_fault(number: int, info: int, context: Any) -> None:
        if ctypes.c_int.from_address(info + _CODE_AT).value > 0:  # not sent by a process
            address = ctypes.c_size_t.from_address(info + _ADDRESS_AT).value
            for region in list(_regions.values()):
                if region.start <= address < region.stop:
                    page = address - address % mmap.PAGESIZE
                    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                    if libc.mmap(page, region.stop - page, mmap.PROT_READ, flags, -1, 0) == page:
                        region.is_torn = True
                        return
        # Not a map of ours: as if this handler were not there.
        libc.sigaction(number, ctypes.byref(previous), None)
        signal.raise_signal(signal.SIGBUS)

    action = _Action(ctypes.cast(on_fault, ctypes.c_void_p).value, flags=_FLAGS)
    _kept.append(on_fault)
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(previous)):
        raise OSError("sigaction failed")


_kept: list[Any] = []
"""The handler: ctypes frees one that nothing references."""
