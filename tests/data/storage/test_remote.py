"""Sets at URLs: against an S3 server on loopback, in memory, and where nothing answers as it should."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from s3fs import S3FileSystem

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest import ingest as ingest_module
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.index import index_name
from cxrdist.data.shards.schema import Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage import retries, traffic
from cxrdist.data.storage.remote import RemoteStore
from cxrdist.data.storage.store import LocalStore, locked, store_of, write_to
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.images import CLASSES, draw_folder
from tests.helpers.s3_server import BUCKET, Answer, Folders, S3Server, error_body

pytestmark = pytest.mark.slow

URL = f"s3://{BUCKET}/set"
CONTINUING = f"{URL}: continuing an unfinished set\n"
# As the fixture tiny_set is made.
OPTIONS = ["--size", "32", "--val", "0.2", "--test", "0.2"]
UNKNOWN_PATIENTS = (
    "warning: 32 images name no patient, so each counts as a patient of its own: two images of one patient may be in "
    "two splits\n"
)
TAR = "train-normal-real-000000.tar"


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def options(out: str, **changes: Any) -> IngestOptions:
    return IngestOptions(**{"out": out, "size": 32, "val": 0.2, "test": 0.2, "workers": 1, **changes})


def cxrdist(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cxrdist", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CXRDIST_LOG_LEVEL": "error", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command which failed for its user's sake says."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").strip()


# ---- written


def test_an_import_to_s3_is_the_local_set_byte_for_byte(s3: S3Server, images: Path, tiny_set: Path) -> None:
    words = ["import", "folder", "--root", str(images), "--out", URL, *OPTIONS, "--workers", "2"]
    done = cxrdist(*words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    requests = Counter(
        (method, path.rpartition(".")[2])
        for method, path, _ in s3.requests
        if re.search(r"\.(tar|npy)$", path)
    )
    # Is it there already; the tar; its index.
    assert requests == {("GET", "npy"): 9, ("PUT", "tar"): 9, ("PUT", "npy"): 9}
    # A table for each of the nine strata, and what does not grow with the set.
    assert len(s3.requests) - requests.total() - 9 <= 25
    digest = ShardSet(tiny_set).digest
    assert f"{URL}: 32 images, digest {digest[:12]}" in done.stdout
    assert s3.objects("set/") == contents(tiny_set)

    s3.requests.clear()
    again = cxrdist(*words)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert f"{URL}: already finished, digest {digest[:12]}; nothing to do" in again.stdout
    assert {method for method, _, _ in s3.requests} == {"GET", "HEAD"}
    assert s3.objects("set/") == contents(tiny_set)


def test_info_and_verify_take_a_url(remote: S3Server, tiny_set: Path) -> None:
    info = cxrdist("shards", "info", URL, "--json")
    assert (info.returncode, info.stderr) == (0, "")
    assert json.loads(info.stdout)["digest"] == ShardSet(tiny_set).digest
    done = cxrdist("shards", "verify", f"{URL}/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{URL}/: no problems found"


def test_a_set_is_converted_from_url_to_url(remote: S3Server, tiny_set: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(set=str(tiny_set), out=str(tmp_path / "npy"), encoding="npy", workers=1))
    convert(ConvertOptions(set=f"{URL}/", encoding="npy", workers=2))
    assert remote.objects("set-32-npy/") == contents(tmp_path / "npy")


def test_another_job_into_the_same_url_is_refused(
    remote: S3Server, images: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"{URL} already holds another set (seed 0, now 1): name another --out"
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(images)), options(URL, seed=1))
    assert str(caught.value).startswith(told)
    # Unfinished, too.
    job = json.loads(contents(tiny_set)["manifest.json"])["provenance"]
    job = {key: value for key, value in job.items() if key not in ("undecodable", "near_duplicates")}
    store = RemoteStore(URL)
    write_to(store, ".job.json", json.dumps(job).encode())
    store.remove("manifest.json")
    before = remote.objects("")
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(images)), options(URL, seed=1))
    assert str(caught.value).startswith(told)
    assert remote.objects("") == before
    remote.put("other/notes.txt", b"mine")
    with pytest.raises(UserError, match=r"other is not empty \(it holds notes.txt\): name another --out"):
        ingest(Folder(root=str(images)), options(f"s3://{BUCKET}/other"))


def test_an_import_killed_in_the_middle_is_finished_by_the_same_command(
    s3: S3Server, images: Path, tmp_path: Path
) -> None:
    words = ["--root", str(images), *OPTIONS, "--no-dedup", "--min-shards", "3", "--workers", "2"]
    assert cxrdist("import", "folder", *words, "--out", str(tmp_path / "whole")).returncode == 0
    whole = contents(tmp_path / "whole")
    reached, go_on = threading.Event(), threading.Event()
    put: list[str] = []

    def hold(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".tar"):
            put.append(path)
            if len(put) > 4:
                reached.set()
                go_on.wait(60)

    s3.instead = hold
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "cxrdist", "import", "folder", *words, "--out", URL]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
    assert list(temporary.iterdir()) == []
    s3.instead = lambda method, path: None
    go_on.set()
    time.sleep(0.2)  # what was held is put, or was never whole
    left = s3.objects("set/")
    assert "manifest.json" not in left and ".job.json" in left
    assert 4 <= len([name for name in left if name.endswith(".tar")]) <= 6
    with pytest.raises(UserError, match="not a shard set, or its import did not finish"):
        ShardSet(URL)
    # Torn as no object store leaves it, but a file server may.
    s3.put("set/" + next(name for name in left if name.endswith(".tar")), b"torn")
    done = cxrdist("import", "folder", *words, "--out", URL, CXRDIST_LOG_LEVEL="info")
    assert done.returncode == 0 and done.stderr == CONTINUING + UNKNOWN_PATIENTS, done.stderr
    assert s3.objects("set/") == whole


def test_an_undecodable_source_leaves_nothing(s3: S3Server, images: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", CLASSES)
    for path in (root / "Normal").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    done = cxrdist("import", "folder", "--root", str(root), "--out", URL, *OPTIONS, "--workers", "1")
    assert error_of(done).endswith("nothing was written")
    assert s3.keys("") == []


def test_two_processes_of_the_same_job_make_one_set(
    memory: Any, images: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts as the first is about to conclude, and is killed before it has written a table."""
    write_manifest, source = ingest_module.write_manifest, Folder(root=str(images))

    def while_another_runs(store: Any, **parts: Any) -> Any:
        monkeypatch.setattr(ingest_module, "write_manifest", write_manifest)
        with monkeypatch.context() as patch:
            patch.setattr(ingest_module, "write_table", killed)
            with pytest.raises(KeyboardInterrupt):
                ingest(source, options("memory://set"))
        return write_manifest(store, **parts)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ingest_module, "write_manifest", while_another_runs)
    ingest(source, options("memory://set"))
    assert {path.removeprefix("/set/"): memory.cat_file(path) for path in memory.store} == contents(tiny_set)


