"""The classifier's feature space, of a DCNN and of another network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cxrdist.features.spaces import classifier_space
from cxrdist.models import TrainedClassifier
from cxrdist.nets.classifiers import NetworkConfig, build_network, dcnn_config, init_network
from cxrdist.nets.dcnn import DCNNConfig

PIXELS = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def trained(config: NetworkConfig) -> TrainedClassifier:
    network = build_network(config)
    init_network(network, config, 2)
    return TrainedClassifier(
        config=config,
        classes=("A", "B"),
        lineage={},
        metrics={},
        weights_sha256="d" * 64,
        network=network.eval().requires_grad_(False),
    )


def test_the_space_of_a_dcnn_has_the_means_of_its_last_maps() -> None:
    classifier = trained(dcnn_config(DCNNConfig(size=32, classes=2, widths=(4, 6), hidden=8)))
    space = classifier_space(classifier, torch.device("cpu"))
    network: Any = classifier.network
    maps = network.stages(PIXELS.float() / 127.5 - 1)
    assert torch.equal(space.embed(PIXELS), torch.cat((maps.mean((2, 3)), network.mlp(maps.flatten(1))), 1))
    assert (space.dims, space.logits, space.weights_sha256) == (6, 2, "d" * 64)
    assert space.what == "means of the classifier's last feature maps"


def test_the_space_of_another_network_has_its_penultimate_features() -> None:
    classifier = trained(NetworkConfig(network="resnet18", image_size=32, classes=2))
    space = classifier_space(classifier, torch.device("cpu"))
    network: Any = classifier.network
    found = space.embed(PIXELS)
    assert torch.equal(found[:, 512:], network(PIXELS.float() / 127.5 - 1))
    network.fc = nn.Identity()
    assert torch.equal(found[:, :512], network(PIXELS.float() / 127.5 - 1))
    assert (space.dims, space.logits, space.weights_sha256) == (512, 2, "d" * 64)
    assert space.what == "penultimate features of the classifier, resnet18"
