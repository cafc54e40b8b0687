"""Tiny sets for tests: drawn images, no phantom, nothing shared between tests but read-only sets."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cxrdist import logs
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest

if TYPE_CHECKING:
    from s3_server import S3Server

CLONE = Path(__file__).resolve().parents[1]
logs.configure()  # as a command does: tests read warnings and notes on stderr
CLASSES = {"Normal": 14, "Pneumothorax": 8, "Pleural Effusion": 10}


def draw_folder(root: Path, counts: dict[str, int], size: int = 32) -> Path:
    """``root/<class>/*.png``: bright bars whose side tells the class, with noise."""
    rng = np.random.default_rng(7)
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(20, 90, (size, size), np.uint8)
            image[:, 8 * c : 8 * c + 8] += np.uint8(120)
            Image.fromarray(image).save(root / name / f"{i:03d}.png")
    return root


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
    from s3_server import S3Server

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


def launch(
    script: str, *words: str, cwd: Path, processes: int = 1, config: str = "cpu2.yaml"
) -> subprocess.CompletedProcess[str]:
    """``launch/<script>`` on CPU, under ``accelerate launch`` where there are several processes."""
    return subprocess.run(
        launch_command(script, *words, processes=processes, config=config),
        cwd=cwd,
        env=launch_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch_command(script: str, *words: str, processes: int = 1, config: str = "cpu2.yaml") -> list[str]:
    command = [sys.executable]
    if processes > 1:
        file = str(CLONE / "configs/accelerate" / config)
        command += ["-m", "accelerate.commands.launch", "--config_file", file]
        command += ["--num_processes", str(processes)]
    return [*command, str(CLONE / "launch" / script), *words]


def launch_environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(CLONE),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
    }
