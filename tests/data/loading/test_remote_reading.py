"""Sets at URLs read by blocks: how often a server is asked, what it may do meanwhile, and who else reads along."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import warnings
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.loading import stream
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.decode_pool import DecodePool
from cxrdist.data.loading.gather import Gather
from cxrdist.data.loading.prefetch import read_ahead
from cxrdist.data.shards.schema import Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.storage import block_reader, retries, traffic
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.in_place import importer, options
from tests.helpers.read_set import ROWS, digest_of, open_set, reading
from tests.helpers.removing import key_of, remove, write_synthetic
from tests.helpers.s3_server import BUCKET, Answer, S3Server, error_body
from tests.helpers.shard_sets import contents

pytestmark = pytest.mark.slow

URL = f"s3://{BUCKET}/set"
TAR = "train-normal-real-000000.tar"


def blocks_of(readers: list[StratumReader]) -> Counter[tuple[str, str, str]]:
    """The requests that fetch each block once."""
    wanted: Counter[tuple[str, str, str]] = Counter()
    for reader in readers:
        for shard, row in enumerate(reader.shards):
            index = reader.index(shard)
            starts, stops = index["offset_bytes"], index["offset_bytes"] + index["length_bytes"]
            for first in range(0, len(index), ROWS):
                last = min(first + ROWS, len(index)) - 1
                name = f"/{BUCKET}/set/{row.name}"
                wanted["GET", name, f"bytes={starts[first]}-{int(stops[last]) - 1}"] += 1
    return wanted


def test_an_epoch_asks_for_each_block_once_and_the_next_for_none(remote: S3Server, tiny_set: Path) -> None:
    local = open_set(tiny_set)
    whole, wanted = digest_of(local, 0), blocks_of(local)
    assert wanted.total() == sum(-(-reader.samples // ROWS) for reader in local) == 7
    readers = open_set(URL)
    assert digest_of(readers, 1) == whole
    assert Counter(remote.asked(r"\.tar$")) == wanted
    remote.requests.clear()
    assert digest_of(readers, 2) == whole
    assert remote.requests == []
    # In a new run of the same process, and in another process.
    assert digest_of(open_set(URL), 3) == whole
    with reading(URL, 4) as process:
        told, errors = process.communicate(timeout=60)
    assert (told, errors) == (f"{whole}\n", "")
    assert remote.asked(r"\.tar$") == [] and len(remote.asked(r"manifest")) == 2


def test_a_run_of_blocks_costs_a_request_of_about_4_mib_by_default(tiny_set: Path) -> None:
    reader = ShardSet(tiny_set).stratum("train", "Normal", "real")
    assert reader.block_rows == 4 * 2**20 * reader.samples // reader.entry.bytes


def test_two_processes_at_once_fetch_each_block_once(remote: S3Server, tiny_set: Path) -> None:
    whole = digest_of(open_set(tiny_set), 0)
    with reading(URL, 1) as first, reading(URL, 2) as second:
        told = [process.communicate(timeout=60) for process in (first, second)]
    assert told == [(f"{whole}\n", "")] * 2
    assert Counter(remote.asked(r"\.tar$")) == blocks_of(open_set(tiny_set))


def test_the_blocks_of_three_strata_are_asked_for_at_the_same_time(remote: S3Server, tiny_set: Path) -> None:
    """Each request is answered once all seven are waiting: asked one by one, none would ever be."""
    whole, readers = digest_of(open_set(tiny_set), 0), open_set(URL)
    gate = threading.Barrier(7)

    def wait(method: str, path: str) -> None:
        if path.endswith(".tar"):
            gate.wait(30)

    remote.instead = wait
    for reader in readers:
        reader.prefetch(np.arange(reader.samples))
        reader.prefetch(np.arange(reader.samples)[::-1])
    assert digest_of(readers, 1) == whole
    assert not gate.broken and Counter(remote.asked(r"\.tar$")) == blocks_of(readers)


def test_all_that_a_batch_needs_is_asked_for_at_the_same_time(remote: S3Server, tiny_set: Path) -> None:
    here, there = Gather(open_set(tiny_set)), Gather(open_set(URL))
    strata = np.repeat([2, 0, 1], [reader.samples for reader in (here.readers[n] for n in (2, 0, 1))])
    samples = np.concatenate([np.arange(here.readers[n].samples)[::-1] for n in (2, 0, 1)])
    gate = threading.Barrier(7)

    def wait(method: str, path: str) -> None:
        if path.endswith(".tar"):
            gate.wait(30)

    remote.instead = wait
    batches = []
    for gather in (here, there):
        pixels, keys = np.empty((len(samples), 1, 32, 32), np.uint8), np.empty(len(samples), "S40")
        assert gather.fill(strata, samples, pixels, keys) == []
        batches.append((pixels.tobytes(), keys.tolist()))
    assert batches[0] == batches[1] and not gate.broken
    assert Counter(remote.asked(r"\.tar$")) == blocks_of(open_set(tiny_set))


def test_no_block_is_asked_for_that_a_batch_does_not_need(remote: S3Server) -> None:
    readers = open_set(URL)
    gather = Gather(readers)
    strata, samples = np.array([0, 1, 0]), np.array([7, 0, 6])
    gather.fill(strata, samples, np.empty((3, 1, 32, 32), np.uint8), np.empty(3, "S40"))
    asked = Counter(path.rpartition("/")[2] for _, path, _ in remote.asked(r"\.tar$"))
    assert asked == {readers[0].shards[0].name: 1, readers[1].shards[0].name: 1}


def test_the_indexes_that_blocks_need_are_fetched_ahead_too(remote: S3Server) -> None:
    reader = open_set(URL)[0]
    assert reader.samples == len(reader.ends) * 8 == 8
    remote.requests.clear()
    reader.prefetch(np.array([7, 0, 1, 6]))
    assert reader.image_bytes(0) and reader.image_bytes(7)
    assert [path.rpartition(".")[2] for _, path, _ in remote.requests] == ["npy", "tar", "tar"]


def test_prefetch_of_a_local_set_does_nothing(tiny_set: Path) -> None:
    reader = open_set(tiny_set)[0]
    reader.prefetch(np.arange(8))
    assert reader.blocks is None and not (Path(os.environ["CXRDIST_CACHE"])).exists()


BUSY = Answer("503 Slow Down", error_body("SlowDown", "Please reduce your request rate."))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of nothing."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "trouble", ["busy", "torn", "torn at once", "short", "login page", "whole object", "other part"]
)
def test_a_server_that_refuses_and_drops_is_asked_until_it_answers(
    remote: S3Server, tiny_set: Path, trouble: str
) -> None:
    """Each block is answered well at the seventh try only."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()
    readers = open_set(URL)
    [reader.index(0) for reader in readers]

    def is_refused(path: str) -> bool:
        if not path.endswith(".tar"):
            return False
        with lock:
            asked[path] += 1
            return asked[path] % 7 != 0

    def answer(method: str, path: str) -> Answer | None:
        if not is_refused(path):
            return None
        part = {"Content-Range": "bytes 0-4/9999", "ETag": '"e"'}
        return {
            "busy": BUSY,
            # Told to be whole, and of the right kind; nothing but its length and the hashes say otherwise.
            "short": Answer("206 Partial Content", b"short"),
            "login page": Answer("200 OK", b"<html>Please log in</html>", {"Content-Type": "text/html"}),
            "whole object": Answer("200 OK", (tiny_set / Path(path).name).read_bytes(), {"ETag": '"e"'}),
            "other part": Answer("206 Partial Content", b"other", part),
        }[trouble]

    if trouble in ("torn", "torn at once"):
        left = 0 if trouble == "torn at once" else 700
        remote.cut = lambda method, path: left if is_refused(path) else None
    else:
        remote.instead = answer
    before = traffic.so_far()
    for reader in readers:  # one block of each
        number = reader.samples - 1
        local = ShardSet(tiny_set).stratum("train", reader.entry.class_name, "real")
        assert reader.image_bytes(number) == local.image_bytes(number)
    assert set(asked.values()) == {7} and len(asked) == 3
    after = traffic.so_far()
    assert (after.requests - before.requests, after.retries - before.retries) == (3 * 7, 3 * 6)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", ["busy", "torn"])
