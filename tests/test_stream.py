from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdist.data.shard_set import ShardSet
from cxrdist.data.stream import OrderDigest, Stream
from cxrdist.errors import UserError

QUOTAS = {"Normal": {"real": 8}, "Pneumothorax": {"real": 5}, "Pleural Effusion": {"real": 7}}


def stream(path: Path, rank: int = 0, world_size: int = 1, **changes: int) -> Stream:
    options = {"batch": 8, "seed": 1, **changes}
    return Stream(ShardSet(path), None, QUOTAS, rank=rank, world_size=world_size, **options)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_together_read_the_same_global_batches(tiny_set: Path, world_size: int) -> None:
    whole = stream(tiny_set)
    ranks = [stream(tiny_set, rank, world_size) for rank in range(world_size)]
    for step in range(9):
        expected = whole.read(step)
        parts = [rank.read(step) for rank in ranks]
        assert np.concatenate([p.keys for p in parts]).tolist() == expected.keys.tolist()
        assert torch.equal(torch.cat([p.pixels for p in parts]), expected.pixels)
        assert torch.equal(torch.cat([p.labels for p in parts]), expected.labels)
        assert [i for p in parts for i in p.positions] == list(range(8 * step, 8 * step + 8))


def test_a_sample_has_the_pixels_and_the_class_of_its_key(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    known = {}
    for label, name in enumerate(shards.classes):
        reader = shards.stratum("train", name, "real")
        for i in range(reader.samples):
            known[reader.key(i)] = (label, reader.pixels(i))
    batch = stream(tiny_set).read(2)
    assert batch.pixels.shape == (8, 1, 32, 32) and batch.pixels.dtype == torch.uint8
    for key, pixels, label in zip(batch.keys, batch.pixels, batch.labels):
        assert known[bytes(key)][0] == int(label)
        assert np.array_equal(known[bytes(key)][1], pixels[0].numpy())


def test_an_epoch_sees_every_training_sample_once_and_no_other(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    counts = {n: {"real": shards.samples("train", n, "real")} for n in shards.classes}
    total = sum(c["real"] for c in counts.values())
    reader = Stream(shards, None, counts, batch=total, seed=0)
    keys = reader.read(0).keys.tolist()
    train = {
        shards.stratum("train", n, "real").key(i) for n in shards.classes for i in range(counts[n]["real"])
    }
    assert len(keys) == len(set(keys)) == len(train)
    assert set(keys) == train


def test_limit_keeps_to_the_first_samples(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    reader = Stream(shards, None, {"Normal": {"real": 3}}, batch=3, seed=0, limit=3)
    first = {shards.stratum("train", "Normal", "real").key(i) for i in range(3)}
    for step in range(4):
        assert set(reader.read(step).keys.tolist()) == first


def test_state_is_refused_by_another_plan(tiny_set: Path) -> None:
    state = stream(tiny_set).state_dict(5)
    assert stream(tiny_set).load_state_dict(state) == 5
    assert stream(tiny_set, rank=1, world_size=2).load_state_dict(state) == 5
    for changes in ({"batch": 4}, {"seed": 2}):
        with pytest.raises(UserError, match="another shard set, mix, seed or batch size"):
            stream(tiny_set, **changes).load_state_dict(state)


def test_a_mix_without_its_synthetic_set_is_refused(tiny_set: Path) -> None:
    with pytest.raises(UserError, match="asks for synthetic images of Normal"):
        Stream(ShardSet(tiny_set), None, {"Normal": {"real": 2, "synthetic": 2}}, batch=4, seed=0)


class Ranks:
    """The gather of several ranks, simulated: collects what each one gives, then hands all of it to rank 0."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def give(self, raw: torch.Tensor) -> torch.Tensor:
        self.given.append(raw)
        return raw

    def gather(self, _: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.given)


def digest(path: Path, world_size: int, flush_every: int) -> str:
    """The order digest of 6 steps read by ``world_size`` ranks."""
    streams = [stream(path, rank, world_size) for rank in range(world_size)]
    value = ""
    for first in range(0, 6, flush_every):
        ranks = Ranks()
        of_rank_0 = OrderDigest(value)
        for rank, reader in enumerate(streams):
            own = OrderDigest(value)
            for step in range(first, first + flush_every):
                batch = reader.read(step)
                own.saw(batch)
                if rank == 0:
                    of_rank_0.saw(batch)
            own.flush(ranks.give, 1, torch.device("cpu"))
        value = of_rank_0.flush(ranks.gather, world_size, torch.device("cpu"))
    return value


def test_the_order_digest_is_the_same_for_any_ranks_and_flushes(tiny_set: Path) -> None:
    found = {digest(tiny_set, w, f) for w in (1, 2, 4) for f in (1, 2, 3, 6)}
    assert len(found) == 1
    one = OrderDigest()
    reader = stream(tiny_set, seed=9)
    for step in range(6):
        one.saw(reader.read(step))
    assert one.flush(lambda raw: raw, 1, torch.device("cpu")) not in found
