from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cxrdist.distributed.dist import Dist
from cxrdist.gan.step import ENGINES


@pytest.fixture
def side_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gan_step_side

    return gan_step_side


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def test_the_benchmarks_peer_computes_what_our_step_does(side_module: ModuleType, dist: Dist) -> None:
    """A peer that computes something else would be no peer."""
    side = side_module.Side(
        side="ours", size=32, batch=4, maps=16, kernel=5, steps=1, precision="fp32", compile=False
    )
    ours, eager = side_module.ours(side, dist), side_module.eager(side, dist.device)
    first = ours(0)
    torch.testing.assert_close(first, eager(0), rtol=1e-4, atol=1e-5)
    second = ours(1)
    # The first step's weights, too: both have learnt the same.
    torch.testing.assert_close(second, eager(1), rtol=1e-2, atol=1e-3)
    assert abs(first[0] - second[0]) > 0.01
    layers = {type(layer) for net in side_module.networks(side) for layer in side_module.plain(net).modules()}
    assert not layers & {side_module.Down, side_module.Up}