def test_a_set_in_memory_and_one_at_a_file_url(
    memory: Any, images: Path, tiny_set: Path, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/set"
    ingest(Folder(root=str(images)), options(url))
    assert contents(tmp_path / "set") == contents(tiny_set)
    assert ShardSet(url).digest == ShardSet(tiny_set).digest
    assert isinstance(store_of(url), LocalStore)
    ingest(Folder(root=str(images)), options("memory://a/set/", workers=2))
    assert {path.removeprefix("/a/set/"): memory.cat_file(path) for path in memory.store} == contents(
        tiny_set
    )
    same = ShardSet("memory://a/set").images("val", "Normal", "real", 9)
    assert np.array_equal(same, ShardSet(tiny_set).images("val", "Normal", "real", 9))
    assert verify("memory://a/set") == []


# ---- read


def test_a_set_on_s3_reads_as_the_local_one(remote: S3Server, tiny_set: Path) -> None:
    here, there = ShardSet(tiny_set), ShardSet(URL)
    assert there.manifest == here.manifest and there.strata == here.strata
    reader, local = (shards.stratum("train", "Normal", "real") for shards in (there, here))
    remote.requests.clear()
    assert reader.key(5) == local.key(5)
    paths = [(method, path.partition("/set/")[2]) for method, path, _ in remote.requests]
    assert paths == [("GET", local.entry.table), ("GET", TAR.replace(".tar", ".index.npy"))]
    remote.requests.clear()
    for number in (5, 0, 7):
        assert np.array_equal(reader.pixels(number), local.pixels(number))
    # All eight at once: they have less than 4 MiB.
    start, last = int(local.index(0)["offset_bytes"][0]), local.index(0)[7]
    stop = int(last["offset_bytes"] + last["length_bytes"])
    assert remote.requests == [("GET", f"/{BUCKET}/set/{TAR}", f"bytes={start}-{stop - 1}")]
    for name in CLASSES:
        of_here, of_there = (shards.images("test", name, "real", 2) for shards in (here, there))
        assert np.array_equal(of_here, of_there)
    metas = [[sample.meta for sample in r.whole(0)] for r in (local, reader)]
    assert metas[0] == metas[1] and len(metas[0]) == 8


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_from_s3_are_those_from_the_folder(remote: S3Server, tiny_set: Path, world_size: int) -> None:
    quotas = {"Normal": {"real": 8}, "Pneumothorax": {"real": 5}, "Pleural Effusion": {"real": 7}}
    for rank in range(world_size):
        here, there = (
            Stream(
                ShardSet(place),
                None,
                quotas,
                StreamOptions(batch=8, seed=3, rank=rank, world_size=world_size),
            )
            for place in (str(tiny_set), URL)
        )
        for step in (0, 3):
            a, b = here.read(step), there.read(step)
            assert a.keys.tolist() == b.keys.tolist()
            assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)


