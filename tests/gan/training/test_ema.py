from __future__ import annotations

import pytest
import torch
from torch import nn

from cxrdist.gan.training.ema import EMA


def linear(weight: float) -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(layer.get_parameter("0.weight"), weight)
    return layer


def test_a_weight_counts_half_after_the_half_life_whatever_the_batch() -> None:
    for batch in (1, 10, 100):
        ema = EMA(linear(1.0), 100)
        follow = linear(0.0)
        # Far enough into the training for the full half-life.
        for seen in range(10_000, 10_100, batch):
            ema.update(follow, batch=batch, images=seen + batch)
        assert float(ema.model[0].weight) == pytest.approx(0.5, rel=1e-5)


def test_early_on_the_half_life_is_a_part_of_what_was_seen() -> None:
    ema = EMA(linear(1.0), 1_000_000)
    ema.update(linear(0.0), batch=60, images=200)  # 0.3 of 200
    assert float(ema.model[0].weight) == pytest.approx(0.5, rel=1e-6)


def test_batchnorm_statistics_are_those_of_the_model() -> None:
    model = linear(1.0)
    ema = EMA(model, 100)
    model(torch.tensor([[3.0], [5.0]]))
    ema.update(model, batch=2, images=2)
    assert torch.equal(ema.model.get_buffer("1.running_mean"), model.get_buffer("1.running_mean"))
    assert int(ema.model[1].num_batches_tracked) == 1


def test_it_is_a_copy_that_no_optimizer_moves() -> None:
    model = linear(1.0)
    ema = EMA(model, 100)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not {p.data_ptr() for p in ema.model.parameters()} & {p.data_ptr() for p in model.parameters()}
