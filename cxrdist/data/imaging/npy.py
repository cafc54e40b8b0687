"""Headers of ``.npy`` bytes, version 1.0, that come from anywhere."""

from __future__ import annotations

import io

import numpy as np

TRIES = 10


class OtherVersion(ValueError):
    """Of the format."""


def header_of(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and dtype; the stream then stands at the data. Nothing is unpickled.

    Raises OtherVersion, and on foreign bytes nearly anything.
    """
    start = stream.tell()
    for attempt in range(TRIES):
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise OtherVersion(f"npy version {version[0]}.{version[1]}, not 1.0")
        try:
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            return tuple(shape), is_fortran, dtype
        except SystemError:
            # CPython 3.11 raises it for a right header if its garbage collection runs in the midst of the parser
            # ("AST constructor recursion depth mismatch", python/cpython#106905).
            if attempt == TRIES - 1:
                raise
            stream.seek(start)
    raise AssertionError
