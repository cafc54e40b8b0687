from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.gan import step_side
from cxrdist.distributed.dist import Dist
from cxrdist.gan.training.step import ENGINES

pytestmark = pytest.mark.slow


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def test_the_benchmarks_peer_computes_what_our_step_does(dist: Dist) -> None:
    """A peer that computes something else would be no peer."""
    side = step_side.Side(
        side="ours", size=32, batch=4, maps=16, kernel=5, steps=1, precision="fp32", compile=False
    )
    ours, eager = step_side.ours(side, dist), step_side.eager(side, dist.device)
    first = ours(0)
    torch.testing.assert_close(first, eager(0), rtol=1e-4, atol=1e-5)
    second = ours(1)
    # The first step's weights, too: both have learnt the same.
    torch.testing.assert_close(second, eager(1), rtol=1e-2, atol=1e-3)
    assert abs(first[0] - second[0]) > 0.01
    layers = {type(layer) for net in step_side.networks(side) for layer in step_side.plain(net).modules()}
    assert not layers & {step_side.Down, step_side.Up}
