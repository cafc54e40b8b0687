from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.codecs import ENCODINGS, encode
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import Tone, decode, grey_of, load_grey
from cxrdist.errors import UserError
from tests.helpers.images import png_declaring

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_mode_of_a_grey_image_gives_its_pixels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(NOISE)
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    loaded = load_grey(save(image, tmp_path / "x.png"), 32)
    assert loaded.dtype == np.uint8
    if mode == "P":  # quantisation merges a few greys that lie side by side
        assert np.abs(loaded.astype(int) - NOISE).max() <= 4
    else:
        np.testing.assert_array_equal(loaded, NOISE)


def test_black_and_white(tmp_path: Path) -> None:
    loaded = load_grey(save(Image.fromarray(NOISE > 99), tmp_path / "x.png"), 32)
    np.testing.assert_array_equal(loaded, np.where(NOISE > 99, 255, 0))


def test_16_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    wide = NOISE.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(load_grey(save(Image.fromarray(wide), tmp_path / "x.png"), 32), NOISE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tone_sees_the_values_of_the_file_before_the_bars_are_added(
    tmp_path: Path, dtype: type[np.unsignedinteger]
) -> None:
    path = save(Image.fromarray(np.full((8, 4), 200, dtype)), tmp_path / "x.png")

    def of_16_bit(pixels: np.ndarray) -> np.ndarray:
        assert (pixels.dtype, pixels.shape) == (np.uint16, (8, 4))
        return (255 - pixels).astype(np.uint8)

    expected = np.zeros((8, 8), np.uint8)
    expected[:, 2:6] = 55
    np.testing.assert_array_equal(load_grey(path, 8, "pad", Tone(of_16_bit, True)), expected)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[:2, :, 3] = 0
    loaded = load_grey(save(Image.fromarray(rgba), tmp_path / "x.png"), 4)
    assert loaded[:, 0].tolist() == [0, 0, 255, 255]


def test_jpeg_is_turned_as_it_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 16, axis=0).repeat(32, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "x.jpeg", exif=exif, quality=100)
    loaded = load_grey(tmp_path / "x.jpeg", 32)
    assert loaded[0].min() >= 253 and loaded[-1].max() <= 2


@pytest.mark.parametrize(("shape", "rows", "columns"), [((20, 40), slice(4, 12), slice(16)),
                                                        ((40, 20), slice(16), slice(4, 12))])  # fmt: skip
def test_pad_keeps_the_aspect(tmp_path: Path, shape: tuple[int, int], rows: slice, columns: slice) -> None:
    path = save(Image.fromarray(np.full(shape, 200, np.uint8)), tmp_path / "x.png")
    expected = np.zeros((16, 16), np.uint8)
    expected[rows, columns] = 200
    np.testing.assert_array_equal(load_grey(path, 16), expected)


def test_crop_keeps_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((8, 32), np.uint8)
    pixels[:, 12:20] = NOISE[:8, :8]
    path = save(Image.fromarray(pixels), tmp_path / "x.png")
    np.testing.assert_array_equal(load_grey(path, 8, fit="crop"), NOISE[:8, :8])


def test_an_extreme_aspect_keeps_a_line(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((1, 300), 90, np.uint8)), tmp_path / "x.png")
    loaded = load_grey(path, 16)
    assert (loaded == 90).sum() == 16 and (loaded == 0).sum() == 240


