"""Batches read ahead: the same as those read one by one, and errors that all ranks raise at the same step."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cxrdist.data.loading.buffers import Buffers
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.prefetch import ReadAhead, read_ahead
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from tests.helpers.shard_sets import spoil

QUOTAS = {"Normal": {"real": 8}, "Pneumothorax": {"real": 4}, "Pleural Effusion": {"real": 6}}


def stream(path: Path, rank: int = 0, world_size: int = 1) -> Stream:
    return Stream(
        ShardSet(path), None, QUOTAS, StreamOptions(batch=8, seed=1, rank=rank, world_size=world_size)
    )


@pytest.fixture
def copy(tiny_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_that_are_read_one_by_one(tiny_set: Path, workers: int) -> None:
    reader = stream(tiny_set)
    with read_ahead(reader, 3, 14, LoaderConfig(workers=workers)) as batches:
        kept = list(batches)
    assert len(kept) == 11
    for step, batch in enumerate(kept, 3):
        expected = reader.read(step)
        assert batch.keys.tolist() == expected.keys.tolist() == reader.keys(step).tolist()
        assert torch.equal(batch.pixels, expected.pixels) and batch.pixels.dtype == torch.uint8
        assert torch.equal(batch.labels, expected.labels)
        assert batch.positions == expected.positions == range(8 * step, 8 * step + 8)


def test_no_more_is_read_than_asked_for(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = stream(tiny_set)
    read: list[int] = []
    agreed = ReadAhead._agreed

    def noted(self: ReadAhead, source: object, step: int, substituted: int) -> object:
        read.append(step)
        return agreed(self, source, step, substituted)  # type: ignore[arg-type]

    monkeypatch.setattr(ReadAhead, "_agreed", noted)
    with read_ahead(reader, 0, 100, LoaderConfig(workers=0, ahead=3)) as batches:
        for _ in range(5):
            next(batches)
    # Five given out, and the three that every rank has read by then, whoever was faster.
    assert read == list(range(8))


def test_a_corrupt_sample_is_raised_at_its_step_and_named(copy: Path) -> None:
    key = spoil(copy, "Pneumothorax", 2)
    reader = stream(copy)
    first = next(step for step in range(100) if key.encode() in reader.keys(step))
    with pytest.raises(UserError) as caught, read_ahead(reader, 0, 50) as batches:
        for step in range(first):
            assert next(batches).positions.start == step * 8
        next(batches)
    assert str(caught.value).startswith(f"{copy}/train-pneumothorax-real-000000.tar: sample {key} at byte ")
    assert "--loader.on-corrupt substitute uses another sample of its class instead" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_who_asks_again_after_the_end_does_not_wait(copy: Path, workers: int) -> None:
    key = spoil(copy, "Pneumothorax", 2)
    config = LoaderConfig(workers=workers)
    with read_ahead(stream(copy), 0, 50, config) as batches:
        for _ in range(2):
            with pytest.raises(UserError, match=key):
                list(batches)
    with pytest.raises(ValueError, match="after the end of the with block"):
        next(batches)
    with read_ahead(stream(copy), 0, 1, config) as batches:
        assert len(list(batches)) == 1 and list(batches) == []
    assert list(batches) == []


def test_a_corrupt_sample_is_substituted_by_one_of_its_stratum(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = spoil(copy, "Pneumothorax", 2)
    reader = stream(copy)
    others = {ShardSet(copy).stratum("train", "Pneumothorax", "real").key(i) for i in range(4)} - {
        key.encode()
    }
    times = 0
    with read_ahead(reader, 0, 9, LoaderConfig(on_corrupt="substitute", workers=0)) as batches:
        for step, batch in enumerate(batches):
            planned = reader.keys(step)
            for i in range(8):
                if planned[i] == key.encode():
                    times += 1
                    assert batch.keys[i] in others
                    assert batch.samples[i] != reader.planned(step)[1][i]
                else:
                    assert batch.keys[i] == planned[i]
            assert batches.substituted == times
    assert times == 4  # 72 images: four epochs of 18, once in each
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 4
    for line in err.splitlines():
        assert line.startswith("warning: ") and key in line
        assert line.endswith("; another sample of its class replaces it")


def test_past_the_limit_of_substitutes_the_run_stops(copy: Path) -> None:
    spoil(copy, "Pneumothorax", 2)
    config = LoaderConfig(on_corrupt="substitute", most_substitutes=2, workers=0)
    with (
        pytest.raises(UserError, match=r"3 samples were substituted, more than --loader.most-substitutes 2"),
        read_ahead(stream(copy), 0, 9, config) as batches,
    ):
        list(batches)
    # Those of the run before it was interrupted count.
    with (
        pytest.raises(UserError, match="3 samples were substituted"),
        read_ahead(stream(copy), 0, 9, config, substituted=2) as batches,
    ):
        next(batches), next(batches), next(batches)


class TwoRanks:
    """The channel between two ranks that are threads of this process."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.numbers: list[list[int]] = [[], []]
        self.messages: list[str | None] = [None, None]

    def of(self, rank: int) -> _Rank:
        return _Rank(self, rank)


