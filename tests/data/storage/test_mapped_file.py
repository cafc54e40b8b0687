"""Maps of files that are truncated: zeros are read, where the process would else be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrdist.data.storage import mapped_file
from cxrdist.data.storage.mapped_file import MappedFile, can_catch_faults
from tests.helpers.launching import CLONE

PAGE = 4096


def mapped(path: Path, length: int) -> tuple[MappedFile, bytes]:
    content = np.random.default_rng(0).bytes(length)
    path.write_bytes(content)
    with path.open("rb") as file:
        return MappedFile(file.fileno()), content


@pytest.mark.parametrize("left", [0, 100, PAGE, 2 * PAGE + 1])
def test_zeros_are_read_from_what_the_file_has_lost(tmp_path: Path, left: int) -> None:
    assert can_catch_faults()
    length = 3 * PAGE + 50
    file, content = mapped(tmp_path / "file", length)
    assert bytes(memoryview(file)) == content and not file.is_torn
    os.truncate(tmp_path / "file", left)
    # numpy copies without the interpreter lock, bytes() with it.
    copied = np.empty(length, np.uint8)
    copied[:] = np.frombuffer(file, np.uint8)
    assert file.is_torn
    assert copied.tobytes() == bytes(memoryview(file)) == content[:left] + bytes(length - left)
    # Pages that were lost once stay zeros: the file that has grown again may be another.
    (tmp_path / "file").write_bytes(content)
    lost = -(-left // PAGE) * PAGE
    assert bytes(memoryview(file)[lost:]) == bytes(length - lost)


def test_a_map_of_another_file_is_left_alone(tmp_path: Path) -> None:
    before = len(mapped_file._regions)
    torn, _ = mapped(tmp_path / "torn", PAGE)
    whole, content = mapped(tmp_path / "whole", PAGE)
    os.truncate(tmp_path / "torn", 0)
    assert bytes(memoryview(torn)) == bytes(PAGE)
    assert bytes(memoryview(whole)) == content and not whole.is_torn
    assert len(mapped_file._regions) == before + 2
    view = memoryview(whole)
    del torn, whole
    assert len(mapped_file._regions) == before + 1  # the view still needs it
    assert bytes(view) == content
    del view
    assert len(mapped_file._regions) == before


def test_an_empty_file_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file, pytest.raises(ValueError, match="empty"):
        MappedFile(file.fileno())


OTHERS = """
import mmap, os, signal, sys
from cxrdist.data.storage.mapped_file import can_catch_faults
assert can_catch_faults()
if sys.argv[1] == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
with open(sys.argv[2], "w+b") as file:
    file.write(bytes(5000))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 5000, access=mmap.ACCESS_READ)
    file.truncate(0)
    bytes(mapped)
"""


@pytest.mark.parametrize("how", ["sent", "of a map that is not ours"])
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]])
def test_other_bus_errors_end_a_process_as_ever(tmp_path: Path, how: str, options: list[str]) -> None:
    command = [sys.executable, *options, "-c", OTHERS, how, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, timeout=60)
    assert done.returncode == -7, done.stderr
    assert done.stderr.startswith("Fatal Python error: Bus error") == bool(options)
