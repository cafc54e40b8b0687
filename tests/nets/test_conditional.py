from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxrdist.gan.training.losses import r1_penalty
from cxrdist.nets import conditional
from cxrdist.nets.conditional import (
    ConditionalConfig,
    ConditionalGenerator,
    ProjectionDiscriminator,
    init_weights,
    minibatch_std,
    stages_of,
)
from cxrdist.nets.haar import haar, inverse_haar

TINY = ConditionalConfig(
    size=32,
    classes=3,
    z_dim=8,
    widths=(16, 8, 4),
    d_widths=(16, 8, 4),
    embed_dim=4,
    feature_dim=6,
    minibatch_std=False,
)
SPREAD = dataclasses.replace(TINY, minibatch_std=True)


def made(
    net: type[ConditionalGenerator] | type[ProjectionDiscriminator], cfg: Any = TINY, seed: int = 0
) -> Any:
    module = net(cfg)
    init_weights(module, seed)
    return module


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# Shapes, on the meta device: no memory, no arithmetic.


def test_generator_of_64_pixels() -> None:
    with torch.device("meta"):
        net = ConditionalGenerator(
            ConditionalConfig(size=64, widths=(96, 64, 48, 24), d_widths=(96, 64, 32, 16))
        )
        images = net(torch.empty(2, 64), torch.empty(2, dtype=torch.int64))
    assert images.shape == (2, 1, 64, 64)
    style = 64 + 32
    ups = 16 * (96 * 64 + 64 * 48 + 48 * 24)
    modulations = (style + 1) * 2 * (96 + 64 + 48 + 24)
    assert count(net) == 5 * 32 + style * 96 * 16 + ups + modulations + (24 * 4 * 9 + 4)


@pytest.mark.parametrize("spread", [False, True])
def test_discriminator_of_64_pixels(spread: bool) -> None:
    cfg = ConditionalConfig(size=64, widths=(96, 64, 48, 24), d_widths=(96, 64, 32, 16), minibatch_std=spread)
    with torch.device("meta"):
        net = ProjectionDiscriminator(cfg)
        features = net.features(torch.empty(4, 1, 64, 64), torch.empty(4, dtype=torch.int64))
    assert features.shape == (4, 128)
    downs = 4 * 16 * 9 + 16 * (16 * 32 + 32 * 64 + 64 * 96)
    biases = 16 + 32 + 64 + 96
    project = ((96 + spread) * 4 * 4 + 1) * 128
    assert count(net) == downs + biases + project + (128 + 1) + 5 * 128


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("batch", [1, 3, 6])
def test_every_size_and_batch(size: int, batch: int) -> None:
    widths = (16, 8, 8, 4, 4, 4, 4)[: stages_of(size)]
    cfg = ConditionalConfig(size=size, z_dim=8, widths=widths, d_widths=widths)
    with torch.device("meta"):
        labels = torch.empty(batch, dtype=torch.int64)
        images = ConditionalGenerator(cfg)(torch.empty(batch, 8), labels)
        assert images.shape == (batch, 1, size, size)
        assert ProjectionDiscriminator(cfg)(images, labels).shape == (batch,)


# The Haar transform.


def test_haar_by_hand() -> None:
    image = torch.tensor([[1.0, 3.0], [5.0, 11.0]]).view(1, 1, 2, 2)
    assert haar(image).flatten().tolist() == [10.0, -4.0, -6.0, 2.0]
    assert torch.equal(inverse_haar(haar(image)), image)


def test_haar_is_orthonormal() -> None:
    images = normal(3, 1, 8, 12).double()
    bands = haar(images)
    assert bands.shape == (3, 4, 4, 6)
    torch.testing.assert_close(bands.square().sum((1, 2, 3)), images.square().sum((1, 2, 3)))
    torch.testing.assert_close(inverse_haar(bands), images)
    torch.testing.assert_close(haar(inverse_haar(bands)), bands)


# What the nets compute.


def test_logit_is_the_projection() -> None:
    net = made(ProjectionDiscriminator)
    with torch.no_grad():
        net.logit.bias.fill_(0.25)
        images, labels = normal(3, 1, 32, 32), torch.tensor([2, 0, 2])
        logits = net(images, labels)
        for i in range(3):
            phi = net.features(images, labels)[i].tolist()
            w, y = net.logit.weight[0].tolist(), net.embed.weight[labels[i]].tolist()
            by_hand = 0.25 + sum(p * (a + b) for p, a, b in zip(phi, w, y, strict=True))
            assert logits[i].item() == pytest.approx(by_hand, rel=1e-5)