def test_what_is_wrong_on_s3_is_found_by_verify_and_by_the_reader(remote: S3Server, tiny_set: Path) -> None:
    tar = (tiny_set / TAR).read_bytes()
    reader = ShardSet(tiny_set).stratum("train", "Normal", "real")
    row = reader.index(0)[2]
    offset, key = int(row["offset_bytes"]), row["key"].decode()
    flipped = bytearray(tar)
    flipped[offset + 30] ^= 4
    remote.put(f"set/{TAR}", bytes(flipped))
    remote.put("set/notes.txt", b"mine")
    remote.client.delete_object(Bucket=BUCKET, Key="set/val-normal-real-000000.tar")
    found = verify(URL)
    detail = f"sample {key} at byte {offset}: its image does not match its hash"
    lost = Problem("missing", "val-normal-real-000000.tar", "missing")
    unlisted = Problem("unlisted", "notes.txt", "not part of the set")
    assert found == [
        Problem("changed", TAR, "changed since it was written"),
        Problem("image", TAR, f"sample {key} at byte {offset}: not an image of a known format"),
        Problem("changed", index_name(TAR), f"not the index of {TAR}"),
        Problem("image", TAR, detail),
        lost,
        unlisted,
    ]
    assert verify(URL, quick=True) == [lost, unlisted]

    there = ShardSet(URL).stratum("train", "Normal", "real")
    assert there.image_bytes(1) == reader.image_bytes(1)
    with pytest.raises(UserError) as caught:
        there.image_bytes(2)
    assert str(caught.value) == (
        f"{URL}/{TAR}: sample {key} at byte {offset}: its bytes do not match their hash; "
        f"`cxrdist shards verify {URL}` lists all problems of the set"
    )
    with pytest.raises(UserError, match=f"{URL}/val-normal-real-000000.tar: missing"):
        ShardSet(URL).images("val", "Normal", "real", 1)
    # Cut off, so that the sample asked for starts after its end: S3 refuses such a range.
    for length in (offset, 0):
        remote.put(f"set/{TAR}", tar[:length])
        there = ShardSet(URL).stratum("train", "Normal", "real")
        with pytest.raises(
            UserError, match=f"sample {key} at byte {offset}: its bytes do not match their hash"
        ):
            there.image_bytes(2)
        assert length == 0 or there.image_bytes(1) == reader.image_bytes(1)
        assert Problem("size", TAR, f"{length:,} bytes, not {len(tar):,}") in verify(URL)


def test_a_store_with_more_objects_than_a_page_lists_them_all(s3: S3Server) -> None:
    names = [f"{number:04d}" for number in range(1100)]
    for name in names:
        s3.put(f"set/{name}", b"")
    s3.put("set/folder/inside", b"")
    s3.put("set/", b"")  # what a console makes of a folder
    s3.put("set2", b"")
    s3.requests.clear()
    assert RemoteStore(URL).names() == [*names, "folder"]
    assert len(s3.requests) == 2
    empty = RemoteStore(f"s3://{BUCKET}/folder")
    s3.put("folder/", b"")
    assert empty.names() == []


