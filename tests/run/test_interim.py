"""Checkpoints between two looks: what asks for them, what they hold, what is kept of them."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cxrdist.distributed.collectives import Votes
from cxrdist.errors import UserError
from cxrdist.run import checkpoint_writer, interim
from cxrdist.run.checkpoint import Snapshot, load_checkpoint, newest_checkpoint, snapshot
from cxrdist.run.checkpoint_writer import CheckpointWriter
from cxrdist.run.interim import CHECKPOINT, FAILED, StepBreaks, restore_state_of_rank, state_of_rank
from cxrdist.stop_signals import StopRequest
from tests.helpers.checkpoints import save_checkpoint


class OneRank:
    rank, world_size = 0, 1
    device = torch.device("cpu")

    def votes(self) -> Votes:
        return Votes(None)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def breaks(writer: Any, request: StopRequest, minutes: float = 1) -> StepBreaks:
    return StepBreaks(OneRank(), writer, minutes, request)  # type: ignore[arg-type]


def test_a_checkpoint_is_due_after_so_many_minutes_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(interim.time, "monotonic", lambda: now[0])
    asked = breaks(SimpleNamespace(is_busy=False, has_failed=False), StopRequest())
    found = []
    for now[0] in (59.9, 60.0, 61.0):
        found.append(asked.after_step())
    asked.written()
    for now[0] in (120.9, 121.0):
        found.append(asked.after_step())
    assert found == [0, CHECKPOINT, 0, 0, CHECKPOINT]  # once, though a vote takes a step


def test_a_signal_outweighs_a_failure_and_a_failure_the_time() -> None:
    request = StopRequest()
    failed = breaks(SimpleNamespace(is_busy=False, has_failed=True), request, minutes=0)
    assert failed.after_step() == FAILED
    assert breaks(SimpleNamespace(is_busy=True, has_failed=False), request, minutes=0).after_step() == 0
    assert breaks(None, request, minutes=0).after_step() == 0  # not of rank 0, whose clock counts
    for signum, code in (
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 143),
        (signal.SIGHUP, 143),
    ):
        request.signum = signum
        assert failed.after_step() == code > FAILED > CHECKPOINT


def network(value: float) -> nn.Module:
    norm = nn.BatchNorm1d(2)
    assert norm.running_mean is not None and norm.num_batches_tracked is not None
    norm.running_mean.fill_(value)
    norm.num_batches_tracked.fill_(7)
    return norm


def sums(*values: float, steps: int = 2) -> Any:
    return SimpleNamespace(sums=torch.tensor(values), steps=steps)


@pytest.mark.parametrize(
    ("world_size", "rank", "mean", "total"),
    [(2, 0, 1.0, 3.0), (2, 1, 2.0, 5.0), (1, 0, 1.5, 4.0), (4, 3, 1.5, 4.0)],
)
def test_each_rank_gets_what_it_had_or_the_mean_of_all(
    world_size: int, rank: int, mean: float, total: float
) -> None:
    ranks = [state_of_rank({"g": network(1)}, sums(3.0)), state_of_rank({"g": network(2)}, sums(5.0))]
    restored, means = network(9), sums(0.0, steps=0)
    here = SimpleNamespace(world_size=world_size, rank=rank)
    restore_state_of_rank(ranks, here, {"g": restored}, means)  # type: ignore[arg-type]
    assert restored.running_mean.tolist() == [mean, mean]
    assert int(restored.num_batches_tracked) == 7  # type: ignore[arg-type]
    assert (means.sums.tolist(), means.steps) == ([total], 2)


def save(folder: Path, images: int, *, between: bool = False, keep: int = 2) -> None:
    ranks = [{"steps": torch.tensor(images)}] if between else None
    save_checkpoint(folder, images, {"net": nn.Linear(1, 1)}, {}, {}, keep=keep, ranks=ranks)


def names(folder: Path) -> list[str]:
    return sorted(path.name.replace("-0000000000", "") for path in folder.iterdir())


def test_only_the_newest_interim_checkpoint_is_kept_and_none_after_a_look(tmp_path: Path) -> None:
    for images in (10, 20, 30):
        save(tmp_path, images)
    save(tmp_path, 32, between=True)
    assert names(tmp_path) == ["images20", "images30", "interim32"]
    assert newest_checkpoint(tmp_path) == tmp_path / "interim-000000000032"
    save(tmp_path, 35, between=True)
    assert names(tmp_path) == ["images20", "images30", "interim35"]
    loaded = load_checkpoint(tmp_path / "interim-000000000035", {"net": nn.Linear(1, 1)})
    assert loaded.ranks is not None and int(loaded.ranks[0]["steps"]) == 35
    save(tmp_path, 40)
    assert names(tmp_path) == ["images30", "images40"]
    assert load_checkpoint(tmp_path / "images-000000000040", {"net": nn.Linear(1, 1)}).ranks is None


def test_an_interim_checkpoint_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 15, between=True)
    (tmp_path / "interim-000000000015/ranks.pt").write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) == tmp_path / "images-000000000010"


def test_a_snapshot_is_not_changed_by_what_training_does_next() -> None:
    net = nn.Linear(1, 1)
    moments = {"state": {0: {"exp_avg": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)}}}
    state: dict[str, Any] = {"best": {"score": 1}}
    taken = snapshot(1, {"net": net}, {"net": moments}, state)
    state["best"]["score"] = 2
    assert taken.state == {"best": {"score": 1}}
    before = float(net.weight)
    with torch.no_grad():
        net.weight.add_(1)
        moments["state"][0]["exp_avg"].zero_()
    assert float(taken.weights["net"]["weight"]) == before
    kept = taken.optimizers["net"]["state"][0]["exp_avg"]
    assert kept.sum() == 120 and kept.is_contiguous(memory_format=torch.channels_last)


def taken(images: int) -> Snapshot:
    return snapshot(images, {"net": nn.Linear(1, 1)}, {}, {})


def test_a_writer_writes_beside_its_caller_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, written = threading.Event(), []

    def write(folder: Path, taken: Snapshot, *, keep: int) -> None:
        assert may_write.wait(20)
        written.append(taken.images)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", write)
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.write(taken(1))
    assert writer.is_busy and written == []
    may_write.set()
    writer.write(taken(2))
    writer.wait()
    assert not writer.is_busy and written == [1, 2]


def test_what_a_writer_could_not_write_is_raised_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    writer = CheckpointWriter(tmp_path / "file", keep=1)
    writer.write(taken(1))
    while writer.is_busy:
        pass
    assert writer.has_failed
    with pytest.raises(UserError, match="file"):
        writer.wait()
    writer.wait()
