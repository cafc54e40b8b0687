"""Hosts that do not see each other's folders: what works, what is refused, and what each of them writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from tests.helpers.hosts import Host
from tests.helpers.launching import replaced, run
from tests.helpers.on_hosts import Done, ended, launch_on, run_on, start_on

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

Hosts = tuple[Host, Host]
GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "320 images"]
GAN += ["--precision", "fp32", "--look-every-images", "160", "--classes", "Pneumothorax", "--run", "own/gan"]


@pytest.fixture
def own(two_hosts: Hosts, tmp_path: Path) -> Iterator[Path]:
    """A folder in which each host sees its private one, which is empty."""
    folder = tmp_path / "own"
    folder.mkdir()
    yield folder
    assert files_of(folder) == []
    for host in two_hosts:
        shutil.rmtree(host.private)
        host.private.mkdir()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(done: list[Done], message: str) -> None:
    """Every host says it, once and last."""
    for of in done:
        assert of.returncode == 1
        assert of.stderr.count(f"error: {message}") == 1, of.stderr
        last = of.stderr[of.stderr.index("Root Cause") :]
        assert f"traceback : {message}" in last and "exitcode  : 2" in last


def test_only_the_host_of_rank_0_writes_a_training_and_only_there_it_goes_on(
    two_hosts: Hosts, own: Path, tiny_set: Path, tmp_path: Path
) -> None:
    a, b = two_hosts
    words = [*GAN, "--shards", str(tiny_set)]
    run("train_gan.py", *replaced(words, "--run", "one"), cwd=tmp_path, processes=2)
    done, _ = run_on(two_hosts, "train_gan.py", *words, cwd=tmp_path, mounted=own)
    assert "own/gan: written on node-a alone; node-b has another folder there, or none" in done.stderr
    assert files_of(b.private) == []
    assert files_of(a.private / "gan") == files_of(tmp_path / "one")
    weights = "pneumothorax/generator.safetensors"
    assert (a.private / "gan" / weights).read_bytes() == (tmp_path / "one" / weights).read_bytes()

    before = files_of(a.private)
    refused(
        launch_on((b, a), "train_gan.py", *words, cwd=tmp_path, mounted=own),
        "own/gan: node-a has this run with 320 images, and node-b, which rank 0 is on now, has none: start the job "
        "with rank 0 on node-a (--machine_rank 0 there), copy the folder to node-b, or give another --run",
    )
    synth = ["--gan", "one", "--gates", "none", "--count", "Pneumothorax=8", "--out", "own/made"]
    jobs = [
        (
            "evaluate_gan.py",
            ["--run", "own/gan"],
            "gan",
            "an evaluation reads the run's checkpoints in every process",
        ),
        ("synthesize.py", synth, "made", "each process of a synthesis writes shards of its own"),
        (
            "train_gan.py",
            [*replaced(GAN, "--run", "own/apart"), "--placement", "class"],
            "apart",
            "with --placement class each process writes the models that it trains",
        ),
    ]
    started = [
        start_on(
            two_hosts,
            script,
            *(*options, "--shards", str(tiny_set)),
            cwd=tmp_path,
            mounted=own,
            launcher=["--main_process_port", str(29500 + number)],
        )
        for number, (script, options, *_) in enumerate(jobs)
    ]
    for of_job, (*_, folder, why) in zip(started, jobs, strict=True):
        refused(
            ended(of_job),
            f"own/{folder}: node-b does not see the folder that node-a has there, but {why}: give a folder that all "
            "hosts see, or use one host",
        )
    assert files_of(a.private) == before and files_of(b.private) == []
    assert not (tmp_path / "runs").exists()


def test_hosts_with_other_options_or_another_set_are_refused(
    two_hosts: Hosts, own: Path, tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    a, b = two_hosts
    words = [*GAN, "--shards", "own/set"]
    more = {b: ["--seed", "1"]}
    refused(
        ended(start_on(two_hosts, "train_gan.py", *words, cwd=tmp_path, mounted=own, only=more)),
        "--seed is 1 for rank 1 on node-b, and 0 for rank 0 on node-a: start the same command on every host",
    )
    shutil.copytree(tiny_set, a.private / "set")
    options = IngestOptions(out=str(b.private / "set"), size=32, val=0.3, test=0.2, workers=1)
    ingest(Folder(root=str(images)), options)
    ours, theirs = (ShardSet(at).digest[:12] for at in (tiny_set, b.private / "set"))
    refused(
        launch_on(two_hosts, "train_gan.py", *words, cwd=tmp_path, mounted=own),
        f"the real set is {theirs} for rank 1 on node-b, and {ours} for rank 0 on node-a: copy it "
        "from one host to the others, or name one place that all of them see",
    )
    assert files_of(a.private) == ["set", *(f"set/{name}" for name in files_of(tiny_set))]


def test_processes_that_accelerate_does_not_connect_do_not_start(
    two_hosts: Hosts, own: Path, tiny_set: Path, tmp_path: Path
) -> None:
    words = [*GAN, "--shards", str(tiny_set)]
    started = start_on(two_hosts, "train_gan.py", *words, cwd=tmp_path, mounted=own, launcher=["--cpu"])
    for of in ended(started):
        assert of.returncode == 1
        assert (
            of.stderr.count("error: accelerate started one process here, which is not connected to those of")
            == 1
        )
    assert [files_of(host.private) for host in two_hosts] == [[], []]
