"""Build the networks of a config."""

from __future__ import annotations

from torch import nn

from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.nets import conditional, dcgan

Networks = tuple[nn.Module, nn.Module]


def build(config: GANConfig, *, image_size: int, classes: int, seeds: tuple[int, int]) -> Networks:
    """G and D with initial weights, from one seed each. Raises UserError for a config that is not possible."""
    networks = construct(config, image_size=image_size, classes=classes)
    for network, seed in zip(networks, seeds, strict=True):
        if isinstance(network, dcgan.Generator | dcgan.Discriminator):
            dcgan.init_weights(network, seed)
        elif isinstance(network, conditional.ConditionalGenerator | conditional.ProjectionDiscriminator):
            conditional.init_weights(network, seed)
    return networks


def construct(config: GANConfig, *, image_size: int, classes: int) -> Networks:
    """G and D before their weights are set. Raises UserError for a config that is not possible."""
    shape = network_config(config, image_size=image_size, classes=classes)
    if isinstance(shape, dcgan.DCGANConfig):
        return dcgan.Generator(shape), dcgan.Discriminator(shape)
    return conditional.ConditionalGenerator(shape), conditional.ProjectionDiscriminator(shape)


def network_config(
    config: GANConfig, *, image_size: int, classes: int
) -> dcgan.DCGANConfig | conditional.ConditionalConfig:
    """The config of both networks. Raises UserError for an impossible one, such as an unsupported image size."""
    try:
        if config.architecture == "dcgan":
            return dcgan.DCGANConfig(
                size=image_size,
                z_dim=config.z_dim,
                maps=config.maps,
                kernel=config.kernel,
                norm=config.norm,
            )
        stages = conditional.stages_of(image_size)
        return conditional.ConditionalConfig(
            size=image_size,
            classes=classes,
            z_dim=config.z_dim,
            widths=config.widths[:stages],
            d_widths=config.d_widths[:stages],
            embed_dim=config.embed_dim,
            minibatch_std=config.minibatch_std,
            group=config.minibatch_std_images or 0,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
