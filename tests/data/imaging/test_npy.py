from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from cxrdist.data.imaging.npy import UnsupportedNpyVersion, header_of


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> io.BytesIO:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    stream.seek(0)
    return stream


def test_a_header_is_read_and_the_stream_stands_at_the_data() -> None:
    stream = npy(np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert header_of(stream) == ((2, 3), True, np.dtype(np.uint8))
    assert stream.read() == bytes([0, 3, 1, 4, 2, 5])


def test_another_version_is_reported() -> None:
    with pytest.raises(UnsupportedNpyVersion, match=r"npy version 2\.0, not 1\.0"):
        header_of(npy(np.zeros(3), (2, 0)))


def test_a_parser_that_trips_over_a_garbage_collection_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, calls = np.lib.format.read_array_header_1_0, []

    def trips(stream: Any) -> Any:
        calls.append(stream.tell())
        if len(calls) < 3:
            stream.read(7)
            raise SystemError("AST constructor recursion depth mismatch (before=21, after=32)")
        return right(stream)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", trips)
    assert header_of(npy(np.zeros((4, 5), np.uint8))) == ((4, 5), False, np.dtype(np.uint8))
    assert calls == [8, 8, 8]
