"""Parses the header of untrusted ``.npy`` bytes, version 1.0 of the format."""

from __future__ import annotations

import io

import numpy as np

MAX_ATTEMPTS = 10


class UnsupportedNpyVersion(ValueError):
    """The bytes have another version of the npy format than 1.0."""


def header_of(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, whether the array is in Fortran order, and dtype; the stream is then at the first data byte.

    Nothing is unpickled. Raises UnsupportedNpyVersion; on untrusted bytes, numpy may raise almost any exception.
    """
    start = stream.tell()
    for attempt in range(MAX_ATTEMPTS):
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise UnsupportedNpyVersion(f"npy version {version[0]}.{version[1]}, not 1.0")
        try:
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            return tuple(shape), is_fortran, dtype
        except SystemError:
            # CPython 3.11 raises SystemError for a valid header if garbage collection runs during parsing ("AST
            # constructor recursion depth mismatch", python/cpython#106905): retry.
            if attempt == MAX_ATTEMPTS - 1:
                raise
            stream.seek(start)
    raise AssertionError
