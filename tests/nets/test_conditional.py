from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxrdist.gan.losses import r1_penalty
from cxrdist.nets import conditional
from cxrdist.nets.conditional import (
    ConditionalConfig,
    ConditionalGenerator,
    ProjectionDiscriminator,
    init_weights,
    minibatch_std,
)

TINY = ConditionalConfig(size=32, classes=3, z_dim=8, maps=16, embed_dim=4, feature_dim=6)
SPECTRAL = dataclasses.replace(TINY, spectral=True, minibatch_std=True)


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


def test_generator_256_has_the_dcgans_shapes() -> None:
    with torch.device("meta"):
        net = ConditionalGenerator(ConditionalConfig())
        images = net(torch.empty(2, 128), torch.empty(2, dtype=torch.int64))
    assert images.shape == (2, 1, 256, 256)
    assert ConditionalConfig().widths == (1024, 512, 256, 128, 64, 32)
    style = 128 + 64
    project = (style + 1) * (1024 * 4 * 4)
    ups = 9 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32 * 1) + (
        512 + 256 + 128 + 64 + 32 + 1
    )
    modulations = (style + 1) * 2 * (1024 + 512 + 256 + 128 + 64 + 32)
    assert count(net) == 5 * 64 + project + ups + modulations == 10_227_201


@pytest.mark.parametrize("spread", [False, True])
def test_discriminator_256_has_the_dcgans_shapes(spread: bool) -> None:
    with torch.device("meta"):
        net = ProjectionDiscriminator(ConditionalConfig(minibatch_std=spread))
        features = net.features(torch.empty(4, 1, 256, 256), torch.empty(4, dtype=torch.int64))
    assert features.shape == (4, 256)
    downs = 16 * (1 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
    biases = 32 + 64 + 128 + 256 + 512 + 1024
    project = ((1024 + spread) * 4 * 4 + 1) * 256
    assert count(net) == downs + biases + project + (256 + 1) + 5 * 256
    assert count(net) == (15_376_609 if spread else 15_372_513)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("batch", [1, 3, 6])
def test_every_size_and_batch(size: int, batch: int) -> None:
    cfg = ConditionalConfig(size=size, maps=32, z_dim=8, minibatch_std=True)
    with torch.device("meta"):
        labels = torch.empty(batch, dtype=torch.int64)
        images = ConditionalGenerator(cfg)(torch.empty(batch, 8), labels)
        assert images.shape == (batch, 1, size, size)
        assert ProjectionDiscriminator(cfg)(images, labels).shape == (batch,)


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
    norm = conditional.ModulatedNorm(TINY, 2)
    with torch.no_grad():
        norm.modulate.weight.zero_()
        norm.modulate.bias.copy_(torch.tensor([1.0, 0.0, 0.5, -2.0]))  # scales 1 + 1 and 1 + 0, then shifts
        maps = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)  # root of the mean square: sqrt(12.5)
        out = norm(maps, torch.zeros(1, 12)).flatten().tolist()
    assert out == pytest.approx([2 * 3 / 12.5**0.5 + 0.5, 0.2 * (4 / 12.5**0.5 - 2)], rel=1e-6)


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
    g, d = made(ConditionalGenerator), made(ProjectionDiscriminator, SPECTRAL)
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
    d = made(ProjectionDiscriminator, dataclasses.replace(TINY, minibatch_std=True))
    images, labels = normal(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64)
    alike = images[:1].expand(4, -1, -1, -1)
    assert (d(images, labels)[0] - d(alike, labels)[0]).abs() > 1e-3
    # Four images of another class change nothing for these, wherever in the batch they are.
    both = torch.stack((normal(4, 1, 32, 32, seed=4), images), dim=1).flatten(0, 1)  # one of each in turn
    torch.testing.assert_close(d(both, torch.tensor([1, 0] * 4))[1::2], d(images, labels))


# Spectral normalisation.


def test_weights_have_a_spectral_norm_of_one() -> None:
    d = made(ProjectionDiscriminator, SPECTRAL)
    layers = [*d.downs, d.project, d.logit, d.embed]
    assert len(layers) == 6 and len(list(d.parameters())) == 3 + 3 + 2 + 2 + 1
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert largest.item() == pytest.approx(1, abs=0.05)


def test_spectral_norm_is_left_alone_by_autocast() -> None:
    d = made(ProjectionDiscriminator, SPECTRAL).eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside = d.project.weight
    assert torch.equal(inside, d.project.weight)


# Initial weights: a function of the seed alone.


@pytest.mark.parametrize(
    ("net", "cfg"),
    [(ConditionalGenerator, TINY), (ProjectionDiscriminator, TINY), (ProjectionDiscriminator, SPECTRAL)],
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
    cfg = ConditionalConfig(size=32, maps=128)
    g, d = made(ConditionalGenerator, cfg), made(ProjectionDiscriminator, cfg)
    assert g.project.weight.std().item() == pytest.approx((2 / 192) ** 0.5, rel=0.02)
    assert g.ups[0][1].weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert g.image[1].weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5 / 4, rel=0.1)
    assert g.norm.modulate.weight.std().item() == pytest.approx((1 / 192) ** 0.5, rel=0.02)
    assert d.downs[2].weight.std().item() == pytest.approx((2 / (64 * 16)) ** 0.5, rel=0.02)
    assert d.project.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)
    assert d.embed.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.1)


# Under bf16, channels_last and R1.


def test_bf16_and_channels_last_agree_with_fp32() -> None:
    cfg = dataclasses.replace(TINY, minibatch_std=True)
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
    cfg = dataclasses.replace(TINY, minibatch_std=True)
    g, d = made(ConditionalGenerator, cfg), made(ProjectionDiscriminator, cfg)
    z, labels = normal(5, 8), torch.arange(5) % 3
    images = g(z, labels)
    # The backend that traces and compiles nothing: no compiler is needed, and a break of the graph still raises.
    assert torch.compile(g, backend="eager", fullgraph=True)(z, labels).equal(images)
    assert torch.compile(d, backend="eager", fullgraph=True)(images, labels).equal(d(images, labels))


def test_r1_of_the_projection_discriminator_reaches_its_weights() -> None:
    d = made(ProjectionDiscriminator, dataclasses.replace(TINY, minibatch_std=True))
    images, labels = normal(4, 1, 32, 32), torch.arange(4) % 3
    r1_penalty(d, images, labels).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in d.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"size": 48}, "size is 48"),
        ({"maps": 40}, "multiple of 32"),
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
