"""Batches gathered from the shards: what was written, or an error, or another sample that is named."""

from __future__ import annotations

import gc
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from cxrdist.data.imaging.codecs import encode, npy_header
from cxrdist.data.imaging.radiograph import decode, grey_of
from cxrdist.data.loading import gather as gather_module
from cxrdist.data.loading.gather import Gather, Substitution
from cxrdist.data.shards import stratum as stratum_module
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import CorruptSample
from cxrdist.data.storage import store
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from tests.helpers import gathering
from tests.helpers.gathering import CLASSES, SIZE, TAR, drawn, flip, readers_of, write_foreign, write_set
from tests.helpers.launching import CLONE
from tests.helpers.read_set import digest_of, open_set


def filled(
    gather: Gather, strata: list[int], samples: list[int], size: int = SIZE
) -> tuple[np.ndarray, list[str], list[Substitution]]:
    pixels = np.full((len(strata), 1, size, size), 77, np.uint8)
    keys = np.empty(len(strata), "S40")
    substitutions = gather.fill(np.array(strata, np.int64), np.array(samples, np.int64), pixels, keys)
    return pixels[:, 0], [key.decode() for key in keys.tolist()], substitutions


@pytest.mark.parametrize("encoding", ["npy", "png", "jpg"])
def test_a_batch_is_what_was_written(tmp_path: Path, encoding: str) -> None:
    readers = readers_of(write_set(tmp_path / "set", encoding))
    strata = [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    samples = [3, 7, 0, 0, 4, 4, 2, 2, 6, 1, 3, 1, 5]
    pixels, keys, substitutions = filled(Gather(readers), strata, samples)
    assert keys == [f"k{8 * stratum + sample}" for stratum, sample in zip(strata, samples)]
    assert substitutions == []
    for row, key in enumerate(keys):
        assert np.array_equal(pixels[row], readers[strata[row]].pixels(samples[row]))
        difference = np.abs(pixels[row].astype(int) - drawn(key))
        assert difference.max() <= (4 if encoding == "jpg" else 0), key
    expected = Gather(readers).keys(np.array(strata), np.array(samples))
    assert [key.decode() for key in expected.tolist()] == keys


@pytest.mark.usefixtures("inline")
def test_a_batch_of_others_tars_is_what_their_files_show(tmp_path: Path) -> None:
    readers = readers_of(write_foreign(tmp_path / "tars"))
    assert [reader.samples for reader in readers] == [4, 4] and readers[0].is_external
    strata, samples = [1, 0] * 4, [3, 0, 2, 1, 1, 2, 0, 3]
    pixels, keys, substitutions = filled(Gather(readers), strata, samples)
    assert len(set(keys)) == 8 and substitutions == []
    for row, (stratum, sample) in enumerate(zip(strata, samples)):
        assert keys[row] == readers[stratum].key(sample).decode()
        assert np.array_equal(pixels[row], grey_of(readers[stratum].image_bytes(sample), SIZE))


def test_an_empty_batch_and_a_sample_that_is_not_there(tmp_path: Path) -> None:
    gather = Gather(readers_of(write_set(tmp_path / "set", "npy")))
    assert filled(gather, [], [])[1:] == ([], [])
    for stratum, sample in ((0, 8), (1, 4), (0, -1)):
        with pytest.raises(IndexError):
            filled(gather, [0, stratum], [0, sample])


def test_several_sets_of_other_encodings_in_one_batch(tmp_path: Path) -> None:
    npy, png = (readers_of(write_set(tmp_path / encoding, encoding)) for encoding in ("npy", "png"))
    pixels, keys, _ = filled(Gather([npy[0], png[1]]), [0, 1, 0], [7, 0, 1])
    assert keys == ["k7", "k8", "k1"]
    assert all(np.array_equal(image, drawn(key)) for image, key in zip(pixels, keys))


@pytest.mark.parametrize("encoding", ["npy", "png", "jpg"])
def test_a_corrupt_sample_is_named(tmp_path: Path, encoding: str) -> None:
    shards = write_set(tmp_path / "set", encoding)
    readers = readers_of(shards)
    flip(tmp_path / "set", readers[1], 1)
    begin = flip(tmp_path / "set", readers[0], 6)
    with pytest.raises(CorruptSample) as caught:  # the first one in the batch, whichever was read first
        filled(Gather(readers), [1, 0, 1], [3, 6, 1])
    assert (
        str(caught.value) == f"{begin}; `cxrdist shards verify {tmp_path}/set` lists all problems of the set"
    )
    assert filled(Gather(readers), [0, 1], [5, 2])[1] == ["k5", "k10"]
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert type(travelled) is CorruptSample and str(travelled) == str(caught.value)


def test_another_of_its_stratum_takes_the_place_of_a_corrupt_sample(tmp_path: Path) -> None:
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    begins = {number: flip(tmp_path / "set", readers[0], number) for number in (3, 4, 7)}
    header = flip(tmp_path / "set", readers[1], 3, at=1)
    strata, samples = [0, 0, 1, 0, 0], [7, 2, 3, 3, 4]
    pixels, keys, substitutions = filled(Gather(readers, "substitute"), strata, samples)
    assert keys == ["k0", "k2", "k8", "k5", "k5"]
    assert all(np.array_equal(image, drawn(key)) for image, key in zip(pixels, keys))
    found = [(s.row, s.stratum, s.sample, s.instead) for s in substitutions]
    assert found == [(0, 0, 7, 0), (2, 1, 3, 0), (3, 0, 3, 5), (4, 0, 4, 5)]
    for substitution, begin in zip(substitutions, (begins[7], header, begins[3], begins[4])):
        assert substitution.message.startswith(begin)


def test_a_stratum_of_corrupt_samples_alone_has_nothing_to_put_in_place(tmp_path: Path) -> None:
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    for number in range(4):
        flip(tmp_path / "set", readers[1], number)
    with pytest.raises(
        UserError, match=r"set: none of the 4 samples of train-mass-real\.[0-9a-f]+\.json can be"
    ):
        filled(Gather(readers, "substitute"), [0, 1], [0, 0])


def colour(key: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn(key)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("encoding", "wrong", "why"),
    [
        ("npy", encode(np.zeros((8, 32), np.uint8), "npy"), "8x32 uint8, not 16x16 uint8"),
        ("npy", encode(np.zeros((SIZE, SIZE), np.uint8), "npy") + b"\0", "truncated or damaged"),
        ("npy", npy_header(SIZE) + b"\0", "truncated or damaged"),
        ("npy", b"", "truncated or damaged"),
        ("png", encode(np.zeros((8, 8), np.uint8), "png"), "8x8 L, not 16x16 8-bit grey"),
        ("png", encode(drawn("k1"), "png")[:50], "truncated or damaged"),
        ("jpg", encode(np.zeros((8, 8), np.uint8), "jpg"), "8x8 Gray, not 16x16 8-bit grey"),
        ("jpg", encode(drawn("k1"), "jpg")[:-20], "truncated or damaged"),
        ("jpg", encode(drawn("k1"), "png"), "not an image of a known format"),
        ("jpg", colour("k1"), "16x16 YCbCr, not 16x16 8-bit grey"),
        ("jpg", b"", "empty"),
    ],
    ids=itertools.count(),
)
def test_what_was_written_but_is_no_such_image(tmp_path: Path, encoding: str, wrong: bytes, why: str) -> None:
    shards = write_set(
        tmp_path / "set", encoding, lambda key: wrong if key == "k1" else encode(drawn(key), encoding)
    )
    readers = readers_of(shards)
    offset = int(readers[0].index(0)[1]["offset_bytes"])
    with pytest.raises(CorruptSample) as caught:
        filled(Gather(readers), [0, 0, 0], [0, 1, 2])
    assert str(caught.value).startswith(f"{tmp_path}/set/{TAR}: sample k1 at byte {offset}: {why}; ")
    _, keys, substitutions = filled(Gather(readers, "substitute"), [0, 0, 0], [0, 1, 2])
    assert keys == ["k0", "k2", "k2"] and [s.sample for s in substitutions] == [1]


def test_an_npy_of_another_layout_gives_its_pixels(tmp_path: Path) -> None:
    """As numpy itself would write it: the usual header is the fast way, not the only one."""
    columns_first = io.BytesIO()
    np.save(columns_first, np.asfortranarray(drawn("k1")))
    assert columns_first.getvalue()[: len(npy_header(SIZE))] != npy_header(SIZE)
    shards = write_set(
        tmp_path / "set",
        "npy",
        lambda key: columns_first.getvalue() if key == "k1" else encode(drawn(key), "npy"),
    )
    pixels, _, substitutions = filled(Gather(readers_of(shards), "substitute"), [0, 0], [1, 0])
    assert np.array_equal(pixels[0], drawn("k1")) and np.array_equal(pixels[1], drawn("k0"))
    assert substitutions == []


def test_a_tar_that_is_truncated_between_two_batches(tmp_path: Path) -> None:
    """Its map reaches beyond its end now: reading there would kill the process."""
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    gather = Gather(readers)
    whole = (tmp_path / "set" / TAR).read_bytes()
    assert filled(gather, [0] * 4, [0, 1, 2, 3])[1] == ["k0", "k1", "k2", "k3"]
    offset = int(readers[0].index(0)[2]["offset_bytes"])
    for length, left in ((offset + 200, 200), (offset, 0), (0, 0)):
        os.truncate(tmp_path / "set" / TAR, length)
        told = (
            f"{TAR}: sample k2 at byte {offset}: the file ends after {left} of its 384 bytes: it was cut off"
        )
        with pytest.raises(CorruptSample, match=told):
            filled(gather, [0], [2])
        with pytest.raises(CorruptSample, match=told):
            readers[0].pixels(2)
        _, keys, substitutions = filled(Gather(readers, "substitute"), [0, 0], [2, 3])
        assert keys == ["k4", "k4"] and len(substitutions) == 2
    (tmp_path / "set" / TAR).write_bytes(whole)
    assert filled(gather, [0] * 2, [2, 3])[1] == ["k2", "k3"]


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_a_tar_that_is_truncated_between_its_map_and_the_read(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of several pages, one of them cut within a page."""
    size = 160
    noise = np.random.default_rng(0).integers(0, 256, (size, size)).astype(np.uint8)
    monkeypatch.setattr(gathering, "SIZE", size)
    readers = readers_of(write_set(tmp_path / "set", encoding, lambda key: encode(noise, encoding)))
    path, index = tmp_path / "set" / TAR, readers[0].index(0)
    whole, mapped = path.read_bytes(), LocalStore.spans
    cut = int(index[1]["offset_bytes"]) + 5000

    def truncated(store: LocalStore, name: str, places: Iterable[tuple[int, int]]) -> list[memoryview]:
        spans = mapped(store, name, places)
        os.truncate(path, cut)
        return spans

    def fill(*samples: int) -> list[str]:
        return filled(Gather(readers), [0] * len(samples), [*samples], size)[1]

    monkeypatch.setattr(LocalStore, "spans", truncated)
    offset, length = int(index[2]["offset_bytes"]), int(index[2]["length_bytes"])
    told = f"{TAR}: sample k2 at byte {offset}: the file ends after 0 of its {length:,} bytes: it was cut off"
    with pytest.raises(CorruptSample, match=told):
        fill(2, 0, 1)
    path.write_bytes(whole)
    with pytest.raises(CorruptSample, match=r"sample k1 at byte \d+: the file ends after 5,000 of its"):
        fill(1)
    path.write_bytes(whole)
    with ThreadPoolExecutor(1) as pool, pytest.raises(CorruptSample, match=told):  # as batches are read ahead
        pool.submit(fill, 2, 0, 1).result()
    path.write_bytes(whole)
    assert fill(0) == ["k0"]  # which lies before the cut
    monkeypatch.setattr(LocalStore, "spans", mapped)
    path.write_bytes(whole)
    assert fill(2, 0, 1) == ["k2", "k0", "k1"]


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_files_are_read_and_not_mapped_where_a_truncated_map_ends_the_process(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = readers_of(write_set(tmp_path / "set", encoding))
    monkeypatch.setattr(store, "can_catch_faults", lambda: False)
    pixels, keys, _ = filled(Gather(readers), [0, 1, 0], [6, 3, 1])
    assert keys == ["k6", "k11", "k1"]
    assert all(np.array_equal(image, drawn(key)) for image, key in zip(pixels, keys))
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_file_that_changes_while_it_is_read_gives_no_wrong_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written anew between the copy of its pixels and their hash, with the same bytes in the end."""
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    path = tmp_path / "set" / TAR
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))

    def rewritten(header: bytes) -> Any:
        path.write_bytes(whole)
        return xxhash.xxh3_64(header)

    monkeypatch.setattr(gather_module, "xxh3_64", rewritten)
    pixels, keys, _ = filled(Gather(readers), [0], [1])
    assert keys == ["k1"] and np.array_equal(pixels[0], drawn("k1"))


