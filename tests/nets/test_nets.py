from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from cxrdist.cls.training.optim import sigmoid_decay
from cxrdist.gan.training.losses import d_loss, g_loss
from cxrdist.nets import dcgan, dcnn
from cxrdist.nets.dcgan import DCGANConfig, Discriminator, Generator
from cxrdist.nets.dcnn import DCNN, DCNNConfig
from cxrdist.nets.strided import Down, Up

TINY = DCGANConfig(size=32, maps=16, z_dim=8)
TINY_DCNN = DCNNConfig(size=16, classes=3, widths=(4, 6), hidden=8)


def made(net: type[Generator] | type[Discriminator], cfg: DCGANConfig = TINY, seed: int = 0) -> Any:
    module = net(cfg)
    dcgan.init_weights(module, seed)
    return module


def uniform_z(batch: int, z_dim: int = TINY.z_dim, seed: int = 3) -> Tensor:
    return torch.rand(batch, z_dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shapes_of(module: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> list[tuple[int, ...]]:
    """Output shapes, without the batch, of every layer of these kinds, in the order they run."""
    shapes: list[tuple[int, ...]] = []
    for layer in module.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    module(x)
    return shapes


def kinds_of(layers: Any) -> list[type[nn.Module]]:
    return [type(layer) for layer in layers]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


# The shapes of the paper's 256x256 nets, on the meta device: no memory, no arithmetic.


def test_generator_256_layer_by_layer() -> None:
    with torch.device("meta"):
        net, z = Generator(DCGANConfig()), torch.empty(2, 128)
    assert shapes_of(net, (nn.Linear, nn.ConvTranspose2d), z) == [
        *[(1024 * 4 * 4,), (512, 8, 8), (256, 16, 16), (128, 32, 32)],
        *[(64, 64, 64), (32, 128, 128), (1, 256, 256)],
    ]
    projection = 128 * (1024 * 4 * 4)
    ups = 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32 * 1)
    norms = 2 * (1024 + 512 + 256 + 128 + 64 + 32)
    assert count(net) == projection + ups + norms + 1 == 19_561_185
    # Only the last up-convolution has no norm behind it, and so a bias.
    assert net.project.bias is None
    assert [stage[0].bias is None for stage in net.stages] == [True] * 5 + [False]
    assert kinds_of(net.stages[0]) == [Up, nn.BatchNorm2d, nn.ReLU]
    assert kinds_of(net.stages[5]) == [Up, nn.Tanh]


def test_discriminator_256_layer_by_layer() -> None:
    with torch.device("meta"):
        net, images = Discriminator(DCGANConfig()), torch.empty(2, 1, 256, 256)
    assert shapes_of(net, (nn.Linear, nn.Conv2d), images) == [
        *[(32, 128, 128), (64, 64, 64), (128, 32, 32)],
        *[(256, 16, 16), (512, 8, 8), (1024, 4, 4), (1,)],
    ]
    downs = 25 * (1 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
    norms = 2 * (64 + 128 + 256 + 512 + 1024)
    assert count(net) == downs + 32 + norms + (1024 * 4 * 4 + 1) == 17_480_385
    assert kinds_of(net.stages[0]) == [Down, nn.Identity, nn.LeakyReLU]
    assert kinds_of(net.stages[1]) == [Down, nn.BatchNorm2d, nn.LeakyReLU]
    assert {layer.negative_slope for layer in net.modules() if isinstance(layer, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_size_kernel_and_norm(size: int, kernel: int, norm: Any) -> None:
    cfg = DCGANConfig(size=size, maps=32, z_dim=8, kernel=kernel, norm=norm)
    with torch.device("meta"):
        images = Generator(cfg)(torch.empty(3, 8))
        assert images.shape == (3, 1, size, size)
        assert Discriminator(cfg)(images).shape == (3,)


def test_dcnn_256_layer_by_layer() -> None:
    with torch.device("meta"):
        net, images = DCNN(DCNNConfig()), torch.empty(2, 1, 256, 256)
        straight = DCNN(DCNNConfig(hidden=0))
    assert net.features(images).shape == (2, DCNNConfig().features) == (2, 4096)
    assert shapes_of(net, (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Linear), images) == [
        *[(32, 256, 256), (32, 256, 256), (32, 128, 128), (64, 128, 128), (64, 128, 128), (64, 64, 64)],
        *[(128, 64, 64), (128, 64, 64), (128, 32, 32), (128, 32, 32), (128, 32, 32), (128, 16, 16)],
        *[(64, 16, 16), (64, 16, 16), (64, 8, 8), (1024,), (1024,), (5,)],
    ]
    for stage in net.stages:  # Eq. 4: the rectifier comes before the pooling
        assert kinds_of(stage) == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    convs = 25 * (1 * 32 + 32 * 64 + 64 * 128 + 128 * 128 + 128 * 64) + (32 + 64 + 128 + 128 + 64)
    assert count(net) == convs + (4096 * 1024 + 1024) + (1024 * 5 + 5) == 5_072_069
    assert count(straight) == convs + (4096 * 5 + 5)


# Initial weights: a function of the seed alone.


def test_dcgan_init() -> None:
    for net in (Generator, Discriminator):
        a, b = net(TINY), net(TINY)  # their default weights differ: both drew from torch's global generator
        assert not same(a, b)
        state = torch.get_rng_state()
        dcgan.init_weights(a, 7)
        dcgan.init_weights(b, 7)
        assert torch.equal(torch.get_rng_state(), state)
        assert same(a, b) and not same(a, made(net, seed=8))
    g = made(Generator, DCGANConfig(size=32, maps=64))
    assert g.project.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert g.project.weight.mean().item() == pytest.approx(0, abs=5e-4)
    assert g.stages[0][0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert g.project_norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert 0.01 < g.project_norm.weight.std().item() < 0.03
    assert all((p == 0).all() for name, p in g.named_parameters() if name.endswith("bias"))


def test_dcgan_init_again_forgets_training() -> None:
    trained = made(Discriminator)
    trained(torch.ones(4, 1, 32, 32))
    assert not same(trained, made(Discriminator))  # running statistics have moved
    dcgan.init_weights(trained, 0)
    assert same(trained, made(Discriminator))


def test_dcnn_init() -> None:
    cfg = DCNNConfig(size=64, widths=(32, 64, 64), hidden=256)
    a: Any = DCNN(cfg)
    b = DCNN(cfg)
    assert not same(a, b)
    dcnn.init_weights(a, 7)
    dcnn.init_weights(b, 7)
    assert same(a, b)
    dcnn.init_weights(b, 8)
    assert not same(a, b)
    assert all((p == 0.1).all() for name, p in a.named_parameters() if name.endswith("bias"))
    assert a.stages[1][0].weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 25)), rel=0.02)
    assert a.mlp[0].weight.std().item() == pytest.approx(math.sqrt(2 / 4096), rel=0.02)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_one_adam_step_moves_every_parameter_in_full(norm: Any) -> None:
    """Adam's first step is the learning rate itself, unless a vanished gradient drowns in its epsilon."""
    cfg = DCGANConfig(size=64, maps=32, z_dim=8, norm=norm)
    g, d = made(Generator, cfg), made(Discriminator, cfg, seed=1)
    before = [p.detach().clone() for p in (*g.parameters(), *d.parameters())]
    optimizer = torch.optim.Adam([*g.parameters(), *d.parameters()], lr=1e-3, betas=(0.5, 0.999))
    d_loss(d(uniform_z(8, 64 * 64).view(8, 1, 64, 64)), d(g(uniform_z(8)))).backward()
    optimizer.step()
    for p, old in zip((*g.parameters(), *d.parameters()), before):
        assert (p - old).abs().max().item() == pytest.approx(1e-3, rel=0.02)


# Losses (Eq. 2).


def test_losses_are_binary_cross_entropy_of_the_logits() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-3.0, 0.0, 4.0])
    ones, zeros = torch.ones(3), torch.zeros(3)
    torch.testing.assert_close(d_loss(real, fake), bce(real, ones) + bce(fake, zeros))
    torch.testing.assert_close(g_loss(fake), bce(fake, ones))
    torch.testing.assert_close(g_loss(fake, "minimax"), -bce(fake, zeros))
    eq2 = torch.log(torch.sigmoid(real)).mean() + torch.log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(d_loss(real, fake), -eq2)