@pytest.mark.usefixtures("s3", "memory")
@pytest.mark.parametrize("url", [f"s3://{BUCKET}/a/b", f"s3://{BUCKET}", "memory://a/b", "folders://a/b"])
def test_a_remote_store_does_what_a_folder_does(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folders, "root", str(tmp_path / "remote"))
    fsspec.register_implementation("folders", "tests.helpers.s3_server.Folders", clobber=True)
    for store in (LocalStore(tmp_path / "local"), RemoteStore(url)):
        assert store.names() == []
        assert not store.exists("x.tar")
        with pytest.raises(FileNotFoundError):
            store.read("x.tar")
        with pytest.raises(FileNotFoundError):
            store.read_range("x.tar", 1, 2)
        with pytest.raises(FileNotFoundError):
            store.size("x.tar")
        store.remove("x.tar")
        with pytest.raises(RuntimeError), store.writer("x.tar") as file:
            file.write(b"half")
            raise RuntimeError
        assert not store.exists("x.tar")
        write_to(store, "x.tar", b"before")
        write_to(store, "x.tar", b"0123456789")
        write_to(store, "empty", b"")
        assert store.is_there() and store.exists("x.tar") and not store.exists("x")
        assert store.names() == ["empty", "x.tar"]
        assert (store.size("x.tar"), store.size("empty")) == (10, 0)
        assert (store.read("x.tar"), store.read("empty")) == (b"0123456789", b"")
        parts = [store.read_range("x.tar", *span) for span in ((0, 4), (8, 9), (10, 1), (11, 5))]
        assert parts == [b"0123", b"89", b"", b""]
        with store.open("x.tar") as file:
            assert (file.read(3), file.tell(), file.seek(0), file.read()) == (b"012", 3, 0, b"0123456789")
        with locked(store, "a test"):
            pass
        store.remove("empty")
        assert store.names() == ["x.tar"]
        store.close()


# ---- refused, in one line


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s4://x/y", "s4://x/y: unknown kind of URL 's4'; did you mean 's3'?"),
        (
            "pipe:cat x",
            "pipe:cat x: a pipe: URL would run a command, which is refused; give a folder or another URL",
        ),
        (
            "pipe://cat",
            "pipe://cat: a pipe: URL would run a command, which is refused; give a folder or another URL",
        ),
        *(
            (
                url,
                f"{url}: a URL that reads through another place is refused; give the place itself, such as "
                "s3://bucket/set",
            )
            for url in (f"simplecache::{URL}", "reference://x", "zip://x::s3://b/x.zip", "dir://x")
        ),
        (
            "sftp://user:secret@host/set",
            "sftp://...@host: an address with a password is refused, since messages and `ps` would show it; put user "
            "and password into ~/.config/fsspec/conf.json",
        ),
        ("s3://", "s3://: names no bucket or set; write s3://bucket/set"),
        ("s3:///set", "s3:///set: names no bucket or set; write s3://bucket/set"),
        (
            "s3://absent/set",
            "s3://absent/set: there is no bucket 'absent'; create it, or check its name and the server's address "
            "(AWS_ENDPOINT_URL)",
        ),
    ],
)
def test_a_url_that_names_no_place_is_one_line(s3: S3Server, images: Path, url: str, told: str) -> None:
    for command in (
        lambda: ShardSet(url),
        lambda: verify(url),
        lambda: ingest(Folder(root=str(images)), options(url)),
    ):
        with pytest.raises(UserError) as caught:
            command()
        assert str(caught.value) == told
    assert s3.buckets() == [BUCKET]


def test_a_missing_bucket_and_a_missing_set_end_a_command_with_one_line(s3: S3Server, images: Path) -> None:
    there_is_none = "s3://absent/set: there is no bucket 'absent'"
    assert error_of(cxrdist("shards", "info", "s3://absent/set")).startswith(there_is_none)
    words = ["import", "folder", "--root", str(images), *OPTIONS, "--workers", "1"]
    assert error_of(cxrdist(*words, "--out", "s3://absent/set")).startswith(there_is_none)
    assert s3.buckets() == [BUCKET]
    told = f"{URL}: no such shard set; make one with `cxrdist import ... --out {URL}`"
    assert error_of(cxrdist("shards", "verify", URL)) == told