def test_a_missing_tar_is_no_corrupt_sample(tmp_path: Path) -> None:
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    (tmp_path / "set" / TAR).unlink()
    with pytest.raises(UserError, match=f"set/{TAR}: missing; ") as caught:
        filled(Gather(readers, "substitute"), [0], [0])
    assert not isinstance(caught.value, CorruptSample)
    assert filled(Gather(readers), [0], [4])[1] == ["k4"]


def test_few_files_and_indexes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAPS", 2)
    monkeypatch.setattr(stratum_module, "CACHED_INDEXES", 1)
    reads: list[str] = []
    shards = write_set(tmp_path / "set", "npy")
    read = LocalStore.read

    def noted(self: LocalStore, name: str) -> bytes:
        reads.append(name)
        return read(self, name)

    monkeypatch.setattr(LocalStore, "read", noted)
    readers = readers_of(shards)

    def maps() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted(line.rpartition("/")[2] for line in lines if str(tmp_path) in line)

    gather = Gather(readers)
    # Shards 0, 1, 2 of the first stratum, then 0, 1 of the second.
    assert filled(gather, [1, 0, 0, 0, 1], [2, 4, 0, 7, 0])[1] == ["k10", "k4", "k0", "k7", "k8"]
    assert maps() == ["train-mass-real-000000.tar", "train-mass-real-000001.tar"]
    reads.clear()
    assert filled(gather, [0, 1], [7, 3])[1] == ["k7", "k11"]
    assert reads == []
    assert filled(gather, [0], [0])[1] == ["k0"]
    assert reads == [TAR.replace(".tar", ".index.npy")]
    assert maps() == ["train-mass-real-000001.tar", TAR]
    shards.close()
    assert maps() == []