class _Rank:
    spare_cores = 0

    def __init__(self, ranks: TwoRanks, rank: int) -> None:
        self.ranks, self.rank = ranks, rank

    def total(self, numbers: Sequence[int]) -> list[int]:
        self.ranks.numbers[self.rank] = list(numbers)
        self.ranks.barrier.wait()
        found = [sum(pair) for pair in zip(*self.ranks.numbers)]
        self.ranks.barrier.wait()
        return found

    def first(self, message: str | None) -> str:
        self.ranks.messages[self.rank] = message
        self.ranks.barrier.wait()
        found = next(m for m in self.ranks.messages if m is not None)
        self.ranks.barrier.wait()
        return found


def test_a_corrupt_sample_on_one_rank_stops_both_at_the_same_step(copy: Path) -> None:
    key = spoil(copy, "Pneumothorax", 2)
    ranks = TwoRanks()
    ended: list[tuple[int, str]] = [(-1, "")] * 2

    def work(rank: int) -> None:
        steps = 0
        try:
            with read_ahead(stream(copy, rank, 2), 0, 50, peers=ranks.of(rank)) as batches:
                for _ in batches:
                    steps += 1
                    time.sleep(0.02 * rank)  # rank 1 is a slow one
        except UserError as error:
            ended[rank] = steps, str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    whole = stream(copy)
    assert ended[0] == ended[1]
    assert ended[0][0] == next(step for step in range(100) if key.encode() in whole.keys(step))
    assert key in ended[0][1]


def test_an_unforeseen_error_on_one_rank_is_told_on_the_other(tiny_set: Path) -> None:
    """The rank that has it raises it as it is, with its traceback."""
    ranks = TwoRanks()
    ended: list[BaseException | None] = [None, None]

    def work(rank: int) -> None:
        reader = stream(tiny_set, rank, 2)
        if rank:
            planned = reader.planned
            reader.planned = lambda step: planned(step if step < 5 else -1 // 0)  # type: ignore[method-assign]
        try:
            with read_ahead(reader, 0, 50, peers=ranks.of(rank)) as batches:
                for _ in range(5):
                    next(batches)
                next(batches)
        except (UserError, ZeroDivisionError) as error:
            ended[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert isinstance(ended[0], UserError) and isinstance(ended[1], ZeroDivisionError)
    assert str(ended[0]) == repr(ended[1])


def test_an_error_is_raised_again_for_whoever_asks_again(copy: Path) -> None:
    key = spoil(copy, "Pneumothorax", 2)
    with pytest.raises(UserError, match=key), read_ahead(stream(copy), 0, 50) as batches:
        with pytest.raises(UserError, match=key):
            list(batches)
        next(batches)


def test_leaving_early_on_two_ranks_leaves_none_waiting(tiny_set: Path) -> None:
    ranks = TwoRanks()
    left = []

    def work(rank: int) -> None:
        with read_ahead(stream(tiny_set, rank, 2), 0, 1000, peers=ranks.of(rank)) as batches:
            for _ in range(4):
                next(batches)
                time.sleep(0.05 * rank)
        left.append(rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(left) == [0, 1]


def test_a_batch_that_is_kept_is_not_written_over(tiny_set: Path) -> None:
    reader = stream(tiny_set)
    with read_ahead(reader, 0, 30) as batches:
        kept = [next(batches) for _ in range(30)]
    for step, batch in enumerate(kept):
        assert torch.equal(batch.pixels, reader.read(step).pixels)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    buffers = Buffers((2, 1, 4, 4), limit=2)
    first, second, third = buffers.take(), buffers.take(), buffers.take()
    assert len({t.data_ptr() for t in (first, second, third)}) == 3
    view, place = first[1:], first.data_ptr()
    del first
    assert buffers.take().data_ptr() != place  # a view of it is still held
    del view
    assert buffers.take().data_ptr() == place


@pytest.mark.parametrize("workers", [0, 1])
def test_a_substitute_is_one_of_those_that_take_part(copy: Path, workers: int) -> None:
    spoil(copy, "Pneumothorax", 1)
    few = Stream(ShardSet(copy), None, {"Pneumothorax": {"real": 2}}, StreamOptions(batch=2, seed=1, limit=2))
    with read_ahead(few, 0, 3, LoaderConfig(on_corrupt="substitute", workers=workers)) as batches:
        for batch in batches:
            assert batch.samples.tolist() == [0, 0]
    assert batches.substituted == 3
