"""The networks of a classifier: built, initialised from a seed, watched for features and for Grad-CAM's layer."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets as monai_nets
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cxrdist.errors import UserError
from cxrdist.nets.classifiers import (
    NETWORKS,
    NetworkConfig,
    build_network,
    cam_layer,
    dcnn_config,
    features_and_logits,
    features_of,
    init_network,
    last_linear,
)
from cxrdist.nets.configs import config_of
from cxrdist.nets.dcnn import DCNN, DCNNConfig, init_weights

TINY = DCNNConfig(size=16, classes=3, widths=(4, 6), hidden=8, kernel=3, bias=0.25)
OWN = """
from torch import nn

def build(image_size, classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(image_size**2, classes))

def three_logits(image_size, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 3))

def a_pair(image_size, classes):
    class Pair(nn.Module):
        def forward(self, images):
            return images, images
    return Pair()

def rgb(image_size, classes):
    return nn.Conv2d(3, classes, 1)

def words(image_size, classes):
    return "a network"

def raises(image_size, classes):
    raise KeyError("no such\\nlayer")

width = 64
"""


def config(network: str, image_size: int = 64, classes: int = 4, **options: Any) -> NetworkConfig:
    return NetworkConfig(network=network, image_size=image_size, classes=classes, options=options)


def images(count: int = 2, size: int = 64) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(7)) * 2 - 1


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the user's own networks."""
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


def test_a_dcnn_comes_back_from_the_json_of_its_config() -> None:
    made = dcnn_config(TINY)
    assert dataclasses.asdict(made) == {
        "network": "dcnn",
        "image_size": 16,
        "classes": 3,
        "options": {"widths": [4, 6], "hidden": 8, "kernel": 3, "bias": 0.25},
    }
    back = config_of(NetworkConfig, json.loads(json.dumps(dataclasses.asdict(made))))
    network = build_network(back)
    assert back == made and isinstance(network, DCNN) and network.cfg == TINY


@pytest.mark.parametrize("name", ["densenet121", "resnet18"])
def test_gradients_reach_all_parameters_of_a_monai_network(name: str) -> None:
    network = build_network(config(name))
    logits = network(images(4))
    assert logits.shape == (4, 4)
    assert next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)).in_channels == 1
    cross_entropy(logits, torch.arange(4)).backward()
    assert [key for key, weights in network.named_parameters() if not weights.grad.abs().sum() > 0] == []  # type: ignore[union-attr]


def test_the_weights_of_a_dcnn_are_those_of_its_own_initialisation() -> None:
    network, expected = build_network(dcnn_config(TINY)), DCNN(TINY)
    init_network(network, dcnn_config(TINY), 5)
    init_weights(expected, 5)
    assert equal(network, expected)


def test_the_weights_are_a_function_of_the_seed_alone() -> None:
    shape = config("resnet18")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, third = build_network(shape), build_network(shape), build_network(shape)
    torch.rand(3)
    init_network(first, shape, 2**62 + 5)
    after = torch.get_rng_state()
    init_network(second, shape, 2**62 + 5)
    init_network(third, shape, 6)
    assert equal(first, second) and not equal(first, third)
    torch.set_rng_state(before)
    torch.rand(3)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(2**62 + 5)
    assert equal(
        first, monai_nets.resnet18(pretrained=False, spatial_dims=2, n_input_channels=1, num_classes=4)
    )


def test_the_features_of_a_dcnn_are_its_last_maps() -> None:
    network = build_network(dcnn_config(TINY))
    init_network(network, dcnn_config(TINY), 1)
    assert isinstance(network, DCNN)
    some = images(3, 16)
    assert torch.equal(features_of(network, some), network.features(some))
    assert torch.equal(features_and_logits(network, some)[1], network(some))


def test_the_features_of_a_resnet_are_its_512_pooled_maps() -> None:
    network = build_network(config("resnet18")).eval()
    headless: Any = copy.deepcopy(network)
    headless.fc = nn.Identity()
    features, logits = features_and_logits(network, images(3))
    assert features.shape == (3, 512)
    assert torch.equal(features, headless(images(3))) and torch.equal(logits, network(images(3)))
    assert not any(layer._forward_pre_hooks for layer in network.modules())


