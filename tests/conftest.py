"""Tiny sets for tests: drawn images, no phantom, nothing shared between tests but read-only sets."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cxrdist import logs
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.writing import write_pool
from tests.helpers.images import CLASSES, draw_folder
from tests.helpers.inline_pool import InlinePool

if TYPE_CHECKING:
    from tests.helpers.s3_server import S3Server

logs.configure()  # as a command does: tests read warnings and notes on stderr


@pytest.fixture(autouse=True)
def own_salt(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known salt, away from the user's own."""
    home = tmp_path_factory.getbasetemp() / "config"
    (home / "cxrdist").mkdir(parents=True, exist_ok=True)
    (home / "cxrdist" / "salt").write_text("a salt for tests, 16 bytes or more\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test finds no block of another's, nor of the user's."""
    monkeypatch.setenv("CXRDIST_CACHE", str(tmp_path_factory.getbasetemp() / "blocks" / uuid.uuid4().hex))
    monkeypatch.delenv("CXRDIST_CACHE_GIB", raising=False)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are written in this process, without the seconds that workers take to start."""
    monkeypatch.setattr(write_pool, "_shared", None)
    monkeypatch.setattr(write_pool, "ProcessPoolExecutor", InlinePool)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn images in three classes, 32 px."""
    return draw_folder(tmp_path_factory.mktemp("images") / "root", CLASSES)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A shard set of them; read-only for all tests."""
    out = tmp_path_factory.mktemp("sets") / "tiny"
    salt = tmp_path_factory.mktemp("salt") / "salt"
    salt.write_text("a salt for tests, 16 bytes or more\n")
    ingest(
        Folder(root=str(images)),
        IngestOptions(out=str(out), size=32, val=0.2, test=0.2, salt_file=str(salt), workers=1),
    )
    return out


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Its address and keys are in the environment, as users give them, so that commands and workers see them."""
    from tests.helpers.s3_server import S3Server

    with pytest.MonkeyPatch.context() as patch:
        started = S3Server()
        patch.setenv("AWS_ENDPOINT_URL", started.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"):
            patch.delenv(name, raising=False)
        yield started
        started.close()


@pytest.fixture
def s3(s3_server: S3Server) -> S3Server:
    """With an empty bucket."""
    s3_server.start_bucket()
    return s3_server


@pytest.fixture
def remote(s3: S3Server, tiny_set: Path) -> S3Server:
    """With the tiny set, copied as anyone would, at s3://bucket/set."""
    for path in tiny_set.iterdir():
        s3.put(f"set/{path.name}", path.read_bytes())
    s3.requests.clear()
    return s3
