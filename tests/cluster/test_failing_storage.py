"""A training reads its set from an S3 server on another host, which fails in every way that a night may bring."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from tests.helpers.failing_s3 import URL, Mood
from tests.helpers.hosts import Host, hosts, why_not
from tests.helpers.images import draw_folder
from tests.helpers.launching import CLONE, launch_environment, summary
from tests.helpers.processes import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

JOB = CLONE / "tests/helpers/small_blocks.py"
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "1600 images", "--evaluations", "1"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1", "--run", "run"]
IMAGES = {"Normal": 360, "Pneumothorax": 120, "Pleural Effusion": 120}
SAME = ("weights_sha256", "order_sha256", "metrics", "substituted")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 images in 1.7 MB, which the jobs here read in about 130 requests."""
    folder = tmp_path_factory.mktemp("failing-storage")
    options = {"size": 32, "encoding": "npy", "val": 0.1, "test": 0.1, "find_duplicates": False, "workers": 1}
    ingest(
        Folder(root=str(draw_folder(folder / "images", IMAGES))),
        IngestOptions(out=str(folder / "set"), **options),  # type: ignore[arg-type]
    )
    return folder / "set"


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    with hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def command_of(processes: int) -> list[str]:
    words = [sys.executable, str(JOB), "train_cls.py", *CLS]
    if processes > 1:
        words[1:1] = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
        words[3:3] = ["--config_file", str(CLONE / "configs/accelerate/cpu2.yaml")]
    return words


