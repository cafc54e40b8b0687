"""Which checkpoints are kept, and what a writer that dies or finds the disk full leaves of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cxrdist.errors import UserError
from cxrdist.run.checkpoint import (
    load_checkpoint,
    mark_best,
    newest_checkpoint,
    save_weights,
)
from tests.helpers.checkpoints import save
from tests.helpers.launching import CLONE


def kept(folder: Path) -> list[int]:
    return sorted(int(p.name[7:]) for p in folder.glob("images-*"))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 8)
    mark_best(tmp_path, 8, {"kid": 0.25})
    for images in (16, 24, 32):
        save(tmp_path, images)
    assert kept(tmp_path) == [8, 24, 32]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": "images-000000000008",
        "images": 8,
        "why": {"kid": 0.25},
    }
    mark_best(tmp_path, 32, {"kid": 0.125})
    save(tmp_path, 40, keep=1)
    assert kept(tmp_path) == [32, 40]


def test_only_a_whole_checkpoint_is_the_best(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images-000000000008: not a complete checkpoint"):
        mark_best(tmp_path, 8, {})
    save(tmp_path, 8)
    mark_best(tmp_path, 8, {})
    for name in ("../images-000000000008", 8, None):
        (tmp_path / "best.json").write_text(json.dumps({"checkpoint": name}))
        with pytest.raises(UserError, match=r"best\.json: does not name a checkpoint"):
            save(tmp_path, 16)


def test_the_one_just_written_is_kept_where_torn_ones_lie_after_it(tmp_path: Path) -> None:
    for images in (8, 24):
        save(tmp_path, images)
    (tmp_path / "images-000000000024/state.json").write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) == tmp_path / "images-000000000008"
    save(tmp_path, 16, keep=1)
    assert kept(tmp_path) == [16]


@pytest.mark.parametrize("before_full", range(9))
def test_a_full_disk_leaves_the_checkpoints_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_full: int
) -> None:
    save(tmp_path, 8)
    fsync, calls = os.fsync, [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > before_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    # Four files and the folders that they lie in, then the folder of the checkpoints.
    if before_full < 8:
        with pytest.raises(UserError, match=r"the disk is full while writing .*: free some space"):
            save(tmp_path, 16)
        assert [p.name for p in tmp_path.iterdir()] == ["images-000000000008"]
    else:
        with pytest.raises(UserError, match="the disk is full"):
            save(tmp_path, 16)
        assert kept(tmp_path) == [8, 16]
    path = newest_checkpoint(tmp_path)
    assert path is not None and load_checkpoint(path, {"net": nn.Linear(64, 64)}).images in (8, 16)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from tests.helpers.checkpoints import save
from cxrdist.run.checkpoint import load_checkpoint, newest_checkpoint

folder, chance, halves = Path(sys.argv[1]), random.Random(7), 0
save(folder, 1)
began_s = time.monotonic()
save(folder, 2)
pace_s = time.monotonic() - began_s
kills, last = 0, 0
# 25 kills, and on a busy machine more, until one fell in the middle of a checkpoint and the job got on all the same.
while kills < 25 or ((not halves or last <= 5) and kills < 400):
    kills += 1
    path = newest_checkpoint(folder)
    net, ema = nn.Linear(64, 64), nn.Linear(64, 64)
    loaded = load_checkpoint(path, {"net": net, "ema": ema})
    told = {loaded.images, loaded.state["images"], int(loaded.optimizers["net"]["state"][0]["step"])}
    for model in (net, ema):
        told |= {int(w) for w in model.weight.detach().unique()}
    assert told == {int(path.name[7:])}, told
    assert loaded.images >= last
    last = loaded.images
    child = os.fork()
    if child == 0:
        images = loaded.images
        while True:
            images += 1
            save(folder, images)
    time.sleep(chance.uniform(0, 4 * pace_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    halves += any(folder.glob(".images-*.tmp"))
print(halves > 0, last > 5)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_newest_whole_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")],
        cwd=CLONE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True True", done.stdout


def test_weights_alone_are_no_optimizer_states(tmp_path: Path) -> None:
    save(tmp_path, 8)
    path = tmp_path / "images-000000000008"
    torch.save({"net": {"weight": torch.zeros(1)}}, path / "optimizers.pt")
    with pytest.raises(UserError, match=r"optimizers\.pt: not the states of these optimizers"):
        load_checkpoint(path, {"net": nn.Linear(64, 64)})
    save_weights(path / "net.safetensors", nn.Linear(1, 1))
    with pytest.raises(UserError, match="not the weights of this network"):
        load_checkpoint(path, {"net": nn.Linear(64, 64)})
