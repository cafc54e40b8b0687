"""Batches on a device: the same images in the same order, whether each is read or all lie there."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

from cxrdist.data.loading import device as device_module
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.device import CPU, DeviceCache, DeviceCopies, uses_cache
from cxrdist.data.loading.prefetch import read_ahead
from cxrdist.data.loading.stream import Batch, Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError
from tests.helpers.shard_sets import spoil

QUOTAS = {"Normal": {"real": 8}, "Pneumothorax": {"real": 4}, "Pleural Effusion": {"real": 6}}


def stream(path: Path, limit: int | None = None) -> Stream:
    return Stream(ShardSet(path), None, QUOTAS, StreamOptions(batch=8, seed=1, limit=limit))


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_cache_gives_the_batches_that_are_read(
    tiny_set: Path, workers: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "CHUNK_BYTES", 5 * 32 * 32)  # of 9 images or more
    reader = stream(tiny_set, limit)
    with read_ahead(reader, 3, 14, LoaderConfig(workers=workers, device_cache="on")) as batches:
        kept = list(batches)
    assert len(kept) == 11
    for step, batch in enumerate(kept, 3):
        expected = reader.read(step)
        assert torch.equal(batch.pixels, expected.pixels) and batch.pixels.dtype == torch.uint8
        assert torch.equal(batch.labels, expected.labels) and batch.positions == expected.positions
        assert batch.keys.tolist() == expected.keys.tolist()
        assert batch.samples.tolist() == expected.samples.tolist()


def test_a_cache_holds_the_images_in_use_and_no_other(tiny_set: Path) -> None:
    whole, limited = stream(tiny_set), stream(tiny_set, limit=3)
    assert limited.samples_in_use == [3, 3, 3] and sum(whole.samples_in_use) > 9
    for reader in (whole, limited):
        images = DeviceCache(reader, DeviceCopies(CPU)).images
        assert images.shape == (sum(reader.samples_in_use), 1, 32, 32)
        assert images.nbytes == reader.bytes_in_use


def test_filling_a_cache_checks_each_image(tiny_set: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "copy"))
    key = spoil(copy, "Pneumothorax", 2)
    for workers in (0, 1):
        config = LoaderConfig(workers=workers, device_cache="on")
        with pytest.raises(UserError, match=key), read_ahead(stream(copy), 0, 9, config) as batches:
            next(batches)
    # The third image is not among the first two of each class.
    with read_ahead(stream(copy, limit=2), 0, 9, LoaderConfig(device_cache="on")) as batches:
        assert len(list(batches)) == 9


def test_a_set_that_does_not_fit_is_refused(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = stream(tiny_set)

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("of a GPU")

    monkeypatch.setattr(torch, "empty", no_room)
    with pytest.raises(UserError, match=r"images take .* no such room left: use --loader.device-cache off"):
        DeviceCache(reader, DeviceCopies(CPU))


def test_auto_caches_on_gpus_what_fits_and_is_used(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, auto = stream(tiny_set), LoaderConfig()
    images, enough = sum(reader.samples_in_use), range(1000)
    assert not uses_cache(reader, enough, auto, CPU)  # the page cache holds them already
    monkeypatch.setattr(device_module, "free_memory_bytes", lambda device: 10 * reader.bytes_in_use)
    assert uses_cache(reader, enough, auto, CPU)
    assert uses_cache(reader, range(-(-images // 8)), auto, CPU)
    assert not uses_cache(reader, range((images - 1) // 8), auto, CPU)
    assert not uses_cache(reader, enough, LoaderConfig(on_corrupt="substitute"), CPU)
    assert not uses_cache(reader, enough, LoaderConfig(device_cache="off"), CPU)
    assert uses_cache(reader, range(0), LoaderConfig(device_cache="on"), CPU)
    monkeypatch.setattr(device_module, "free_memory_bytes", lambda device: 10 * reader.bytes_in_use - 10)
    assert not uses_cache(reader, enough, auto, CPU)


def test_corrupt_images_are_not_substituted_in_a_cache() -> None:
    with pytest.raises(OptionError, match="device_cache: on needs"):
        LoaderConfig(device_cache="on", on_corrupt="substitute")


def test_copies_are_started_before_a_batch_is_asked_for(
    tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread that reads; the caller, whose stream must wait for them, finishes them."""
    started: list[tuple[int, str]] = []
    finished: list[tuple[int, str]] = []
    third = threading.Event()
    start, finish = DeviceCopies.start, DeviceCopies.finish

    def noted_start(self: DeviceCopies, batch: Batch) -> tuple[Batch, None]:
        started.append((batch.positions.start, threading.current_thread().name))
        if len(started) == 3:
            third.set()
        return start(self, batch)  # type: ignore[return-value]

    def noted_finish(self: DeviceCopies, batch: Batch, copied: None) -> Batch:
        finished.append((batch.positions.start, threading.current_thread().name))
        return finish(self, batch, copied)

    monkeypatch.setattr(DeviceCopies, "start", noted_start)
    monkeypatch.setattr(DeviceCopies, "finish", noted_finish)
    with read_ahead(stream(tiny_set), 0, 20, LoaderConfig(ahead=3)) as batches:
        assert third.wait(20) and finished == []
        for _ in range(4):
            next(batches)
    here = threading.current_thread().name
    assert started[:4] == [(8 * step, "read-ahead") for step in range(4)]
    assert finished == [(8 * step, here) for step in range(4)]
