"""The network of a classifier training: its config from the options, and which of its weights a stage trains."""

from __future__ import annotations

import torch
from torch import nn

from cxrdist.cls.config import ClsConfig
from cxrdist.config.parser import to_dict
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.nets.classifiers import NetworkConfig, last_linear, network_config

TRIED_IMAGES = 2


def config_for(config: ClsConfig, real: ShardSet) -> NetworkConfig:
    """The config of the network for a set. Raises UserError if the image size does not fit it."""
    return network_config(to_dict(config), image_size=real.image_size, classes=len(real.classes))


def freeze_features(network: nn.Module, image_size: int) -> None:
    """Train the linear layer that is called last alone; the others also keep the statistics of their BatchNorm.
    Raises UserError if the network calls no linear layer."""
    network.requires_grad_(False).eval()
    device = next(network.parameters()).device
    images = torch.zeros(TRIED_IMAGES, 1, image_size, image_size, device=device)
    last_linear(network, images).requires_grad_(True).train()
