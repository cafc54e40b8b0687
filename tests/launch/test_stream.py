"""Real processes over gloo: the same global batches for all of them, and no rank that is left waiting."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet
from tests.helpers.images import draw_folder
from tests.helpers.launching import launch
from tests.helpers.shard_sets import spoil

pytestmark = pytest.mark.slow

# In train: a class that lanes get runs of, a small one, and one of a single image.
IMAGES = {"Normal": 440, "Pneumothorax": 30, "Pleural Effusion": 3}
BATCH = 32


@pytest.fixture(scope="module")
def some_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    draw_folder(folder / "images", IMAGES)
    out = folder / "set"
    options = IngestOptions(
        out=str(out), size=32, val=0.1, test=0.1, workers=1, dedup=False, find_duplicates=False
    )
    ingest(Folder(root=str(folder / "images")), options)
    return out


def quotas(path: Path) -> dict[str, dict[str, int]]:
    counts = {name: ShardSet(path).samples("train", name, "real") for name in IMAGES}
    assert counts["Pleural Effusion"] == 1
    # Less than a cycle, several cycles and a half, a single image several times in a step.
    return {
        "Normal": {"real": counts["Normal"] - 100},
        "Pneumothorax": {"real": 60},
        "Pleural Effusion": {"real": 50},
    }


def job(path: Path, processes: int, **given: Any) -> tuple[int, list[dict[str, Any]], str]:
    given = {"set": str(path), "quotas": quotas(path), "batch": BATCH, "start": 0, "workers": [0], **given}
    done = launch("../tests/helpers/stream_job.py", json.dumps(given), cwd=path.parent, processes=processes)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, lines, done.stderr


def expected(path: Path, steps: range) -> list[list[bytes]]:
    stream = Stream(ShardSet(path), None, quotas(path), StreamOptions(batch=BATCH, seed=3))
    return [stream.keys(step).tolist() for step in steps]


@pytest.fixture(scope="module")
def three_epochs(some_set: Path) -> tuple[int, list[str]]:
    """How many steps, and the digests on one process without workers."""
    steps = -(-3 * sum(q["real"] for q in quotas(some_set).values()) // BATCH)
    code, lines, _ = job(some_set, 1, stop=steps, workers=[0, 1, 2])
    assert code == 0
    assert [line["workers"] for line in lines] == [0, 1, 2]
    assert lines[0]["digests"] == lines[1]["digests"] == lines[2]["digests"]
    assert len(set(lines[0]["digests"])) == steps
    return steps, lines[0]["digests"]


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_global_batches_are_the_same_on_any_number_of_processes_and_workers(
    some_set: Path, three_epochs: tuple[int, list[str]], processes: int
) -> None:
    """There are three shards: fewer than ranks times workers."""
    steps, digests = three_epochs
    code, lines, said = job(some_set, processes, stop=steps, workers=[0, 1, 2] if processes < 8 else [0, 2])
    assert code == 0, said
    assert all(line["digests"] == digests for line in lines)
    assert [line["workers"] for line in lines] == ([0, 1, 2] if processes < 8 else [0, 2])


def test_a_resume_at_any_step_on_other_processes_goes_on_alike(
    some_set: Path, three_epochs: tuple[int, list[str]]
) -> None:
    steps, digests = three_epochs
    start = random.Random(5).randrange(1, steps)
    code, lines, said = job(some_set, 4, start=start, stop=steps, slow_rank=2)
    assert code == 0, said
    assert lines[0]["digests"] == digests[start:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_sample_on_one_rank_stops_all_with_the_same_error(
    some_set: Path, tmp_path: Path, workers: int
) -> None:
    path = Path(shutil.copytree(some_set, tmp_path / "copy"))
    key = spoil(path, "Pneumothorax", 5)
    first = next(k for k, keys in enumerate(expected(path, range(40))) if key.encode() in keys)
    code, lines, said = job(path, 2, stop=first + 20, workers=[workers])
    assert code != 0
    assert sorted(line["rank"] for line in lines) == [0, 1]
    assert {line["steps"] for line in lines} == {first}
    assert len({line["error"] for line in lines}) == 1 and key in lines[0]["error"]
    assert said.count(f"error: {path}/train-pneumothorax-real-000000.tar: sample {key} at byte") == 1


def test_substitutes_are_counted_over_all_ranks(some_set: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(some_set, tmp_path / "copy"))
    keys = {spoil(path, "Pneumothorax", number).encode() for number in (5, 6)}
    places = [
        (step, place % 2)
        for step, batch in enumerate(expected(path, range(99)))
        for place, key in enumerate(batch)
        if key in keys
    ]
    assert {rank for _, rank in places[:4]} == {0, 1}
    code, lines, said = job(path, 2, stop=places[3][0] + 1, on_corrupt="substitute")
    assert code == 0, said
    assert lines[0]["substituted"] == sum(step <= places[3][0] for step, _ in places)
