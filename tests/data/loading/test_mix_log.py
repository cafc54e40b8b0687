from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdist.data.loading import mix_log
from cxrdist.data.loading.mix_log import MixLog, count_different
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet

# An epoch of 17: each of 8 Normal once; 4 Pneumothorax one and a half times; 3 of 6 Effusion.
QUOTAS = {"Normal": {"real": 8}, "Pneumothorax": {"real": 6}, "Pleural Effusion": {"real": 3}}
EPOCH = {
    "mix/share/Normal/real": 0.470588,
    "mix/share/Pneumothorax/real": 0.352941,
    "mix/share/Pleural Effusion/real": 0.176471,
    "mix/different/Normal/real": 8,
    "mix/different/Pneumothorax/real": 4,
    "mix/different/Pleural Effusion/real": 3,
    "mix/repeats/Normal/real": 1.0,
    "mix/repeats/Pneumothorax/real": 1.5,
    "mix/repeats/Pleural Effusion/real": 1.0,
}


def logged(path: Path, batch: int, steps: range, world_size: int = 1) -> list[tuple[int, dict[str, float]]]:
    """(step, values) as rank 0 logs them; the ranks are threads."""
    barrier = threading.Barrier(world_size, timeout=20)
    given: list[torch.Tensor] = [torch.empty(0)] * world_size
    found: list[tuple[int, dict[str, float]]] = []

    def work(rank: int) -> None:
        def gather(mine: torch.Tensor) -> torch.Tensor:
            given[rank] = mine
            barrier.wait()
            all_of_it = torch.cat(given)
            barrier.wait()
            return all_of_it

        stream = Stream(
            ShardSet(path), None, QUOTAS, StreamOptions(batch=batch, seed=1, rank=rank, world_size=world_size)
        )
        log = MixLog(stream, steps.start)
        for step in steps:
            log.saw(stream.read(step))
            if log.ends_epoch(step):
                values = log.flush(step, gather, world_size, torch.device("cpu"))
                if not rank:
                    found.append((step, values))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_epoch_has_the_shares_of_its_quotas(tiny_set: Path, world_size: int) -> None:
    """Batches of 4: epochs of 17 end in batches 4 (16 to 19), 8 (32 to 35) and 12 (48 to 51)."""
    found = logged(tiny_set, 4, range(14), world_size)
    first = {"mix/epoch": 1, "mix/epochs": 1, **EPOCH}
    assert found[0] == (4, first)
    assert [step for step, _ in found] == [4, 8, 12]
    assert [values["mix/epoch"] for _, values in found] == [1, 2, 3]
    # Pneumothorax's second epoch begins in the middle of a cycle of its 4.
    assert all(values == {**first, "mix/epoch": values["mix/epoch"]} for _, values in found)


def test_a_resumed_run_logs_what_the_uninterrupted_one_does(tiny_set: Path) -> None:
    whole = logged(tiny_set, 4, range(14))
    for start in (1, 4, 5, 8, 9, 12):
        assert logged(tiny_set, 4, range(start, 14), 2) == [(s, v) for s, v in whole if s >= start]


def test_epochs_shorter_than_a_batch_are_logged_together(tiny_set: Path) -> None:
    found = logged(tiny_set, 40, range(2))
    assert [(step, values["mix/epoch"], values["mix/epochs"]) for step, values in found] == [
        (0, 2, 2),
        (1, 4, 2),
    ]
    assert found[0][1]["mix/share/Normal/real"] == 0.470588
    assert found[0][1]["mix/repeats/Normal/real"] == 2.0
    assert found[0][1]["mix/different/Pleural Effusion/real"] == 6
    assert found[0][1]["mix/repeats/Pleural Effusion/real"] == 1.0


def test_what_took_the_place_of_another_sample_is_counted(tiny_set: Path) -> None:
    """A batch is an epoch of 17: of Pneumothorax, 6 images of which each of 4 comes once or twice, only one came."""
    stream = Stream(ShardSet(tiny_set), None, QUOTAS, StreamOptions(batch=17, seed=1))
    log, batch = MixLog(stream, 0), stream.read(0)
    is_pneumothorax = batch.strata == list(QUOTAS).index("Pneumothorax")
    log.saw(dataclasses.replace(batch, samples=np.where(is_pneumothorax, 2, batch.samples)))
    values = log.flush(0, lambda mine: mine, 1, torch.device("cpu"))
    assert values == {
        "mix/epoch": 1,
        "mix/epochs": 1,
        **EPOCH,
        "mix/different/Pneumothorax/real": 1,
        "mix/repeats/Pneumothorax/real": 6.0,
    }


def test_an_epoch_that_is_too_large_is_not_counted(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_log, "LARGEST_EPOCH", 16)
    assert logged(tiny_set, 4, range(9)) == []
    monkeypatch.setattr(mix_log, "LARGEST_EPOCH", 17)
    assert [step for step, _ in logged(tiny_set, 4, range(9))] == [4, 8]


def test_different_numbers_are_counted_once() -> None:
    assert [count_different(np.array(n, np.int64)) for n in ([], [7], [3, 3, 1, 3], [0, 1, 2])] == [
        0,
        1,
        2,
        3,
    ]
