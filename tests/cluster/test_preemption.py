"""A SIGTERM to one host's launcher, as before a host is taken away: the job stops on all hosts, and goes on later."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.hosts import Host
from tests.helpers.launching import CLONE, replaced, run, summary
from tests.helpers.on_hosts import C10D, ended, run_on, start_on
from tests.helpers.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

Hosts = tuple[Host, Host]
STOPS_WITHIN_S = 20
# Batch norm in G and D: each rank has statistics of its own between two looks.
GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "2400 images"]
GAN += ["--precision", "fp32", "--look-every-images", "800", "--classes", "Pneumothorax"]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "4800 images", "--evaluations", "3"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1"]
JOBS = {"train_gan.py": GAN, "train_cls.py": CLS}
CASES = [
    ("train_gan.py", 4, "node-b", "shared", C10D),
    ("train_cls.py", 2, "node-a", "per host", ()),
]


@pytest.mark.parametrize(("script", "processes", "to", "folder", "launcher"), CASES)
def test_a_signal_to_one_launcher_stops_all_ranks_after_the_same_step(
    script: str,
    processes: int,
    to: str,
    folder: str,
    launcher: Sequence[str],
    two_hosts: Hosts,
    tiny_set: Path,
    tmp_path: Path,
) -> None:
    words = [*JOBS[script], "--shards", str(tiny_set), "--run", "own/cut"]
    run(script, *replaced(words, "--run", "whole"), cwd=tmp_path, processes=processes)
    own, codes = tmp_path / "own", tmp_path / "codes"
    own.mkdir()
    codes.mkdir()
    mounted = own if folder == "per host" else None
    cut = (two_hosts[0].private if mounted else own) / "cut"

    started = start_on(
        two_hosts,
        CLONE / "tests/helpers/recorded_job.py",
        str(CLONE / "launch" / script),
        *words,
        *("--checkpoint-minutes", "0.0005"),
        cwd=tmp_path,
        processes=processes,
        mounted=mounted,
        launcher=launcher,
        env={"EXIT_CODES": str(codes)},
    )
    of_host = dict(zip([host.name for host in two_hosts], started, strict=True))
    wait_until(lambda: [*cut.glob("**/interim-*")], of_host[to])
    began_s = time.monotonic()
    of_host[to].send_signal(signal.SIGTERM)
    done = ended(started, STOPS_WITHIN_S)
    took_s = time.monotonic() - began_s
    assert took_s < STOPS_WITHIN_S
    assert {path.name: path.read_text() for path in codes.iterdir()} == {
        f"rank-{rank}": "143" for rank in range(processes)
    }
    (interim,) = cut.glob("**/interim-*")
    images = int(interim.name[-12:])
    for host, of in zip(two_hosts, done, strict=True):
        assert of.returncode == 1
        said = of.stderr.count(f"at {images:,} images; the same command resumes")
        if host.name == to:  # the launcher itself says no more than that it was asked to end
            assert said == 1
            continue
        assert 2 <= said <= 1 + processes // 2  # the launcher repeats it for its ranks
        last = of.stderr[of.stderr.index("Root Cause") :]
        assert "exitcode  : 143" in last and "the same command resumes" in last

    again = run_on(
        two_hosts, script, *words, cwd=tmp_path, mounted=mounted, processes=processes, launcher=launcher
    )
    assert f"resuming at {images:,} images" in again[0].stderr
    of_model = "pneumothorax" if script == "train_gan.py" else "."
    whole = tmp_path / "whole" / of_model
    ours, theirs = summary(cut / of_model), summary(whole)
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen"):
        assert ours[key] == theirs[key], key
    last = max(path.name for path in (whole / "checkpoints").iterdir())
    for path in (whole / "checkpoints" / last).glob("*.safetensors"):
        one, other = load_file(path), load_file(cut / of_model / "checkpoints" / last / path.name)
        assert all(np.array_equal(one[name], other[name]) for name in one), path.name
    if mounted:
        assert [*two_hosts[1].private.iterdir()] == []
        shutil.rmtree(cut)
