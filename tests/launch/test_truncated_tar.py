"""Jobs whose set is truncated while they read it: one line that names the image, and no process that is killed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cxrdist.data.shards.shard_set import ShardSet
from tests.helpers.launching import launch_command, launch_environment

pytestmark = pytest.mark.slow

CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "4800 images", "--evaluations", "1"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1", "--run", "run"]
TAR = "train-normal-real-000000.tar"

HOOKED = """
import os, runpy, sys
from cxrdist.data.storage.store import LocalStore

tar, length, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
mapped, calls = LocalStore.spans, 0

def spans(self, name, places):
    global calls
    calls += name in tar
    if when == "before" and calls == 20:
        os.truncate(tar, length)
    found = mapped(self, name, places)
    if when == "after" and calls == 20:
        os.truncate(tar, length)
    return found

LocalStore.spans = spans
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("processes", "when"), [(1, "before"), (1, "after"), (2, "after")])
def test_a_training_stops_with_one_line(tmp_path: Path, tiny_set: Path, processes: int, when: str) -> None:
    """``when``: before its size is compared with that of the map, or after that, before its images are copied."""
    place = shutil.copytree(tiny_set, tmp_path / "set")
    first = ShardSet(place).stratum("train", "Normal", "real").index(0)[0]
    offset, length = int(first["offset_bytes"]), int(first["length_bytes"])
    (tmp_path / "hooked.py").write_text(HOOKED)
    command = launch_command("train_cls.py", processes=processes)
    command[-1:] = [str(tmp_path / "hooked.py"), str(place / TAR), str(offset + 10), when, command[-1]]
    command += [*CLS, "--shards", str(place)]
    done = subprocess.run(
        command, cwd=tmp_path, env=launch_environment(), capture_output=True, text=True, timeout=120
    )
    errors = re.findall(r"error: (.*)", done.stderr)
    told = (
        rf"(rank \d on \S+: )?{place}/{TAR}: sample [0-9a-f]+ at byte (\d+): the file ends after (\d+) of its "
        rf"({length:,}|[\d,]+) bytes: it was cut off, or is still copied; "
    )
    assert done.returncode == (2 if processes == 1 else 1), done.stderr
    assert errors and all(re.match(told, line) for line in errors), done.stderr
    assert "SIGBUS" not in done.stderr and "Signal 7" not in done.stderr
    if processes == 1:
        assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run/summary.json").exists()
