"""An import killed with SIGKILL wherever it may be, and started again with the same command: the same set."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest import ingest as ingest_module
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.tools.verify import verify
from tests.helpers.processes import is_running, wait_until, workers_of
from tests.helpers.shard_sets import contents, make_unfinished

pytestmark = pytest.mark.slow

FILE_EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "os.link",
}
"""What Python audits, just before it happens, of all that a process does to files."""


def draw(root: Path, size: int, count: int = 9) -> Path:
    """Two classes of noise, in which two films stand twice."""
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(root / name / f"{i}.png")
        shutil.copy(root / name / "0.png", root / name / "copy.png")
    return root


@pytest.fixture(autouse=True)
def own_temporaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may be left in the folder for temporary files either."""
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    assert list(folder.iterdir()) == []


def import_here(root: Path, out: Path, dedup: bool) -> None:
    ingest(
        Folder(root=str(root)),
        IngestOptions(out=str(out), size=16, val=2, test=2, workers=1, dedup=dedup),
    )


def import_until(event: int, root: Path, out: Path, dedup: bool) -> bool:
    """Import in a process that is killed before the n-th thing it does to a file of the set; whether it was."""
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)

        def kill_in_time(name: str, arguments: tuple[Any, ...]) -> None:
            touched = name in FILE_EVENTS and any(str(out) in str(argument) for argument in arguments)
            if touched and next(counter) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_in_time)
        try:
            import_here(root, out, dedup)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("dedup", [False, True])
def test_killed_before_any_one_thing_that_it_does_to_a_file(tmp_path: Path, dedup: bool) -> None:
    """Its first and last steps one by one, and some of those between; each with one restart that is let run."""
    root, whole = draw(tmp_path / "root", size=20), tmp_path / "whole"
    import_here(root, whole, dedup)
    assert verify(str(whole)) == []
    expected = contents(whole)
    assert len(expected) == 2 * 3 * (1 + 2) + 1
    out = tmp_path / "set"
    for events in itertools.count(60, 10):
        if not import_until(events, root, out, dedup):
            break
        shutil.rmtree(out)
    assert contents(out) == expected and events > 70
    for event in [
        *range(1, 12),
        *random.Random(dedup).sample(range(12, events - 28), 10),
        *range(events - 28, events),
    ]:
        shutil.rmtree(out)
        import_until(event, root, out, dedup)
        is_finished = (out / "manifest.json").exists()
        assert not is_finished or {*expected} <= {*contents(out)}, event
        import_here(root, out, dedup)
        assert contents(out) == expected, event


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("dedup", [False, True])
def test_killed_again_and_again(tmp_path: Path, dedup: bool) -> None:
    """A random number of kills, at random points of the restarts, too; between them another restart does less."""
    root, whole = draw(tmp_path / "root", size=20), tmp_path / "whole"
    import_here(root, whole, dedup)
    rng, killed = random.Random(dedup), 0
    for trial in range(5):
        out = tmp_path / f"set {trial}"
        kills = sum(import_until(rng.randrange(1, 60), root, out, dedup) for _ in range(rng.randrange(2, 6)))
        killed += kills
        import_here(root, out, dedup)
        assert contents(out) == contents(whole), (trial, kills)
    assert killed > 8


# ---- real processes

SCRIPT = """
import sys
from cxrdist.cli.main import dispatch
from cxrdist.data.ingest import ingest as module
if __name__ == "__main__":
    module.samples_per_shard = lambda *_: 3
    module.IMAGES_PER_HASH_TASK = 4
    dispatch(sys.argv[1:])
"""


def start(root: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    script = root.parent / "import.py"
    script.write_text(SCRIPT)
    command = [
        "import",
        "folder",
        "--root",
        str(root),
        "--out",
        str(out),
        "--size",
        "16",
        "--val",
        "2",
        "--test",
        "2",
    ]
    return subprocess.Popen(
        [sys.executable, str(script), *command, "--workers", str(workers)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CXRDIST_LOG_LEVEL": "error",
            "PYTHONPATH": str(Path(ingest_module.__file__).parents[2]),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    stderr = process.communicate(timeout=120)[1]
    assert (process.returncode, stderr) == (0, b"")


def names_in(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.exists() else frozenset()


def test_any_number_of_workers_and_killed_at_random_with_their_parent(tmp_path: Path) -> None:
    root, out = draw(tmp_path / "root", size=300, count=20), tmp_path / "set"
    finish(start(root, tmp_path / "one", 1))
    expected = contents(tmp_path / "one")
    rng = random.Random(2)
    for workers in (2, 1):
        process = start(root, out, workers)
        last, changes = names_in(out), rng.randrange(1, 25)
        wanted_s = rng.uniform(0, 0.3)
        while changes and process.poll() is None:
            changes -= (now := names_in(out)) != last
            last = now
        time.sleep(wanted_s if rng.random() < 0.5 else 0)
        children = workers_of(process.pid) if process.poll() is None else []
        process.kill()
        process.communicate(timeout=60)
        deadline_s = time.monotonic() + 20
        while any(map(is_running, children)) and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert not any(map(is_running, children))
    finish(start(root, out, 4))
    assert contents(out) == expected


def is_time(out: Path, pattern: str, process: int) -> Callable[[], bool]:
    """Whether such a file lies there, and two workers run."""
    return lambda: any(out.glob(pattern)) and len(workers_of(process)) == 2


def test_one_worker_killed_in_either_pass(tmp_path: Path) -> None:
    """In the first pass, which looks for near-duplicates, and while a tar is half written."""
    root, out = draw(tmp_path / "root", size=500, count=20), tmp_path / "set"
    finish(start(root, tmp_path / "one", 1))
    for pattern in (".job.json", ".*.tar.*.tmp"):
        process = start(root, out, 2)
        wait_until(is_time(out, pattern, process.pid), process)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        stderr = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and b"a worker process was killed" in stderr
        assert not (out / "manifest.json").exists()
    finish(start(root, out, 2))
    assert contents(out) == contents(tmp_path / "one")


@pytest.mark.usefixtures("inline")
def test_a_bit_that_flips_before_an_import_goes_on_is_written_again(tmp_path: Path) -> None:
    """Wherever in a finished tar or index it is: also where nothing that is read tells of it."""
    root, whole = draw(tmp_path / "root", size=20), tmp_path / "whole"
    import_here(root, whole, dedup=False)
    expected = contents(whole)
    out = Path(shutil.copytree(whole, tmp_path / "set"))
    make_unfinished(out)
    unfinished = contents(out)
    names = sorted(name for name in expected if name.endswith((".tar", ".npy")))
    rng = random.Random(3)
    places = [(name, rng.randrange(len(expected[name]))) for name in names for _ in range(3)]
    # A header's checksum ends in a zero and a space that no reader looks at; after the end mark, zeros follow.
    places += [(names[1], at) for at in (154, 155, 156, 500, 512, 513, 800, len(expected[names[1]]) - 1)]
    for name, at in places:
        for other, data in unfinished.items():
            (out / other).write_bytes(data)
        (out / "manifest.json").unlink(missing_ok=True)
        damaged = bytearray(unfinished[name])
        damaged[at] ^= 1 << rng.randrange(8)
        (out / name).write_bytes(damaged)
        import_here(root, out, dedup=False)
        assert contents(out) == expected, (name, at)
