"""Small files that unpack to something huge, or nest without an end: one line each, at once and in little memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import mmap
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging import mend
from cxrdist.data.imaging.errors import MAX_PIXELS, UndecodableImage
from cxrdist.data.imaging.mend import METADATA_IGNORED
from cxrdist.data.imaging.radiograph import decode, grey_of
from cxrdist.data.imaging.repairs import noting
from cxrdist.data.importers.common.tables import LONGEST_LINE, rows_of
from cxrdist.data.importers.padchest import labels_of
from cxrdist.errors import UserError
from tests.helpers.forging import npy_header
from tests.helpers.images import png_declaring


@contextlib.contextmanager
def little_memory(most_bytes: int = 300 * 2**20) -> Iterator[None]:
    """Asserts that the block takes no more; a bomb would take gigabytes."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak of memory is read from /proc")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = peak_bytes()
    yield
    assert peak_bytes() - before < most_bytes


def peak_bytes() -> int:
    match = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match[1])


def test_the_measure_of_memory_sees_what_is_taken() -> None:
    # Mapped, not allocated: malloc may give out pages of the heap that the process holds already.
    with pytest.raises(AssertionError), little_memory(2**25), mmap.mmap(-1, 2**26) as pages:
        pages.write(bytes(2**26))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(kind: bytes, body: bytes) -> bytes:
    """A right PNG with one more chunk before its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + chunk(kind, body) + data[33:]


def packed(mebibytes: int) -> bytes:
    """So many zeros as zlib packs them, a thousandth of it."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(mebibytes)), packer.flush()])


def jpeg_declaring(rows: int, columns: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", rows, columns)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data",
    [
        png_declaring(100_000, 100_000),
        png_declaring(2**31 - 1, 1),
        png_declaring(2**31 - 1, 2**31 - 1),
        jpeg_declaring(65_500, 65_500),
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 10000000000)}"),
        npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({MAX_PIXELS}, {MAX_PIXELS})}}"),
    ],
    ids=[
        "png",
        "png, one line",
        "png, largest",
        "jpg",
        "npy",
        "npy, too",
    ],
)
def test_images_that_declare_or_unpack_to_too_much(data: bytes) -> None:
    assert len(data) < 2**20
    with little_memory():
        for encoding in ("png", "jpg", "npy"):
            with pytest.raises(UndecodableImage):
                decode(data, encoding, 2048)
        with pytest.raises(UndecodableImage):
            grey_of(data, 2048)


@pytest.mark.parametrize(("kind", "start"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")])
def test_text_that_unpacks_to_too_much_is_left_out_of_a_png(kind: bytes, start: bytes) -> None:
    data = png_with(kind, start + packed(200))
    with little_memory():
        with pytest.raises(UndecodableImage):
            decode(data, "png", 16)
        with noting() as noted:
            assert not grey_of(data, 16).any()
    assert noted == [METADATA_IGNORED]


def test_pixels_that_unpack_to_too_much_get_no_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(64)
    assert mend._sum_of(data) == data[-4:] and mend._sum_of(data + b"0") is None
    monkeypatch.setattr(mend, "_MOST_UNPACKED_BYTES", 2**20)
    with little_memory():
        assert mend._sum_of(data) is None


def test_a_profile_that_unpacks_to_too_much_is_not_unpacked() -> None:
    data = png_with(b"iCCP", b"icc\0\0" + packed(500))
    with little_memory(), contextlib.suppress(UndecodableImage):
        assert grey_of(data, 16).shape == (16, 16)


# ---- DICOM


def dicom_with(**values: object) -> bytes:
    pytest.importorskip("pydicom")
    from tests.helpers.dicom_files import dicom_file

    return dicom_file(np.zeros((4, 4), np.uint8), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 10_001, "Columns": 10_001},
        {"Rows": 10_000, "Columns": 10_000},
        {"NumberOfFrames": 2**30},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
    ],
)
def test_dicom_files_that_declare_too_much(values: dict[str, int]) -> None:
    with little_memory(), pytest.raises(UndecodableImage):
        grey_of(dicom_with(**values), 16)


def test_a_dicom_file_of_sequences_in_sequences() -> None:
    start = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x08\x00\x15\x22SQ\0\0\xff\xff\xff\xff"
    data = dicom_with()
    at = data.index(b"\x08\x00\x16\x00")
    nested = b"\x08\x00\x15\x00SQ\0\0\xff\xff\xff\xff" + start * 100_000
    # A tag that is read, so that it is gone into: the views' codes.
    coded = b"\x54\x00\x20\x02SQ\0\0\xff\xff\xff\xff" + start * 100_000
    for bomb in (data[:at] + nested + data[at:], data[:at] + coded):
        with pytest.raises(UndecodableImage):
            grey_of(bomb, 16)


# ---- tables


def test_a_line_that_never_ends(tmp_path: Path) -> None:
    """A gibibyte in a mebibyte."""
    table = tmp_path / "labels.csv.gz"
    table.write_bytes(gzip.compress(b"path,label\n") + gzip.compress(b"x" * 2**24) * 64)
    assert table.stat().st_size < 2**21
    with (
        little_memory(),
        pytest.raises(UserError, match=r"labels\.csv\.gz, line 2: longer than any valid row"),
    ):
        list(rows_of(table, ("path",)))
    table.write_bytes(gzip.compress(b"x" * 2**24) * 64)
    with little_memory(), pytest.raises(UserError, match="line 1: longer than any valid row"):
        list(rows_of(table, ("path",)))


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv.gz"
    row = b"a.png,Normal\n"
    table.write_bytes(gzip.compress(b"path,label\n") + gzip.compress(row * 1000) * 200)
    rows = rows_of(table, ("path",))
    with little_memory(2**25):
        assert next(rows) == (f"{table}, line 2", {"path": "a.png", "label": "Normal"})
        assert sum(1 for _ in rows) == 199_999


def test_the_longest_line_is_still_read(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    cells = ",".join(["x" * 1000] * 1000)
    table.write_text(",".join(f"c{i}" for i in range(1000)) + "\n" + cells + "\n")
    assert len(cells) < LONGEST_LINE
    ((_, row),) = rows_of(table, ("c0",))
    assert row["c999"] == "x" * 1000


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "-" * 100_000 + "1", "(" * 5000 + ")" * 5000, "[" + "1" * 10_000 + "]", "{}" * 9]
)
def test_labels_that_nest_without_an_end(text: str) -> None:
    with pytest.raises(UserError, match=r"line 2: Labels is .*, not a list"):
        labels_of(text, "table, line 2")


def test_memory_that_runs_out_is_one_line(tmp_path: Path) -> None:
    script = """
        from cxrdist.process import main
        import numpy as np
        main(lambda: np.empty(2**55))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: memory ran out (Unable to allocate 256. PiB")
    assert done.stderr.count("\n") == 1