FORBIDDEN = Answer(
    "403 Forbidden", error_body("InvalidAccessKeyId", "The key does not exist in our records.")
)
CREDENTIALS = "check the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), "


def test_wrong_credentials_end_a_command_with_one_line(s3: S3Server, images: Path) -> None:
    s3.instead = lambda method, path: FORBIDDEN
    told = error_of(cxrdist("shards", "info", URL))
    assert told.startswith(f"{URL}/manifest.json: The key does not exist in our records: {CREDENTIALS}")
    words = ["import", "folder", "--root", str(images), *OPTIONS, "--workers", "1", "--out", URL]
    assert error_of(cxrdist(*words)).startswith(f"{URL}/manifest.json: Forbidden: {CREDENTIALS}")
    # May read, but not write.
    s3.instead = lambda method, path: FORBIDDEN if method == "PUT" else None
    told = error_of(cxrdist(*words))
    assert told.startswith(f"{URL}/.job.json: The key does not exist in our records: {CREDENTIALS}")


@pytest.mark.usefixtures("s3")
def test_no_credentials_end_a_command_with_one_line() -> None:
    told = error_of(cxrdist("shards", "info", URL, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""))
    assert told == (
        f"{URL}/manifest.json: Unable to locate credentials: {CREDENTIALS}and that they allow to list, read and "
        "write there"
    )


def test_rights_that_end_in_the_middle_of_an_import_end_it_with_one_line(s3: S3Server, images: Path) -> None:
    """In a worker process."""
    s3.instead = lambda method, path: FORBIDDEN if method == "PUT" and path.endswith(".tar") else None
    words = ["import", "folder", "--root", str(images), *OPTIONS, "--no-dedup", "--workers", "2"]
    words += ["--out", URL]
    told = error_of(cxrdist(*words))
    assert ".tar: The key does not exist in our records: " in told and told.startswith(f"{URL}/")
    s3.instead = lambda method, path: None
    done = cxrdist(*words, CXRDIST_LOG_LEVEL="info")
    assert done.returncode == 0 and done.stderr == CONTINUING + UNKNOWN_PATIENTS, done.stderr
    assert verify(URL) == []


@pytest.mark.usefixtures("s3")
def test_an_endpoint_that_refuses_is_one_line_and_no_missing_set(images: Path) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "CXRDIST_RETRY_MINUTES": "0.02"}
    told = error_of(cxrdist("shards", "verify", URL, **nowhere))
    assert re.fullmatch(
        rf'{URL}/manifest.json: Could not connect to the endpoint URL: "http://127.0.0.1:1", still after [23] '
        r"retries in 1 s \(CXRDIST_RETRY_MINUTES\): check the address \(AWS_ENDPOINT_URL\) and the network, and "
        "run the same command again",
        told,
    )
    nowhere["CXRDIST_RETRY_MINUTES"] = "0"
    words = ["import", "folder", "--root", str(images), *OPTIONS, "--workers", "1", "--out", URL]
    assert error_of(cxrdist(*words, **nowhere)) == (
        f'{URL}/manifest.json: Could not connect to the endpoint URL: "http://127.0.0.1:1": check the address '
        "(AWS_ENDPOINT_URL) and the network, and run the same command again"
    )
    assert error_of(cxrdist(*words, CXRDIST_RETRY_MINUTES="long")) == (
        "CXRDIST_RETRY_MINUTES=long: not a time; set a number of minutes, 0 to repeat nothing"
    )


def test_a_server_that_is_busy_for_a_moment_is_asked_again(remote: S3Server, tiny_set: Path) -> None:
    refusals = iter(
        [Answer("503 Slow Down", error_body("SlowDown", "Please reduce your request rate.")), None]
    )
    remote.instead = lambda method, path: next(refusals, None)
    assert ShardSet(URL).digest == ShardSet(tiny_set).digest
    assert [path for _, path, _ in remote.requests] == [f"/{BUCKET}/set/manifest.json"] * 2


