"""Two nodes on one machine: two torchrun, each in a folder of its own, so that one may lack what the other has."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.launching import CLONE, JOB_TIMEOUT_S, launch_environment

pytestmark = pytest.mark.slow

CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "64 images", "--evaluations", "2"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1", "--shards", "set"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
LAUNCH += ["--master_addr", "127.0.0.1"]
JOB = [str(CLONE / "launch/train_cls.py"), *CLS, "--run-folder", "run"]


def on_two_nodes(folders: list[Path]) -> list[subprocess.CompletedProcess[str]]:
    """The classifier on one process of each node, in the nodes' folders."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [*LAUNCH, "--master_port", str(port), "--node_rank", str(rank), *JOB],
            cwd=folder,
            env={**launch_environment(), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(folders)
    ]
    done = []
    for node in nodes:
        stdout, stderr = node.communicate(timeout=JOB_TIMEOUT_S)
        done.append(subprocess.CompletedProcess(node.args, node.returncode, stdout, stderr))
    return done


def test_what_one_node_lacks_is_said_on_both_with_its_rank(tmp_path: Path, tiny_set: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    shutil.copytree(tiny_set, folders[0] / "set")
    where = f"rank 1 on {socket.gethostname()}"
    for node in on_two_nodes(folders):
        assert node.returncode == 1
        assert node.stderr.count(f"error: {where}: set: no such shard set") == 1
        assert node.stderr.count("error: ") == 1
        last = node.stderr[node.stderr.index("Root Cause") :]
        assert f"traceback : {where}: set: no such shard set" in last and "exitcode  : 2" in last

    shutil.copytree(tiny_set, folders[1] / "set")
    assert [node.returncode for node in on_two_nodes(folders)] == [0, 0]
    assert not (folders[1] / "run").exists()

    # The run goes on where it is, and nowhere else.
    run = folders[0] / "run"
    (run / "summary.json").unlink()
    first, second = on_two_nodes(folders)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "run: resuming at 64 images" in first.stderr
    assert (run / "summary.json").exists() and not (folders[1] / "run").exists()
    host = socket.gethostname()
    for node in on_two_nodes(folders[::-1]):
        assert node.returncode == 1
        assert (
            node.stderr.count(
                f"error: run: {host} has this run with 64 images, and {host}, which rank 0 is on"
            )
            == 1
        )
    assert not (folders[1] / "run").exists()