def test_a_style_scales_and_shifts_maps_of_length_one() -> None:
    norm = conditional.ModulatedNorm(12, 2)
    with torch.no_grad():
        norm.modulate.weight.zero_()
        norm.modulate.bias.copy_(torch.tensor([1.0, 0.0, 0.5, -0.5]))  # scales 1 + 1 and 1 + 0, then shifts
        maps = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)  # root of the mean square: sqrt(12.5)
        out = norm(maps, torch.zeros(1, 12)).flatten().tolist()
    assert out == pytest.approx([2 * 3 / 12.5**0.5 + 0.5, 4 / 12.5**0.5 - 0.5], rel=1e-6)


def test_the_class_matters_to_both() -> None:
    g, d = made(ConditionalGenerator), made(ProjectionDiscriminator)
    z = normal(1, 8).expand(3, -1)
    images = g(z, torch.arange(3))
    assert min((images[a] - images[b]).abs().mean().item() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.02
    logits = d(images[:1].expand(3, -1, -1, -1), torch.arange(3))
    assert len({round(x, 3) for x in logits.tolist()}) == 3


def test_an_image_does_not_depend_on_the_rest_of_the_batch() -> None:
    g = made(ConditionalGenerator)
    z, labels = normal(6, 8), torch.tensor([0, 1, 2, 2, 1, 0])
    together = g(z, labels)
    for i in range(6):
        torch.testing.assert_close(g(z[i : i + 1], labels[i : i + 1])[0], together[i], rtol=0, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    g, d = made(ConditionalGenerator), made(ProjectionDiscriminator, SPREAD)
    labels = torch.arange(3)
    d(g(normal(3, 8), labels), labels).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (*g.parameters(), *d.parameters()))


# Minibatch standard deviation.


def test_minibatch_std_by_hand() -> None:
    """Within classes, in whatever order they come."""
    maps = torch.zeros(8, 2, 1, 2)
    labels = torch.tensor([1, 0, 1, 0, 1, 0, 1, 2])
    maps[0, 0, 0, 0], maps[2, 0, 0, 0] = 4.0, 4.0  # class 1: 4, 4, 0, 0, deviation 2, in one of four values
    maps[5, :, 0, 1] = 3.0  # class 0: 0, 0, 3, deviation sqrt(2), in two of four values
    maps[7] = 9.0  # alone of its class
    found = minibatch_std(maps, labels)
    assert found.shape == (8, 1, 1, 2) and found.dtype == torch.float32
    assert found[labels == 1].flatten().tolist() == pytest.approx([2 / 4] * 8, abs=2e-4)
    assert found[labels == 0].flatten().tolist() == pytest.approx([2 * 2**0.5 / 4] * 6, abs=2e-4)
    assert found[7].abs().max() < 1e-7


def test_minibatch_std_compares_within_groups() -> None:
    maps, labels = normal(8, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])
    found = minibatch_std(maps, labels, 4)
    torch.testing.assert_close(found[:4], minibatch_std(maps[:4], labels[:4]))
    torch.testing.assert_close(found[4:], minibatch_std(maps[4:], labels[4:]))
    assert not torch.allclose(found, minibatch_std(maps, labels))


def test_minibatch_std_of_equal_images_and_of_one_is_zero() -> None:
    """Also of classes that differ: that G draws one of them always alike must show."""
    for batch in (1, 3, 4, 8, 9):
        labels = torch.arange(batch) % 3
        maps = (normal(3, 3, 4, 4)[labels]).clone().requires_grad_()
        found = minibatch_std(maps, labels)
        assert found.abs().max() < 1e-6
        (gradient,) = torch.autograd.grad(found.sum(), maps)
        assert torch.isfinite(gradient).all()