def test_losses_signs_and_extremes() -> None:
    zero, high, low = torch.zeros(1), torch.tensor([200.0]), torch.tensor([-200.0])
    assert d_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert d_loss(high, low).item() == 0  # real known as real, fake as fake
    assert d_loss(low, high).item() == 400
    assert g_loss(high).item() == 0 and g_loss(low).item() == 200
    assert g_loss(high, "minimax").item() == -200 and g_loss(low, "minimax").item() == 0
    with pytest.raises(ValueError, match="'hinge'"):
        g_loss(zero, "hinge")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["non-saturating", "minimax"])
def test_d_and_g_steps_leave_the_other_alone(kind: Any) -> None:
    g, d = made(Generator), made(Discriminator, seed=1)
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (g, d))
    real = uniform_z(4, 32 * 32).view(4, 1, 32, 32)

    def weights(net: nn.Module) -> list[Tensor]:
        return [p.detach().clone() for p in net.parameters()]

    def moved(old: list[Tensor], net: nn.Module) -> list[bool]:
        return [not torch.equal(p, q) for p, q in zip(old, net.parameters())]

    g0, d0 = weights(g), weights(d)
    with torch.no_grad():
        fake = g(uniform_z(4))
    d_loss(d(real), d(fake)).backward()
    d_adam.step()
    d_adam.zero_grad()
    assert not any(moved(g0, g)) and all(moved(d0, d))
    assert all(p.grad is None for p in g.parameters())

    d1 = weights(d)
    d.requires_grad_(False)
    g_loss(d(g(uniform_z(4))), kind).backward()
    g_adam.step()
    d.requires_grad_(True)
    d_adam.step()
    assert all(moved(g0, g)) and not any(moved(d1, d))
    assert all(p.grad is None for p in d.parameters())


