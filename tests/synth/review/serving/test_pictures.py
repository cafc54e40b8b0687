"""What is sent of an image tells nothing of where it comes from."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from cxrdist.errors import UserError
from cxrdist.synth.review.serving.pictures import KEPT, STEP_S, wait_s
from cxrdist.synth.review.serving.reading import Reading
from tests.synth.review.conftest import Start


@pytest.fixture
def reading(start: Start) -> Reading:
    return start("Ada")


def chunks(png: bytes) -> list[tuple[bytes, int]]:
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        found.append((png[place + 4 : place + 8], length))
        place += length + 12
    return found


def test_all_files_have_the_same_chunks_and_length_and_the_pixels_of_the_set(reading: Reading) -> None:
    files = [reading.pictures.png(number) for number in range(len(reading.pool))]
    assert {reading.pool.origin(number) for number in range(len(files))} == {"real", "synthetic"}
    # 32 rows of 32 pixels and a filter byte, in one stored block of deflate (5 bytes), with zlib's 2 and 4.
    assert {tuple(chunks(file)) for file in files} == {((b"IHDR", 13), (b"IDAT", 32 * 33 + 11), (b"IEND", 0))}
    assert len({*files}) > len(files) / 2
    for number, file in enumerate(files):
        assert (np.asarray(Image.open(io.BytesIO(file))) == reading.pool.pixels(number)).all()


def test_the_length_does_not_depend_on_the_pixels_of_large_images(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several blocks of deflate and chunks; noise does not compress, and black does."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8)
    files = []
    for pixels in (noise, np.zeros_like(noise)):
        monkeypatch.setattr(reading.pool, "pixels", lambda number, pixels=pixels: pixels)
        files.append(reading.pictures._written(0))
    assert chunks(files[0]) == chunks(files[1]) and len(files[0]) > 512 * 512


def test_the_name_of_an_image_is_another_for_each_reader_task_and_store(reading: Reading) -> None:
    token = reading.pictures.token
    names = {token(1, "curate", 0), token(2, "curate", 0), token(1, "blinded", 0), token(1, "curate", 1)}
    assert len(names) == 4 and {len(name) for name in names} == {32}
    assert token(1, "curate", 0) in names
    assert reading.pool.key(0) not in "".join(names)


def test_answers_leave_at_multiples_of_a_step() -> None:
    assert [round(wait_s(spent) / STEP_S, 6) for spent in (0, 0.1 * STEP_S, STEP_S * 2.25)] == [1, 0.9, 0.75]


def test_only_so_many_files_are_kept_and_a_fault_is_not(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrdist.synth.review.serving.pictures.KEPT", 3)
    assert KEPT == 64
    for number in range(6):
        reading.pictures.png(number)
    assert [*reading.pictures._files] == [3, 4, 5]

    def broken(number: int) -> np.ndarray:
        raise UserError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(reading.pool, "pixels", broken)
        with pytest.raises(UserError, match="damaged"):
            reading.pictures.png(0)
    assert reading.pictures.png(0)
