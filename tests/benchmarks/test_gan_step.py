from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gan import step, step_side
from cxrdist.distributed.dist import Dist
from cxrdist.gan.training.step import ENGINES

pytestmark = pytest.mark.slow


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=ENGINES)
    torch.set_num_threads(threads)


def side_of(preset: str | None, size: int, batch: int) -> step_side.Side:
    return step_side.Side(
        side="ours",
        preset=preset,
        size=size,
        batch=batch,
        maps=16,
        kernel=5,
        steps=1,
        precision="fp32",
        compile=False,
    )


def test_the_benchmarks_peer_computes_what_our_step_does(dist: Dist) -> None:
    """A peer that computes something else would be no peer."""
    side = side_of(None, 32, 4)
    ours, eager = step_side.ours(side, dist), step_side.eager(side, dist.device)
    first = ours(0)
    torch.testing.assert_close(first, eager(0), rtol=1e-4, atol=1e-5)
    second = ours(1)
    # The first step's weights, too: both have learnt the same.
    torch.testing.assert_close(second, eager(1), rtol=1e-2, atol=1e-3)
    assert abs(first[0] - second[0]) > 0.01
    layers = {type(layer) for net in step_side.networks(side) for layer in step_side.plain(net).modules()}
    assert not layers & {step_side.Down, step_side.Up}


@pytest.mark.parametrize(("preset", "size"), [("configs/gan/demo.yaml", 64), ("configs/gan/modern.yaml", 32)])
def test_the_peer_of_the_conditional_gan_computes_what_our_step_does(
    dist: Dist, preset: str, size: int
) -> None:
    side = side_of(preset, size, 10)
    assert (side.net, side.r1_every) == ("conditional", 4)
    ours, eager = step_side.ours(side, dist), step_side.eager(side, dist.device)
    first = ours(0)  # with R1
    torch.testing.assert_close(first, eager(0), rtol=1e-4, atol=1e-5)
    second = ours(1)
    torch.testing.assert_close(second, eager(1), rtol=1e-2, atol=1e-3)
    assert abs(first[0] - second[0]) > 0.01


def test_a_conditional_run_has_its_share_of_r1() -> None:
    chosen = step.options().parse_args(["--steps", "5"])
    assert [
        (side.preset, side.size, side.batch, side.steps)
        for side in (step.conditional(chosen, 64), step.conditional(chosen, 256))
    ] == [
        ("configs/gan/demo.yaml", 64, 20, 40),
        ("configs/gan/modern.yaml", 256, chosen.batch, 8),
    ]


def test_operations_are_counted_as_torch_does() -> None:
    step_of = step_side.eager(side_of(None, 32, 4), torch.device("cpu"))
    with FlopCounterMode(display=False) as theirs:
        step_of(0)
    with step_side.Flops() as ours:
        step_of(1)
    assert ours.total == theirs.get_total_flops() > 0
    # Those of R1, too.
    conditional = step_side.eager(side_of("configs/gan/demo.yaml", 32, 5), torch.device("cpu"))
    with step_side.Flops() as with_r1:
        conditional(0)
    with step_side.Flops() as without:
        conditional(1)
    assert with_r1.total > 1.2 * without.total
