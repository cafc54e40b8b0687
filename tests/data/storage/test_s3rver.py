"""Sets on a second S3 server, which shares no code with the first: `npm install --global s3rver@3.7.1`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from cxrdist.data.storage.remote import RemoteStore
from cxrdist.data.tools.verify import verify
from tests.helpers.processes import wait_until
from tests.helpers.read_set import digest_of, open_set
from tests.helpers.shard_sets import contents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("s3rver") is None, reason="s3rver is not installed"),
]

URL = "s3://bucket/set"


@pytest.fixture
def s3rver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--directory",
        str(tmp_path / "objects"),
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
        "--silent",
    ]
    (tmp_path / "objects").mkdir()
    process = subprocess.Popen(["s3rver", *words, "--configure-bucket", "bucket"])
    wait_until(lambda: is_listening(port))
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "S3RVER",
        "AWS_SECRET_ACCESS_KEY": "S3RVER",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()
    process.terminate()
    process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.usefixtures("s3rver")
def test_a_set_there_is_the_local_one(images: Path, tiny_set: Path) -> None:
    words = ["--root", str(images), "--out", URL, "--size", "32", "--val", "0.2", "--test", "0.2"]
    command = [sys.executable, "-m", "cxrdist", "import", "folder", *words, "--workers", "1"]
    for told in (f"{URL}: 32 images, digest ", f"{URL}: already finished, digest "):
        environment = {**os.environ, "CXRDIST_LOG_LEVEL": "error"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert told in done.stdout
    store = RemoteStore(URL)
    whole = contents(tiny_set)
    assert {name: store.read(name) for name in store.names()} == whole
    assert verify(URL) == []
    assert digest_of(open_set(URL), 0) == digest_of(open_set(tiny_set), 1)
    size = store.size("manifest.json")
    parts = [
        store.read_range("manifest.json", *span) for span in ((0, 5), (3, 5), (size - 2, 9), (size + 9, 5))
    ]
    manifest = whole["manifest.json"]
    assert parts == [manifest[:5], manifest[3:8], manifest[-2:], b""]
    with pytest.raises(FileNotFoundError):
        store.read("absent")
    store.remove("manifest.json")
    assert not store.exists("manifest.json")
