"""Each job on two hosts, one launcher on each: the same as on one host with as many processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrdist.data.shards.shard_set import ShardSet
from tests.helpers.hosts import Host
from tests.helpers.impaired import impaired
from tests.helpers.launching import run, summary
from tests.helpers.on_hosts import C10D, run_on

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

Hosts = tuple[Host, Host]
GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "320 images"]
GAN += ["--precision", "fp32", "--look-every-images", "160", "--classes", "Pneumothorax", "--run", "runs/gan"]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "320 images", "--evaluations", "2"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1", "--run", "runs/cls"]
SYNTH = ["--gan", "runs/gan", "--count", "Pneumothorax=400", "--gates", "none", "--out", "made"]
EVALUATE = ["--run", "runs/gan", "--classifier", "runs/cls", "--images", "64"]
JOBS = {"train_gan.py": GAN, "train_cls.py": CLS, "synthesize.py": SYNTH, "evaluate_gan.py": EVALUATE}
"""In the order in which one needs the files of another."""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_result(a: Path, b: Path) -> None:
    ours, theirs = summary(a), summary(b)
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen", "world_size"):
        assert ours[key] == theirs[key], key


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A folder with the files of all jobs, on two processes of this machine."""
    folder = tmp_path_factory.mktemp("one")
    for script, words in JOBS.items():
        run(script, *words, "--shards", str(tiny_set), cwd=folder, processes=2)
    return folder


def test_all_jobs_in_a_folder_that_both_hosts_see(
    two_hosts: Hosts, one_host: Path, tiny_set: Path, tmp_path: Path
) -> None:
    for script, words in JOBS.items():
        a, b = run_on(two_hosts, script, *words, "--shards", str(tiny_set), cwd=tmp_path, launcher=C10D)
        assert "2 processes on CPU, 1 thread each" in a.stdout and b.stdout.strip() == ""
    for of in ("gan", "gan/pneumothorax", "cls"):
        same_result(tmp_path / "runs" / of, one_host / "runs" / of)
    for name in ("runs/gan/pneumothorax/generator.safetensors", "runs/cls/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (one_host / name).read_bytes()
    ours, theirs = ShardSet(tmp_path / "made"), ShardSet(one_host / "made")
    assert ours.digest == theirs.digest and ours.manifest.samples == 400
    assert len([*(tmp_path / "made").glob("*.tar")]) > 1  # so that each rank wrote one
    assert files_of(tmp_path / "made") == files_of(one_host / "made")
    evaluated, expected = (
        json.loads((at / "runs/gan/evaluation.json").read_text()) for at in (tmp_path, one_host)
    )
    assert evaluated == expected
    assert {*files_of(tmp_path)} == {*files_of(one_host)}


def test_over_a_slow_network_that_loses_frames(
    two_hosts: Hosts, one_host: Path, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_hosts
    with (
        impaired(a, delay_ms=50, loss_percent=1, seed=1) as of_a,
        impaired(b, delay_ms=50, loss_percent=1, seed=2) as of_b,
    ):
        run_on(two_hosts, "train_cls.py", *CLS, "--shards", str(tiny_set), cwd=tmp_path)
    with capsys.disabled():
        for name, of in (("node-a", of_a), ("node-b", of_b)):
            print(
                f"\n{name}, impaired by {of.by}: {of.passed} frames came 50 ms late, {of.dropped} were lost"
            )
    assert of_a.dropped and of_b.dropped
    same_result(tmp_path / "runs/cls", one_host / "runs/cls")