# The classifier's learning rate.


def test_sigmoid_decay() -> None:
    assert sigmoid_decay(0, 100) == pytest.approx(1e-3 / (1 + math.exp(-5)))
    assert sigmoid_decay(50, 100) == 5e-4
    assert sigmoid_decay(100, 100) == pytest.approx(1e-3 / (1 + math.exp(5)))
    assert sigmoid_decay(12.5, 20, base=2.0, k=0.8, e0=10) == pytest.approx(2 / (1 + math.exp(0.8 * 2.5)))
    assert sigmoid_decay(3, 20, base=2.0, e0=3) == 1.0
    assert sigmoid_decay(1e6, 1, k=1.0) == 0 and sigmoid_decay(-1e6, 1, k=1.0) == 1e-3
    with pytest.raises(ValueError, match="epochs 0: must be positive"):
        sigmoid_decay(0, 0)


@pytest.mark.parametrize(
    ("config", "wrong", "word"),
    [
        (DCGANConfig, {"size": 48}, "size is 48"),
        (DCGANConfig, {"maps": 40}, "multiple of 32"),
        (DCGANConfig, {"maps": 0}, "maps is 0"),
        (DCGANConfig, {"z_dim": 0}, "z_dim is 0"),
        (DCGANConfig, {"kernel": 1}, "kernel is 1"),
        (DCGANConfig, {"norm": "group"}, "norm is 'group'"),
        (DCGANConfig, {"leak": 1.0}, "leak is 1.0"),
        (DCGANConfig, {"init_std": 0.0}, "init_std is 0.0"),
        (DCNNConfig, {"classes": 1}, "classes is 1"),
        (DCNNConfig, {"widths": (8, 0)}, "widths is"),
        (DCNNConfig, {"size": 100}, "multiple of 32"),
        (DCNNConfig, {"hidden": -1}, "hidden is -1"),
        (DCNNConfig, {"kernel": 4}, "kernel is 4"),
    ],
)
def test_configs_refuse(config: Any, wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        config(**wrong)
