"""Sets at gs:// URLs, against gcp-storage-emulator on loopback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gcsfs
import pytest
from gcp_storage_emulator.server import create_server

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.remote import RemoteStore
from cxrdist.data.tools.verify import verify
from tests.helpers.launching import run, summary
from tests.helpers.read_set import digest_of, open_set
from tests.helpers.shard_sets import contents

pytestmark = pytest.mark.slow

URL = "gs://bucket/set"
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "320 images", "--evaluations", "1"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1"]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With an empty bucket."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    port = server._api._httpd.server_address[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    monkeypatch.setenv(
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"
    )  # asks Google itself for the kind of bucket
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.usefixtures("emulator")
def test_a_set_at_a_gs_url_is_the_local_one(images: Path, tiny_set: Path, tmp_path: Path) -> None:
    words = [
        "--root",
        str(images),
        "--out",
        URL,
        "--size",
        "32",
        "--val",
        "0.2",
        "--test",
        "0.2",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-m", "cxrdist", "import", "folder", *words]
    for told in (f"{URL}: 32 images, digest ", f"{URL}: already finished, digest "):
        done = subprocess.run(
            command, env={**os.environ, "CXRDIST_LOG_LEVEL": "error"}, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert told in done.stdout
    store = RemoteStore(URL)
    assert {name: store.read(name) for name in store.names()} == contents(tiny_set)
    assert verify(URL) == []
    assert ShardSet(URL).digest == ShardSet(tiny_set).digest
    assert digest_of(open_set(URL), 0) == digest_of(open_set(tiny_set), 1)
    with pytest.raises(FileNotFoundError):
        store.read("absent")
    assert not store.exists("absent") and store.size("manifest.json") == len(store.read("manifest.json"))
    parts = [store.read_range("manifest.json", start, 5) for start in (0, 3, store.size("manifest.json") + 9)]
    whole = (tiny_set / "manifest.json").read_bytes()
    assert parts == [whole[:5], whole[3:8], b""]

    for name, place in (("here", str(tiny_set)), ("there", URL)):
        run("train_cls.py", *CLS, "--shards", place, "--run", name, cwd=tmp_path)
    here, there = summary(tmp_path / "here"), summary(tmp_path / "there")
    assert here["weights_sha256"] == there["weights_sha256"]
    assert there["storage"]["requests"] > 10 and there["storage"]["retries"] == 0
    store.remove("manifest.json")
    assert not store.exists("manifest.json")
