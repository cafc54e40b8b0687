from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.loading.order_digest import OrderDigest
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix import shuffle
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.blocks import block_rows_of
from cxrdist.errors import UserError

QUOTAS = {"Normal": {"real": 8}, "Pneumothorax": {"real": 5}, "Pleural Effusion": {"real": 7}}


def stream(path: Path, rank: int = 0, world_size: int = 1, **changes: Any) -> Stream:
    options: dict[str, Any] = {"batch": 8, "seed": 1, **changes}
    return Stream(ShardSet(path), None, QUOTAS, StreamOptions(rank=rank, world_size=world_size, **options))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_together_read_the_same_global_batches(tiny_set: Path, world_size: int) -> None:
    whole = stream(tiny_set)
    ranks = [stream(tiny_set, rank, world_size) for rank in range(world_size)]
    for step in range(9):
        expected = whole.read(step)
        parts = [rank.read(step) for rank in ranks]
        assert np.stack([p.keys for p in parts], axis=1).ravel().tolist() == expected.keys.tolist()
        assert torch.equal(torch.stack([p.pixels for p in parts], dim=1).flatten(0, 1), expected.pixels)
        assert torch.equal(torch.stack([p.labels for p in parts], dim=1).flatten(), expected.labels)
        assert [i for row in zip(*(p.positions for p in parts)) for i in row] == [*expected.positions]
        assert expected.positions == range(8 * step, 8 * step + 8)
        assert [rank.keys(step).tolist() for rank in ranks] == [p.keys.tolist() for p in parts]


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
    reader = Stream(shards, None, counts, StreamOptions(batch=total, seed=0))
    keys = reader.read(0).keys.tolist()
    train = {
        shards.stratum("train", n, "real").key(i) for n in shards.classes for i in range(counts[n]["real"])
    }
    assert len(keys) == len(set(keys)) == len(train)
    assert set(keys) == train


def test_limit_keeps_to_the_first_samples(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    reader = Stream(shards, None, {"Normal": {"real": 3}}, StreamOptions(batch=3, seed=0, limit=3))
    first = {shards.stratum("train", "Normal", "real").key(i) for i in range(3)}
    for step in range(4):
        assert set(reader.read(step).keys.tolist()) == first


def test_state_is_refused_by_another_plan(tiny_set: Path) -> None:
    state = stream(tiny_set).state_dict(5)
    assert stream(tiny_set).load_state_dict(state) == 5
    assert stream(tiny_set, rank=1, world_size=2).load_state_dict(state) == 5
    assert all(isinstance(value, int | str) for value in state.values())
    told = {
        "with a global batch of 8, now 4: give --batch 8, or name another --run": stream(tiny_set, batch=4),
        "with another seed of the order (1): give the old --seed, or": stream(tiny_set, seed=2),
        "on another mix: its quotas or images differ: give the old --mix, or": Stream(
            ShardSet(tiny_set), None, {"Normal": {"real": 8}}, StreamOptions(batch=8, seed=1)
        ),
    }
    for words, other in told.items():
        with pytest.raises(UserError, match=f"this run was started {re.escape(words)}"):
            other.load_state_dict(state)
    with pytest.raises(UserError, match="by another version"):
        stream(tiny_set).load_state_dict({"step": 5, "plan_sha256": "of an older version"})


def test_state_is_refused_where_the_set_was_changed(tiny_set: Path, images: Path, tmp_path: Path) -> None:
    other = IngestOptions(out=str(tmp_path / "other"), size=32, val=0.2, test=0.2, workers=1, encoding="npy")
    ingest(Folder(root=str(images)), other)
    with pytest.raises(
        UserError, match="on other shard sets, or the sets have changed: give the old --shards"
    ):
        stream(tmp_path / "other").load_state_dict(stream(tiny_set).state_dict(5))


def test_a_mix_without_its_synthetic_set_is_refused(tiny_set: Path) -> None:
    with pytest.raises(UserError, match="needs synthetic images of Normal, but no synthetic set is given"):
        Stream(
            ShardSet(tiny_set), None, {"Normal": {"real": 2, "synthetic": 2}}, StreamOptions(batch=4, seed=0)
        )


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


def test_an_order_does_not_depend_on_the_streams_made_before_it(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)

    def keys(batch: int) -> list[list[bytes]]:
        made = Stream(shards, None, {"Normal": {"real": 8}}, StreamOptions(batch=batch, seed=1))
        assert made.readers[0].block_rows == made.order.shuffles[0].chunk_samples
        return [made.keys(step).tolist() for step in range(4)]

    first = keys(2)
    keys(256)
    assert keys(2) == first


def test_a_remote_stratum_is_fetched_by_the_chunks_that_the_order_takes(
    tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 images that lanes get runs of, in chunks of one; a block would hold them all."""
    monkeypatch.setattr(shuffle, "LEAST_RUN_SAMPLES", 1)
    made = Stream(ShardSet(tiny_set), None, {"Normal": {"real": 8}}, StreamOptions(batch=2, seed=1))
    assert made.order.shuffles[0].chunk_samples == made.readers[0].block_rows == 1
    entry = made.readers[0].entry
    assert block_rows_of(entry.bytes, entry.samples) >= 8
