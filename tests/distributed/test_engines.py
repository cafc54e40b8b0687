"""One network in training, on one process: L2, and what torch's own parts would get wrong in silence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import LocalEngine, adam_groups, in_layout_of, keep_buckets
from cxrdist.errors import UserError
from cxrdist.nets.dcnn import DCNN, DCNNConfig, init_weights


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


def classifier(seed: int = 0) -> DCNN:
    made = DCNN(DCNNConfig(size=16, classes=3, widths=(4, 6), hidden=8))
    init_weights(made, seed)
    return made


def test_l2_groups_equal_the_written_out_loss() -> None:
    lam = 0.1
    by_group, written, plain = classifier(), classifier(), classifier()
    images = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 0, 1, 2])

    def adam_step(net: nn.Module, groups: list[dict[str, Any]], l2: float) -> list[Tensor]:
        adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.5, 0.999))
        loss = nn.functional.cross_entropy(net(images), target)
        for name, p in net.named_parameters():
            if name.endswith("weight"):
                loss = loss + l2 / 2 * p.square().sum()
        loss.backward()
        adam.step()
        return [adam.state[p]["exp_avg"] for p in net.parameters()]  # half the gradient that Adam saw

    groups = adam_groups(by_group, lam)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(4, lam), (4, 0.0)]
    seen = adam_step(by_group, groups, 0)
    torch.testing.assert_close(seen, adam_step(written, [{"params": list(written.parameters())}], lam))
    torch.testing.assert_close(list(by_group.parameters()), list(written.parameters()))
    undecayed = adam_step(plain, adam_groups(plain), 0)
    assert [torch.equal(p, q) for p, q in zip(seen, undecayed)] == [False, True] * 4


def test_groups_leave_frozen_parameters_out() -> None:
    net = classifier()
    net.stages.requires_grad_(False)
    last = list(net.mlp.parameters())
    assert [[id(p) for p in g["params"]] for g in adam_groups(net)] == [[id(p) for p in last]]
    groups = adam_groups(net, 1e-4)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 1e-4), (2, 0.0)]
    assert len(adam_groups(nn.Linear(2, 2, bias=False), 1e-4)) == 1


def test_an_engine_passes_l2_on_to_adam(dist: Dist) -> None:
    plain = dist.engine("net", classifier(), learning_rate=1e-2, betas=(0.5, 0.9))
    assert [(len(g["params"]), g["weight_decay"]) for g in plain.optimizer_state()["param_groups"]] == [
        (8, 0)
    ]
    decayed = dist.engine("net", classifier(), learning_rate=1e-2, betas=(0.5, 0.9), l2=1e-3)
    groups = decayed.optimizer_state()["param_groups"]
    assert [(g["params"], g["weight_decay"]) for g in groups] == [([0, 1, 2, 3], 1e-3), ([4, 5, 6, 7], 0.0)]


def test_weights_and_buffers_go_to_a_plain_module_and_back(dist: Dist) -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(2)
        norm.running_mean = torch.rand(2)
        return nn.Sequential(nn.Conv2d(1, 2, 3), norm)

    ours, other, plain = dist.engine("net", made(0), learning_rate=1e-2, betas=(0.5, 0.9)), made(1), made(2)
    ours.copy_weights_to(plain)
    assert all(torch.equal(value, made(0).state_dict()[name]) for name, value in plain.state_dict().items())
    ours.load_weights_from(other)
    ours.copy_weights_to(plain)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())


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


def test_buckets_of_ddp_are_those_of_the_first_step(tmp_path: Path) -> None:
    """Otherwise a resumed run of three and more ranks adds gradients in another order in its first step."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        rebuilt = []
        for keeps in (False, True):
            ddp = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
            if keeps:
                keep_buckets(ddp)
            ddp(torch.ones(4, 2)).sum().backward()
            rebuilt.append(ddp.reducer._rebuild_buckets())
        assert rebuilt == [True, False]
    finally:
        torch.distributed.destroy_process_group()