def test_minibatch_std_is_in_full_precision_under_autocast() -> None:
    maps, labels = normal(6, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        found = minibatch_std(maps.bfloat16(), labels)
    assert torch.equal(found, minibatch_std(maps.bfloat16(), labels))


def test_d_sees_that_images_are_alike() -> None:
    d = made(ProjectionDiscriminator, SPREAD)
    images, labels = normal(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64)
    alike = images[:1].expand(4, -1, -1, -1)
    assert (d(images, labels)[0] - d(alike, labels)[0]).abs() > 1e-3
    # Four images of another class change nothing for these, wherever in the batch they are.
    both = torch.stack((normal(4, 1, 32, 32, seed=4), images), dim=1).flatten(0, 1)  # one of each in turn
    torch.testing.assert_close(d(both, torch.tensor([1, 0] * 4))[1::2], d(images, labels))


# Initial weights: a function of the seed alone.


@pytest.mark.parametrize(
    ("net", "cfg"),
    [(ConditionalGenerator, TINY), (ProjectionDiscriminator, TINY), (ProjectionDiscriminator, SPREAD)],
)
def test_init(net: Any, cfg: ConditionalConfig) -> None:
    a, b = net(cfg), net(cfg)  # their default weights differ: both drew from torch's global generator
    assert not same(a, b)
    state = torch.get_rng_state()
    init_weights(a, 7)
    b(
        *(
            [normal(4, 8), torch.arange(4) % 3]
            if net is ConditionalGenerator
            else [normal(4, 1, 32, 32), torch.arange(4) % 3]
        )
    )
    init_weights(b.eval(), 7)
    assert torch.equal(torch.get_rng_state(), state) and not b.training
    assert same(a, b) and not same(a, made(net, cfg, seed=8))
    assert all((p == 0).all() for name, p in a.named_parameters() if name.endswith("bias"))


def test_init_deviations() -> None:
    cfg = ConditionalConfig(size=32, widths=(128, 96, 64), d_widths=(128, 96, 64))
    g, d = made(ConditionalGenerator, cfg), made(ProjectionDiscriminator, cfg)
    assert g.embed.weight.std().item() == pytest.approx(1, rel=0.1)
    assert g.ups[0].weight.std().item() == pytest.approx((1 / (128 * 4)) ** 0.5, rel=0.02)
    assert g.bands.weight.std().item() == pytest.approx(0.5 / (64 * 9) ** 0.5, rel=0.05)
    assert g.norm.modulate.weight.std().item() == pytest.approx(0.2 / 96**0.5, rel=0.02)
    assert d.bands.weight.std().item() == pytest.approx((2 / (4 * 9)) ** 0.5, rel=0.05)
    assert d.downs[1].weight.std().item() == pytest.approx((2 / (96 * 16)) ** 0.5, rel=0.02)
    assert d.project.weight.std().item() == pytest.approx((2 / (129 * 16)) ** 0.5, rel=0.02)
    assert d.embed.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.1)


def test_images_start_within_the_range_of_tanh() -> None:
    cfg = ConditionalConfig(size=64, widths=(96, 64, 48, 24), d_widths=(96, 64, 32, 16))
    images = made(ConditionalGenerator, cfg)(normal(16, 64), torch.arange(16) % 5)
    assert 0.05 < images.std().item() < 0.6


# Under bf16, channels_last and R1.


def test_bf16_and_channels_last_agree_with_fp32() -> None:
    cfg = SPREAD
    g, d = made(ConditionalGenerator, cfg), made(ProjectionDiscriminator, cfg)
    z, labels = normal(4, 8), torch.arange(4) % 3
    images = g(z, labels)
    logits = d(images, labels)
    g, d = g.to(memory_format=torch.channels_last), d.to(memory_format=torch.channels_last)
    torch.testing.assert_close(g(z, labels), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d(images, labels), logits, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = g(z, labels)
        assert (coarse.float() - images).abs().mean() < 0.02
        coarse_logits = d(images, labels)
    assert coarse_logits.dtype == torch.float32
    torch.testing.assert_close(coarse_logits, logits, rtol=0.05, atol=0.05)


def test_both_are_one_graph_for_torch_compile() -> None:
    cfg = SPREAD
    g, d = made(ConditionalGenerator, cfg), made(ProjectionDiscriminator, cfg)
    z, labels = normal(5, 8), torch.arange(5) % 3
    images = g(z, labels)
    # The backend that traces and compiles nothing: no compiler is needed, and a break of the graph still raises.
    assert torch.compile(g, backend="eager", fullgraph=True)(z, labels).equal(images)
    assert torch.compile(d, backend="eager", fullgraph=True)(images, labels).equal(d(images, labels))


def test_r1_of_the_projection_discriminator_reaches_its_weights() -> None:
    d = made(ProjectionDiscriminator, SPREAD)
    images, labels = normal(4, 1, 32, 32), torch.arange(4) % 3
    r1_penalty(d, images, labels).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in d.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"size": 48}, "size is 48"),
        (
            {"widths": (8, 8)},
            r"widths has 2 numbers, but 256 pixels take 6: one each for 4, 8, 16, 32, 64, 128",
        ),
        (
            {"d_widths": (8, 8, 8, 0, 8, 8)},
            r"d_widths is \[8, 8, 8, 0, 8, 8\], but every number must be at least 1",
        ),
        ({"group": -1}, "group is -1"),
        ({"classes": 0}, "classes is 0"),
        ({"z_dim": 0}, "z_dim is 0"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"feature_dim": 0}, "feature_dim is 0"),
        ({"leak": 1.0}, "leak is 1.0"),
    ],
)
def test_config_refuses(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ConditionalConfig(**wrong)
