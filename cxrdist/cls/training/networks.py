"""The network of a classifier training: its config from the options, and which of its weights a stage trains."""

from __future__ import annotations

from torch import nn

from cxrdist.cls.config import ClsConfig
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError
from cxrdist.nets.classifiers import NetworkConfig, dcnn_config
from cxrdist.nets.dcnn import DCNNConfig


def freeze_features(network: nn.Module) -> None:
    """Train the last linear layer alone; the others also keep the statistics of their BatchNorm. Raises OptionError
    if there is no linear layer."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise OptionError("stages", "freeze: features: this network has no linear layer to train")
    network.requires_grad_(False).eval()
    linear[-1].requires_grad_(True).train()


def network_config(config: ClsConfig, real: ShardSet) -> NetworkConfig:
    """The config of the network for a set. Raises UserError if the image size does not fit it."""
    classes = len(real.classes)
    try:
        if config.network != "dcnn":
            return NetworkConfig(network=config.network, image_size=real.image_size, classes=classes)
        return dcnn_config(
            DCNNConfig(
                size=real.image_size,
                classes=classes,
                widths=config.widths,
                hidden=config.hidden,
                kernel=config.kernel,
                bias=config.bias,
            )
        )
    except ValueError as error:
        raise UserError(str(error)) from None