def test_a_set_of_more_files_than_a_process_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASSES, "Normal", (1,) * 150)
    write_set(tmp_path / "set", "npy")
    script = f"ulimit -n 100; exec {sys.executable} -m tests.helpers.read_set {tmp_path / 'set'} 0"
    done = subprocess.run(["sh", "-c", script], cwd=CLONE, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{digest_of(open_set(tmp_path / 'set'), 1)}\n", "")


def test_sets_that_were_not_closed_keep_few_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAPS", 4)
    write_set(tmp_path / "set", "npy")
    gc.disable()
    try:
        for _ in range(3):
            assert filled(Gather(readers_of(ShardSet(tmp_path / "set"))), [0, 1], [7, 3])[1] == ["k7", "k11"]
        lines = Path("/proc/self/maps").read_text().splitlines()
        assert sum(str(tmp_path) in line for line in lines) == 4
    finally:
        gc.enable()


def test_a_reader_travels_without_what_it_has_read(tmp_path: Path) -> None:
    reader = readers_of(write_set(tmp_path / "set", "npy"))[0]
    unread = len(pickle.dumps(reader))
    pixels = reader.pixels(3)
    assert len(pickle.dumps(reader)) == unread < 2000
    there = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(there.pixels(3), pixels) and there.key(3) == b"k3"


def test_threads_may_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAPS", 1)
    monkeypatch.setattr(stratum_module, "CACHED_INDEXES", 1)
    gather = Gather(readers_of(write_set(tmp_path / "set", "npy")))
    wrong: list[object] = []

    def read(stratum: int) -> None:
        try:
            for step in range(100):
                samples = [step % 4, (step + 2) % 4]
                pixels, keys, _ = filled(gather, [stratum] * 2, samples)
                wrong.extend(key for image, key in zip(pixels, keys) if not np.array_equal(image, drawn(key)))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(stratum,)) for stratum in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_jpeg_has_the_pixels_that_pillow_gives() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    for quality in (30, 75, 95):
        for options in ({}, {"progressive": True}, {"optimize": True}):
            buffer = io.BytesIO()
            Image.fromarray(noise).save(buffer, "JPEG", quality=quality, **options)
            assert np.array_equal(decode(buffer.getvalue(), "jpg", 64), np.array(Image.open(buffer)))


def test_a_pipe_instead_of_a_tar_is_reported(tmp_path: Path) -> None:
    readers = readers_of(write_set(tmp_path / "set", "npy"))
    (tmp_path / "set" / TAR).unlink()
    os.mkfifo(tmp_path / "set" / TAR)
    with pytest.raises(UserError, match=f"set/{TAR}: not a regular file"):
        filled(Gather(readers), [0], [0])