class Server:
    """The server's program on one host, and jobs on the other."""

    def __init__(self, host: Host, jobs: Host, shards: Path, folder: Path) -> None:
        self.host, self.jobs, self.folder = host, jobs, folder
        words = [sys.executable, "-m", "tests.helpers.failing_s3", host.address, str(shards), str(folder)]
        quiet: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        self.process = host.start(*words, cwd=CLONE, env=launch_environment(), **quiet)
        wait_until(lambda: (folder / "url").exists())
        self.url = (folder / "url").read_text()

    def asked(self, pattern: str = r"\.tar") -> list[str]:
        return re.findall(rf".*{pattern}.*", (self.folder / "requests").read_text())

    def start(self, cwd: Path, *, processes: int = 1, before: str = "", **environment: str) -> Job:
        """``before``: a shell command that runs first, in the job's own view of the file systems."""
        words = [*command_of(processes), "--shards", URL]
        cwd.mkdir(exist_ok=True)
        return Job(
            self.jobs,
            ["sh", "-c", f'{before or ":"} && exec "$@"', "sh", *words],
            cwd,
            self.environment(cwd, environment),
        )

    def environment(self, cwd: Path, more: dict[str, str]) -> dict[str, str]:
        ours = {k: v for k, v in launch_environment().items() if not k.startswith("AWS_")}
        keys = {"AWS_ACCESS_KEY_ID": "first", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
        places = {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}
        unused = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
        found = {**ours, **keys, **places, **unused, "CXRDIST_CACHE": str(cwd / "cache"), **more}
        return {name: value for name, value in found.items() if value}


class Job:
    """A training on the other host."""

    def __init__(self, host: Host, words: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.cwd, self.began_s = cwd, time.monotonic()
        self._said = cwd / "said"
        with self._said.open("w") as file:
            self.process = host.start(*words, cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def end(self) -> int:
        return self.process.wait(180)

    def finish(self, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        """What it has exchanged with the server, if it ends as the undisturbed training did."""
        assert self.end() == 0, self.said
        found = summary(self.cwd / "run")
        assert {key: found[key] for key in SAME} == undisturbed
        storage: dict[str, Any] = found["storage"]
        with capsys.disabled():
            print(f"\n{self.cwd.name}: {time.monotonic() - self.began_s:.0f} s, {json.dumps(storage)}")
        return storage

    def error(self) -> str:
        """The one line with which it stopped."""
        assert self.end() == 2, self.said
        assert not (self.cwd / "run/summary.json").exists()
        (line,) = [line for line in self.said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.said
        return line.removeprefix("error: ")


def trained_on_files(shards: Path, folder: Path, processes: int = 1) -> dict[str, Any]:
    """What the training gives on the set in a folder."""
    command = [*command_of(processes), "--shards", str(shards)]
    done = subprocess.run(command, cwd=folder, env=launch_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = summary(folder / "run")
    assert "storage" not in found
    return {key: found[key] for key in SAME}


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained_on_files(shards, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def server(two_hosts: list[Host], shards: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    servers, jobs = two_hosts
    started = Server(servers, jobs, shards, tmp_path / "server")
    yield started
    servers.connect(True)
    servers.shape()
    started.process.kill()
    started.process.wait()


def test_503_for_half_of_the_requests_and_then_for_all(
    server: Server, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Mood(busy=0.5).save(server.folder)
    job = server.start(tmp_path / "503")
    wait_until(lambda: len(server.asked("train-.*tar")) > 12, job.process)
    Mood(busy=1.0).save(server.folder)
    time.sleep(6)
    Mood().save(server.folder)
    storage = job.finish(undisturbed, capsys)
    assert storage["retries"] == len(server.asked(" 503 ")) > 10
    # Few more are asked for the record of the run.
    assert 0 <= len(server.asked("GET")) - storage["requests"] < 10 and storage["waited_s"] > 6
    told = rf"{URL}/\S+ does not answer \(503 SlowDown\): retry \d+ in [\d.]+ s; gives up after 10 min"
    assert re.search(f"warning: {told}", job.said)
    assert re.search(rf"{URL} answers again, after \d+ s and \d+ retries", job.said)


@pytest.mark.parametrize("mood", [Mood(cut=0.2), Mood(short=0.15, portal=0.15)])
def test_answers_that_are_cut_or_something_else(
    server: Server,
    mood: Mood,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mood.save(server.folder)
    job = server.start(tmp_path / ("cut off" if mood.cut else "short or a web page"))
    assert job.finish(undisturbed, capsys)["retries"] > 5


def test_a_link_of_1_mb_per_s(
    server: Server, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.host.shape("tbf", "rate", "8mbit", "burst", "32k", "latency", "400ms")
    storage = server.start(tmp_path / "1 MB per s").finish(undisturbed, capsys)
    assert storage["retries"] == 0


def test_a_server_that_is_gone_for_a_minute(
    server: Server, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks wait for each other as long as the one that reads waits for the server."""
    job = server.start(tmp_path / "gone", processes=2)
    wait_until(lambda: len(server.asked("train-.*tar")) > 12, job.process)
    server.host.connect(False)
    gone_s = time.monotonic()
    undisturbed = trained_on_files(shards, tmp_path, processes=2)
    time.sleep(gone_s + 60 - time.monotonic())
    server.host.connect(True)
    storage = job.finish(undisturbed, capsys)
    assert storage["retries"] >= 3 and 40 < storage["waited_s"] < 90  # from the first timeout on
    told = r"does not answer \((Read timeout|Connect timeout|Could not connect).*gives up after 10 min"
    assert re.search(told, job.said)


def test_a_server_that_does_not_come_back(server: Server, tmp_path: Path) -> None:
    job = server.start(tmp_path / "lost", CXRDIST_RETRY_MINUTES="0.1")
    wait_until(lambda: len(server.asked("train-.*tar")) > 12, job.process)
    server.host.connect(False)
    told = job.error()
    assert re.fullmatch(
        rf"{URL}/train-\S+: (Read|Connect) timeout on endpoint URL: \S+, still after \d+ retr(y|ies) in \d+ s "
        r"\(CXRDIST_RETRY_MINUTES\): check the address \(AWS_ENDPOINT_URL\) and the network, and run the same "
        "command again",
        told,
    ), told


PROVIDER = """
import json, pathlib
print(json.dumps({{"Version": 1, "AccessKeyId": pathlib.Path({key!r}).read_text(), "SecretAccessKey": "s",
                  "SessionToken": "t", "Expiration": "2099-01-01T00:00:00Z"}}))
"""


def test_credentials_that_expire_are_asked_for_again(
    server: Server, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the program that gives them, though it had said that they are valid for longer."""
    script, key, config = tmp_path / "provider.py", tmp_path / "key", tmp_path / "config"
    script.write_text(PROVIDER.format(key=str(key)))
    key.write_text("first")
    config.write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    none: dict[str, Any] = dict.fromkeys(
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], ""
    )
    Mood(valid="first").save(server.folder)
    job = server.start(tmp_path / "expired", AWS_CONFIG_FILE=str(config), **none)
    wait_until(lambda: len(server.asked("train-.*tar")) > 12, job.process)
    key.write_text("second")
    Mood(valid="second").save(server.folder)
    assert 1 <= job.finish(undisturbed, capsys)["retries"] <= 8  # of the threads that met it at once


@pytest.mark.parametrize("mood", [Mood(valid="another"), Mood(denied=True)])
def test_credentials_that_no_repetition_heals_stop_it(server: Server, mood: Mood, tmp_path: Path) -> None:
    job = server.start(tmp_path / "refused")
    wait_until(lambda: len(server.asked("train-.*tar")) > 12, job.process)
    mood.save(server.folder)
    before, began_s = len(server.asked()), time.monotonic()
    told = job.error()
    assert time.monotonic() - began_s < 20 and len(server.asked()) - before < 40
    keys = r"\(AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\)"
    why = f"Access Denied: check the credentials {keys}, and that they allow"
    if mood.valid:
        why = rf"The provided token has expired: renew the credentials {keys} and run the same command again; those"
    assert re.match(rf"{URL}/train-\S+: {why}", told), told
    assert "does not answer" not in job.said


def test_a_full_cache_disk(
    server: Server, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training goes on without the cache, and says so once."""
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = f"mount -t tmpfs -o size=40k tmpfs '{cache}'"
    job = server.start(tmp_path / "full disk", before=mount, CXRDIST_CACHE=str(cache), CXRDIST_CACHE_GIB="1")
    assert job.finish(undisturbed, capsys)["retries"] == 0
    told = f"warning: {cache}: No space left on device: remote images are not cached on disk; free some space there"
    assert job.said.count(told) == 1


def test_two_jobs_share_a_cache_and_one_is_killed_while_it_writes(
    server: Server, undisturbed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    jobs = [server.start(tmp_path / name, CXRDIST_CACHE=str(cache)) for name in ("killed", "survivor")]
    wait_until(lambda: len([*cache.glob("*-*")]) > 20)
    jobs[0].process.kill()
    jobs[0].end()
    storage = jobs[1].finish(undisturbed, capsys)
    assert storage["retries"] == 0
    asked = len(server.asked("train-.*tar"))
    # What the survivor has cached is whole: a third job fetches no image that the two have fetched.
    again = server.start(tmp_path / "again", CXRDIST_CACHE=str(cache)).finish(undisturbed, capsys)
    assert len(server.asked("train-.*tar")) == asked and again["requests"] < storage["requests"]
    assert [path.name for path in cache.iterdir() if path.name.endswith(".tmp")] == []