class Backwards(nn.Module):
    """Layers that are called in another order than they are registered in; one of each kind is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.between = nn.Linear(5 * 4 * 4, 3)
        self.second = nn.Conv2d(3, 5, 1)
        self.first = nn.Conv2d(1, 3, 1)
        self.unused = nn.ModuleList([nn.Linear(9, 9), nn.Conv2d(9, 9, 1)])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.between(self.second(self.first(images)).flatten(1)))


def test_features_and_layer_are_found_in_the_order_of_the_forward_pass() -> None:
    network, some = Backwards(), images(2, 4)
    maps = network.second(network.first(some))
    assert torch.equal(features_of(network, some), network.between(maps.flatten(1)))
    assert cam_layer(network, some) is network.second


def test_the_layer_for_grad_cam() -> None:
    resnet: Any = build_network(config("resnet18"))
    assert cam_layer(resnet, images()) is resnet.layer4[-1].conv2
    dcnn: Any = build_network(dcnn_config(TINY))
    assert cam_layer(dcnn, images(2, 16)) is dcnn.stages[1][0]

    class Chosen(Backwards):
        @property
        def cam_layer(self) -> Any:
            return self.first

    chosen = Chosen()
    assert cam_layer(chosen, images(2, 4)) is chosen.first


def test_a_network_without_linear_or_convolution_is_said() -> None:
    with pytest.raises(UserError, match=r"Flatten calls no nn.Linear, so it has no penultimate features"):
        features_of(nn.Flatten(), images())
    with pytest.raises(UserError, match=r"Flatten calls no nn.Conv2d, so there are no maps for Grad-CAM"):
        cam_layer(nn.Flatten(), images())
    network: Any = nn.Flatten()
    network.cam_layer = "layer4"
    with pytest.raises(UserError, match=r"Flatten.cam_layer is a str, expected an nn.Module"):
        cam_layer(network, images())


def test_the_users_own_network(own: Path) -> None:
    shape = config("my_networks:build", 8, 3)
    first, second = build_network(shape), build_network(shape)
    assert first.training and first(images(5, 8)).shape == (5, 3)
    init_network(first, shape, 3)
    init_network(second, shape, 3)
    assert equal(first, second)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert torch.equal(first.state_dict()["2.weight"], nn.Linear(64, 3).weight)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "my_network:build",
            "^my_network:build: No module named 'my_network'; searched in .* and the installed",
        ),
        ("my_networks:biuld", r"my_networks has no function biuld; did you mean 'build'\?"),
        ("my_networks:", "^my_networks:: must be package.module:function"),
        (":build", "^:build: must be package.module:function"),
        ("my_networks:width", "my_networks:width: width is a int, not a function"),
        (
            "my_networks:raises",
            r"KeyError: 'no such\\nlayer' \(.*my_networks.py, line 23\); called as build\(image_",
        ),
        ("my_networks:words", "returned a str, expected a torch.nn.Module"),
        (
            "my_networks:three_logits",
            r"for images \[2, 1, 8, 8\] it returned torch.float32 \[2, 3\], expected float logits \[2, 4\]",
        ),
        ("my_networks:a_pair", r"for images \[2, 1, 8, 8\] it returned a tuple, expected float logits"),
        ("my_networks:rgb", r"cannot take images \[2, 1, 8, 8\]: RuntimeError: .* 3 channels"),
        (
            "resnet81",
            r"unknown network 'resnet81'; did you mean 'resnet18'\?, or your own as package.module:b",
        ),
    ],
)
def test_a_network_that_cannot_be_used_is_said(own: Path, network: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(config(network, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config("densenet121", 16), r"densenet121: cannot take images \[2, 1, 16, 16\]: "),
        (lambda: config("resnet18", 10**30), r"resnet18: cannot take images \[2, 1, 10{30}, 10{30}\]: "),
        (lambda: config("resnet18", depth=3), "resnet18 has no option depth"),
        (lambda: config("dcnn", 16, depth=3), r"invalid config of a dcnn \(unknown field depth\)"),
        (lambda: config("dcnn", 16, widths="48"), r"invalid config of a dcnn \(widths is '48'\)"),
        (
            lambda: config("dcnn", 17, widths=[4]),
            r"invalid config of a dcnn \(size is 17, but is halved by 1",
        ),
        (lambda: config("resnet18", classes=1), "at least 1 px and two classes, not 64 px and 1"),
    ],
)
def test_a_config_that_fits_no_network_is_said(make: Callable[[], NetworkConfig], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(make())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    for name in NETWORKS.keys() - {"dcnn"}:
        with pytest.raises(UserError, match=r"pip install 'cxrdist\[networks\]'"):
            build_network(config(name))


def test_the_last_linear_layer_is_the_one_that_is_called_last() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.first = nn.Linear(16, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images.flatten(1)))

    network = Net()
    assert last_linear(network, torch.zeros(2, 1, 4, 4)) is network.last
    with pytest.raises(
        UserError, match=r"Flatten calls no nn\.Linear, so there is no last layer to train alone"
    ):
        last_linear(nn.Flatten(), torch.zeros(2, 1, 4, 4))