@pytest.mark.parametrize("size", [5, 8, 16, 31, 64])
def test_resizing_is_antialiased_and_draws_no_halos(tmp_path: Path, size: int) -> None:
    step = np.full((32, 32), 60, np.uint8)
    step[10:20, 10:20] = 200
    loaded = load_grey(save(Image.fromarray(step), tmp_path / "step.png"), size)
    assert loaded.shape == (size, size)
    assert loaded.min() == 60 and loaded.max() <= 200
    stripes = np.zeros((32, 32), np.uint8)
    stripes[::2] = 200
    if size == 8:
        loaded = load_grey(save(Image.fromarray(stripes), tmp_path / "stripes.png"), size)
        assert np.abs(loaded.astype(int) - 100).max() <= 20


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_and_damaged_files(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(NOISE), tmp_path / f"x.{suffix}")
    whole = path.read_bytes()
    for keep in (len(whole) * 3 // 4, len(whole) // 2, 60):
        path.write_bytes(whole[:keep])
        with pytest.raises(UndecodableImage, match=r"truncated or damaged|not an image"):
            load_grey(path, 32)


def test_a_flipped_bit_of_the_pixels_of_a_png_shows(tmp_path: Path) -> None:
    ramp = (NOISE // 8 + np.arange(32)).astype(np.uint8)
    path = save(Image.fromarray(ramp), tmp_path / "x.png")
    whole = path.read_bytes()
    end = whole.index(b"IEND") - 8
    for at in range(end - 100, end):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(UndecodableImage) as error:
            load_grey(path, 32)
        assert error.value.file == str(path) and error.value.reason == "truncated or damaged"


def test_what_is_no_image(tmp_path: Path) -> None:
    for name, data, reason in [
        ("empty.png", b"", "empty"),
        ("text.png", b"hello" * 100, "not an image of a known format"),
        ("x.gif", b"GIF89a" + b"\0" * 50, "a GIF image"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UndecodableImage) as error:
            load_grey(tmp_path / name, 8)
        assert error.value.reason == reason
    with pytest.raises(UndecodableImage, match=r"nothing\.png: missing"):
        load_grey(tmp_path / "nothing.png", 8)
    with pytest.raises(UndecodableImage, match="a folder, not a file"):
        load_grey(tmp_path, 8)
    with pytest.raises(UserError, match="unknown fit 'pads'; did you mean 'pad'"):
        load_grey(tmp_path / "empty.png", 8, fit="pads")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_decompression_bombs(tmp_path: Path, side: int) -> None:
    (tmp_path / "x.png").write_bytes(png_declaring(side, side))
    with pytest.raises(UndecodableImage, match="more than 100 megapixels"):
        load_grey(tmp_path / "x.png", 8)
    with pytest.raises(UndecodableImage, match="more than 100 megapixels"):
        decode(png_declaring(side, side), "png", 8)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encode_and_decode(encoding: str) -> None:
    smooth = (np.add.outer(np.arange(32), np.arange(32)) * 4).astype(np.uint8)
    data = encode(smooth, encoding)
    assert data == encode(np.asfortranarray(smooth), encoding)
    decoded = decode(data, encoding, 32)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable and decoded.flags.c_contiguous
    if encoding == "jpg":
        assert np.abs(decoded.astype(int) - smooth).max() <= 4
    else:
        np.testing.assert_array_equal(decoded, smooth)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decode_refuses_what_is_not_the_image(encoding: str) -> None:
    data = encode(NOISE, encoding)
    for wrong in (b"", data[: len(data) // 2], data[:20], b"\0" * 500):
        with pytest.raises(UndecodableImage):
            decode(wrong, encoding, 32)
    with pytest.raises(UndecodableImage, match=r"32x32 .*, not 16x16"):
        decode(data, encoding, 16)
    for other in set(ENCODINGS) - {encoding}:
        with pytest.raises(UndecodableImage):
            decode(data, other, 32)


def test_decode_refuses_colour() -> None:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert("RGB").save(buffer, "PNG")
    with pytest.raises(UndecodableImage, match="32x32 RGB, not 32x32 8-bit grey"):
        decode(buffer.getvalue(), "png", 32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_npy_of_numpy_itself_is_read() -> None:
    assert encode(NOISE, "npy") == npy(NOISE)
    np.testing.assert_array_equal(decode(npy(np.asfortranarray(NOISE)), "npy", 32), NOISE)


def test_npy_never_unpickles_and_never_allocates_what_a_header_claims() -> None:
    with pytest.raises(UndecodableImage, match="object, not 2x2 uint8"):
        decode(npy(np.array([[1, {}], [2, 3]], dtype=object)), "npy", 2)
    with pytest.raises(UndecodableImage):
        decode(pickle.dumps(NOISE), "npy", 32)
    with pytest.raises(UndecodableImage, match="32x32 int8, not 32x32 uint8"):
        decode(npy(NOISE.astype(np.int8)), "npy", 32)
    with pytest.raises(UndecodableImage, match="1024 uint8, not 32x32 uint8"):
        decode(npy(NOISE.reshape(-1)), "npy", 32)
    claim = b"(9999999999, 9999999999), }"
    huge = encode(NOISE, "npy").replace(b"(32, 32), }".ljust(len(claim)), claim)
    with pytest.raises(UndecodableImage, match="9999999999x9999999999 uint8"):
        decode(huge, "npy", 32)
    with pytest.raises(UndecodableImage, match="truncated or damaged"):
        decode(encode(NOISE, "npy") + b"\0", "npy", 32)


def test_unknown_encoding() -> None:
    with pytest.raises(UserError, match="unknown image encoding 'jpeg'; did you mean 'jpg'"):
        encode(NOISE, "jpeg")
    with pytest.raises(UserError, match="unknown image encoding 'pnj'; did you mean 'png'"):
        decode(b"", "pnj", 8)


def test_an_undecodable_image_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UndecodableImage("empty", "a.png")))
    assert (error.reason, error.file, str(error)) == ("empty", "a.png", "a.png: empty")


def test_bytes_give_what_their_file_gives(tmp_path: Path) -> None:
    path = save(Image.fromarray(NOISE[:, :24]), tmp_path / "x.png")
    for fit in ("pad", "crop"):
        np.testing.assert_array_equal(grey_of(path.read_bytes(), 16, fit), load_grey(path, 16, fit))
    with pytest.raises(UndecodableImage) as error:
        grey_of(b"", 16)
    assert (error.value.reason, error.value.file) == ("empty", "")


def test_an_external_npy_may_have_any_size_but_no_other_type() -> None:
    np.testing.assert_array_equal(grey_of(npy(NOISE), 32), NOISE)
    np.testing.assert_array_equal(grey_of(npy(np.asfortranarray(NOISE)), 32), NOISE)
    expected = np.zeros((16, 16), np.uint8)
    expected[4:12] = 200
    np.testing.assert_array_equal(grey_of(npy(np.full((20, 40), 200, np.uint8)), 16), expected)
    arrays: list[tuple[np.ndarray, str]] = [
        (np.zeros((4, 4), np.float32), "4x4 float32, not 2-D uint8"),
        (np.zeros((3, 4, 4), np.uint8), "3x4x4 uint8, not 2-D uint8"),
        (np.zeros((0, 4), np.uint8), "0x4 uint8, not 2-D uint8"),
        (np.array([[{}]]), "1x1 object, not 2-D uint8"),
    ]
    for array, reason in arrays:
        with pytest.raises(UndecodableImage) as error:
            grey_of(npy(array), 32)
        assert error.value.reason == reason
    with pytest.raises(UndecodableImage, match="truncated or damaged"):
        grey_of(npy(NOISE)[:-1], 32)
    declared = npy(NOISE).replace(b"(32, 32), }      ", b"(99999, 99999), }")
    with pytest.raises(UndecodableImage, match="more than 100 megapixels"):
        grey_of(declared, 32)