def test_a_server_that_never_answers_well_ends_it_with_one_line(
    remote: S3Server, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRDIST_RETRY_MINUTES", "0.005")
    reader = open_set(URL)[0]
    reader.index(0)
    remote.requests.clear()
    if trouble == "busy":
        remote.instead = lambda method, path: BUSY
    else:
        remote.cut = lambda method, path: 10
    cause = {"busy": "Please reduce your request rate", "torn": "Response payload is not completed"}[trouble]
    reader.prefetch(np.arange(2))
    told = rf"^{URL}/{TAR}: {cause}.*, still after \d+ retries in 0 s \(CXRDIST_RETRY_MINUTES\): check the address"
    with pytest.raises(UserError, match=rf"{told}.*same command again$"):
        reader.image_bytes(1)
    assert len(remote.requests) > 2
    remote.instead, remote.cut = (lambda method, path: None), (lambda method, path: None)
    assert len(reader.image_bytes(1)) > 0


def test_a_process_killed_while_it_fetches_leaves_no_block(remote: S3Server, tiny_set: Path) -> None:
    whole = digest_of(open_set(tiny_set), 0)
    reached, go_on = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if path.endswith(".tar"):
            reached.set()
            go_on.wait(60)

    remote.instead = hold
    with reading(URL, 1) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
    cache = Path(os.environ["CXRDIST_CACHE"])
    assert [path.name for path in cache.iterdir()] == [".lock"]
    go_on.set()
    assert digest_of(open_set(URL), 2) == whole


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_cache_that_is_damaged_while_it_is_used_costs_requests_and_no_image(
    remote: S3Server, tiny_set: Path, damage: str
) -> None:
    here, there = Gather(open_set(tiny_set)), Gather(open_set(URL))
    strata, samples = np.repeat([0, 1], [8, 3]), np.concatenate([np.arange(8), np.arange(3)])

    def batch(gather: Gather) -> tuple[bytes, list[bytes]]:
        pixels, keys = np.empty((11, 1, 32, 32), np.uint8), np.empty(11, "S40")
        assert gather.fill(strata, samples, pixels, keys) == []
        return pixels.tobytes(), keys.tolist()

    assert batch(there) == batch(here)
    for path in Path(os.environ["CXRDIST_CACHE"]).glob("*-*"):
        if damage == "cut":
            os.truncate(path, 50)
        else:
            path.write_bytes(path.read_bytes()[::-1])
    asked = Counter(remote.asked(r"\.tar$"))
    remote.requests.clear()
    assert batch(there) == batch(here)
    assert Counter(remote.asked(r"\.tar$")) == asked
    remote.requests.clear()
    assert batch(there) == batch(here) and remote.requests == []


def test_verify_reads_what_lies_there_and_not_the_cache(remote: S3Server, tiny_set: Path) -> None:
    whole = digest_of(open_set(URL), 0)
    tar = bytearray((tiny_set / TAR).read_bytes())
    offset = int(ShardSet(tiny_set).stratum("train", "Normal", "real").index(0)[2]["offset_bytes"])
    tar[offset + 30] ^= 4
    remote.put(f"set/{TAR}", bytes(tar))
    readers = open_set(URL)
    assert digest_of(readers, 1) == whole
    assert Problem("changed", TAR, "changed since it was written") in verify(URL)
    with pytest.raises(UserError, match=f"{TAR}: changed since it was written"):
        list(readers[0].whole(0))


def test_a_set_in_memory_is_read_by_blocks(tiny_set: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for path in tiny_set.iterdir():
        fs.pipe_file(f"/set/{path.name}", path.read_bytes())
    readers = open_set("memory://set")
    whole = digest_of(open_set(tiny_set), 0)
    assert digest_of(readers, 1) == whole
    for path in list(fs.store):
        if path.endswith(".tar"):
            del fs.store[path]
    assert digest_of(open_set("memory://set"), 2) == whole
    fs.store.clear()


def put_changed(server: S3Server, place: Path, before: dict[str, bytes]) -> None:
    """What differs from ``before``, at the URL."""
    for path in place.iterdir():
        if before.get(path.name) != path.read_bytes():
            server.put(f"set/{path.name}", path.read_bytes())


def test_samples_that_were_removed_are_not_read_from_a_url(s3: S3Server, tmp_path: Path) -> None:
    """Blocks of the set as it was lie in the cache, and are others."""
    write_synthetic(tmp_path, origin="real")
    before = contents(tmp_path)
    put_changed(s3, tmp_path, {})
    as_it_was = open_set(URL)
    whole = digest_of(as_it_was, 0)
    assert whole == digest_of(open_set(tmp_path), 0)
    remove(tmp_path, {1: (1, 3, 4, 5)}, origin="real")
    put_changed(s3, tmp_path, before)
    s3.requests.clear()
    local, readers = open_set(tmp_path), open_set(URL)
    left = digest_of(local, 0)
    assert digest_of(readers, 1) == left != whole and digest_of(as_it_was, 2) == whole
    assert [reader.key(1) for reader in readers] == [key_of(0, 1).encode(), key_of(1, 2).encode()]
    # The other shards have the blocks that they had, and nothing is left of the second shard of Pneumothorax.
    (fetched,) = s3.asked(r"\.tar$")
    assert fetched[1].endswith("train-pneumothorax-real-000000.tar") and fetched in blocks_of(local)
    for here, there in zip(local, readers):
        assert [s.key for s in there.all_samples()] == [s.key for s in here.all_samples()]
    assert verify(URL) == []


def test_the_same_in_memory(tmp_path: Path) -> None:
    url = f"memory://removed/{tmp_path.name}"
    write_synthetic(url, origin="real")
    write_synthetic(tmp_path, origin="real")
    whole = digest_of(open_set(url), 0)
    for place in (url, tmp_path):
        remove(place, {0: [0], 1: (1, 3, 4, 5)}, origin="real")
    readers = open_set(url)
    assert digest_of(readers, 1) == digest_of(open_set(tmp_path), 2) != whole
    assert [reader.samples for reader in readers] == [8, 5]


@pytest.mark.usefixtures("inline")
def test_tars_of_others_are_read_by_the_samples_of_a_stratum(s3: S3Server, tars: Path) -> None:
    index_in_place(importer(tars, in_place=True), options())
    for path in tars.iterdir():
        s3.put(f"set/{path.name}", path.read_bytes())
    local, readers = open_set(tars), open_set(URL)
    assert all(reader.is_external for reader in readers)
    whole = digest_of(local, 0)
    assert digest_of(readers, 1) == whole
    # Between two samples of a class lies one of the other, which is fetched along.
    assert Counter(s3.asked(r"\.tar$")) == blocks_of(local)
    s3.requests.clear()
    assert digest_of(open_set(URL), 2) == whole and s3.asked(r"\.tar$") == []
    for here, there in zip(local, readers):
        s3.requests.clear()
        assert list(there.whole(0)) == list(here.whole(0))
        assert [told for _, _, told in s3.asked(r"\.tar$")] == ["bytes=0-"]  # all of it, once


def test_readers_travel_to_workers_without_their_connections(remote: S3Server, tiny_set: Path) -> None:
    shards = ShardSet(URL)
    reader = shards.stratum("train", "Normal", "real").with_block_rows(ROWS)
    expected = reader.image_bytes(1)
    remote.requests.clear()
    there = pickle.loads(pickle.dumps(reader))
    assert there.image_bytes(1) == expected
    assert remote.asked(r"\.tar$") == []  # from the cache on disk
    shards.close()
    assert reader.image_bytes(1) == expected and remote.asked(r"\.tar$") == []


def test_decoding_processes_and_their_job_fetch_each_block_once(remote: S3Server, tiny_set: Path) -> None:
    """The job asks ahead for what its processes then find on disk."""
    here, readers = Gather(open_set(tiny_set)), open_set(URL)
    counts = [reader.samples for reader in readers]
    strata = np.repeat(np.arange(3), counts)
    samples = np.concatenate([np.arange(count) for count in counts])
    pixels, keys = np.empty((len(samples), 1, 32, 32), np.uint8), np.empty(len(samples), "S40")
    here.fill(strata, samples, pixels, keys)
    pool = DecodePool(readers, workers=2, batch=len(samples), slots=2)
    try:
        Gather(readers).prefetch(strata, samples)
        for ticket in range(2):
            pool.submit(ticket, strata, samples)
        for ticket in range(2):
            found, told, substitutions = pool.result(ticket)
            assert np.array_equal(found, pixels) and told.tolist() == keys.tolist() and not substitutions
    finally:
        pool.close()
    assert Counter(remote.asked(r"\.tar$")) == blocks_of(readers)


@pytest.mark.parametrize("gib", [1, 0])
def test_a_job_of_decoding_processes_fetches_ahead_to_its_end(
    remote: S3Server, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, gib: int
) -> None:
    """And not at all where they would not find it."""
    monkeypatch.setenv("CXRDIST_CACHE_GIB", str(gib))
    monkeypatch.setattr(block_reader, "AHEAD_BLOCKS", 2)
    monkeypatch.setattr(stream, "block_rows_of", lambda stratum_bytes, samples: ROWS)
    shards = ShardSet(URL)
    quotas = {name: {"real": shards.samples("train", name, "real")} for name in shards.classes}
    reader = stream.Stream(shards, None, quotas, stream.StreamOptions(batch=2, seed=1))
    with read_ahead(reader, 0, 9, LoaderConfig(workers=1)) as batches:
        there = list(batches)
    assert shards.blocks is not None and not (gib and len(shards.blocks._held) < 2)
    assert all(held.was_used for held in shards.blocks._held.values())
    assert Counter(remote.asked(r"\.tar$")) == blocks_of(reader.readers)
    here = stream.Stream(ShardSet(tiny_set), None, quotas, stream.StreamOptions(batch=2, seed=1))
    for step, batch in enumerate(there):
        assert torch.equal(batch.pixels, here.read(step).pixels)


def test_many_threads_share_one_connection_pool(remote: S3Server, tiny_set: Path) -> None:
    """Opened by whichever comes first, once."""
    readers = open_set(URL)
    [reader.index(0) for reader in readers]
    fresh = pickle.loads(pickle.dumps(readers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reader in fresh:
            reader.prefetch(np.arange(reader.samples))
        assert digest_of(fresh, 0) == digest_of(open_set(tiny_set), 0)


def test_no_cache_is_a_choice(remote: S3Server, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRDIST_CACHE_GIB", "0")
    readers = open_set(URL)
    for seed in range(2):
        assert digest_of(readers, seed) == digest_of(open_set(tiny_set), 0)
    assert Counter(remote.asked(r"\.tar$")) == blocks_of(readers)
    assert not Path(os.environ["CXRDIST_CACHE"]).exists()