def test_a_silent_server_is_asked_until_the_time_is_over(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silence = threading.Event()

    def keep_silent(method: str, path: str) -> None:
        silence.wait(30)

    s3.instead = keep_silent
    monkeypatch.setattr(S3FileSystem, "read_timeout", 0.2)
    monkeypatch.setenv("CXRDIST_RETRY_MINUTES", "0.05")
    S3FileSystem.clear_instance_cache()
    cause = f'Read timeout on endpoint URL: "{s3.url}"'
    try:
        with pytest.raises(UserError, match=rf"^{URL}/x: {cause}, still after [3-6] retries in 3 s "):
            RemoteStore(URL).read("x")
        assert {method for method, _, _ in s3.requests} == {"GET"} and 4 <= len(s3.requests) <= 7
        (warning,) = capsys.readouterr().err.splitlines()
        told = rf"warning: {URL}/x does not answer \({cause}\): retry 2 in \d\.\d s; gives up after 3 s"
        assert re.fullmatch(told, warning)
        s3.requests.clear()
        with pytest.raises(UserError, match=f"^{URL}/x: Read timeout on endpoint"):
            RemoteStore(URL).exists("x")
        assert {method for method, _, _ in s3.requests} == {"HEAD"}
    finally:
        silence.set()
        S3FileSystem.clear_instance_cache()


def test_a_store_that_has_never_answered_is_given_up_sooner(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may be wrong. A worker process knows that it has answered."""
    monkeypatch.setattr(retries, "FIRST_LIMIT_S", 0.0)
    monkeypatch.setenv("CXRDIST_RETRY_MINUTES", "0.01")
    s3.put("set/x", b"1")
    store = RemoteStore(URL)
    s3.instead = lambda method, path: Answer("503 Slow Down", error_body("SlowDown", "Slow down."))
    with pytest.raises(UserError, match=f"^{URL}/x: Slow down: check the address"):
        store.read("x")
    s3.instead = lambda method, path: None
    assert store.read("x") == b"1"
    s3.instead = lambda method, path: Answer("503 Slow Down", error_body("SlowDown", "Slow down."))
    for again in (store, pickle.loads(pickle.dumps(store))):
        with pytest.raises(UserError, match=f"^{URL}/x: Slow down, still after . retr"):
            again.read("x")


EXPIRED = Answer("400 Bad Request", error_body("ExpiredToken", "The provided token has expired."))


def test_credentials_that_expire_and_are_not_renewed_end_it_with_one_line(s3: S3Server) -> None:
    s3.instead = lambda method, path: EXPIRED
    with pytest.raises(UserError) as caught:
        RemoteStore(URL).read("x")
    assert str(caught.value) == (
        f"{URL}/x: The provided token has expired: renew the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY) and run the same command again; those of a profile with credential_process, role_arn "
        "or SSO in ~/.aws/config are renewed in time"
    )
    assert len(s3.requests) == 2


def test_credentials_that_were_renewed_in_their_file_are_read_again(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all threads, of which one reads the file."""
    file = tmp_path / "credentials"
    keys = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\naws_session_token = t\n"
    file.write_text(keys.format("OLD"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    S3FileSystem.clear_instance_cache()
    for number in range(9):
        s3.put(f"set/{number}", str(number).encode())
    store, valid = RemoteStore(URL), "OLD"
    try:
        assert store.read("0") == b"0"
        file.write_text(keys.format("NEW"))
        valid = "NEW"
        s3.refuses = lambda headers: None if f"Credential={valid}/" in headers["Authorization"] else EXPIRED
        before = traffic.so_far()
        with ThreadPoolExecutor(8) as pool:
            assert [*pool.map(store.read, map(str, range(1, 9)))] == [str(n).encode() for n in range(1, 9)]
        assert traffic.so_far().retries - before.retries == len(s3.requests) - 1 - 8
        assert store.read("0") == b"0"
    finally:
        S3FileSystem.clear_instance_cache()


WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("s3fs", "gcsfs"):
            raise ImportError(f"No module named {name}")
sys.meta_path.insert(0, Blocker())
from cxrdist.cli.main import main
main()
"""


@pytest.mark.parametrize(("url", "extra"), [(URL, "s3"), ("gs://bucket/set", "gcs")])
def test_a_missing_package_names_the_extra_that_brings_it(url: str, extra: str, images: Path) -> None:
    for words in (
        ["shards", "info", url],
        ["import", "folder", "--root", str(images), *OPTIONS, "--out", url],
    ):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True, timeout=60
        )
        told = error_of(done)
        assert told.startswith(f"{url}: ") and told.endswith(f": pip install 'cxrdist[{extra}]'")
