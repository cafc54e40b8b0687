"""One network in training, on one process: what torch's own parts would get wrong in silence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import LocalEngine, in_layout_of
from cxrdist.errors import UserError


@pytest.fixture
def dist() -> Iterator[Dist]:
    threads = torch.get_num_threads()
    yield Dist("fp32", engines=("net",))
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 2, bias=False)


def engine(dist: Dist) -> LocalEngine:
    made = dist.engine("net", network(), learning_rate=1e-2, betas=(0.5, 0.9))
    assert isinstance(made, LocalEngine)
    return made


def plain_steps(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The weights that torch's Adam makes of these gradients, one by one, nothing fused."""
    module = network()
    adam = torch.optim.Adam(module.parameters(), 1e-2, (0.5, 0.9), foreach=False, fused=False)
    for gradient in gradients:
        module.weight.grad = gradient.clone(memory_format=torch.contiguous_format)
        adam.step()
    return module.weight.detach()


GRADIENTS = [torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def test_a_gradient_of_another_layout_is_the_same_gradient(dist: Dist) -> None:
    ours = engine(dist)
    for gradient in GRADIENTS:
        ours.module.weight.grad = gradient.to(memory_format=torch.channels_last)
        norm = ours.step()
        assert torch.allclose(norm, gradient.norm())
    assert torch.allclose(ours.module.get_parameter("weight"), plain_steps(GRADIENTS), atol=1e-7, rtol=0)
    assert ours.module.weight.grad is None


def test_a_state_of_another_layout_and_kind_of_adam_goes_on_as_the_same(dist: Dist) -> None:
    module = network().to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(module.parameters(), 1e-2, (0.5, 0.9), foreach=True)
    for gradient in GRADIENTS[:2]:
        module.weight.grad = gradient.to(memory_format=torch.channels_last)
        adam.step()
    ours = engine(dist)
    ours.module.load_state_dict(module.state_dict())
    ours.load_optimizer_state(adam.state_dict())
    ours.module.weight.grad = GRADIENTS[2].clone()
    ours.step()
    assert ours.optimizer.param_groups[0]["fused"] is True
    assert torch.allclose(ours.module.get_parameter("weight"), plain_steps(GRADIENTS), atol=1e-7, rtol=0)


def test_parts_add_up_to_the_gradient_of_the_whole(dist: Dist) -> None:
    whole, parts = engine(dist), dist.engine("net", network(), learning_rate=1e-2, betas=(0.5, 0.9), parts=2)
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(9))
    with whole.part(last=True):
        whole.backward(whole(images).square().mean())
    for i in range(2):
        with parts.part(last=i == 1):
            parts.backward(parts(images[2 * i : 2 * i + 2]).square().mean())
    of_whole, of_parts = (engine.module.get_parameter("weight").grad for engine in (whole, parts))
    assert of_whole is not None and of_parts is not None
    assert torch.allclose(of_whole, of_parts, atol=1e-7)


def test_what_has_the_layout_is_not_copied() -> None:
    parameter = torch.zeros(4, 3, 2, 2)
    same, other = torch.ones(4, 3, 2, 2), torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)
    assert in_layout_of(parameter, same) is same
    assert in_layout_of(parameter, other).stride() == parameter.stride()


def test_rank_0_holds_a_context_for_the_duration_of_the_block(dist: Dist) -> None:
    events = []

    @contextlib.contextmanager
    def manager() -> Iterator[None]:
        events.append("entered")
        try:
            yield
        finally:
            events.append("exited")

    @contextlib.contextmanager
    def refused() -> Iterator[None]:
        raise OSError("disk full")
        yield

    with pytest.raises(ValueError, match="within"), dist.hold_on_main(manager()):
        assert events == ["entered"]
        raise ValueError("within")
    assert events == ["entered", "exited"]
    dist.rank = 1
    with dist.hold_on_main(manager()):
        assert events == ["entered", "exited"]
    dist.rank = 0
    with pytest.raises(UserError, match="disk full"), dist.hold_on_main(refused()):
        events.append("not reached")
    assert events == ["entered", "exited"]
