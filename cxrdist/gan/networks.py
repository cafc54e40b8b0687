"""Build the networks of a config."""

from __future__ import annotations

from torch import nn

from cxrdist.errors import UserError
from cxrdist.gan.config import GANConfig
from cxrdist.nets import conditional, dcgan

Networks = tuple[nn.Module, nn.Module]


def build(config: GANConfig, *, image_size: int, classes: int, seeds: tuple[int, int]) -> Networks:
    """G and D with initial weights, from one seed each. Raises UserError for a config that is not possible."""
    of_g, of_d = seeds
    shape = network_config(config, image_size=image_size, classes=classes)
    if isinstance(shape, dcgan.DCGANConfig):
        made = dcgan.Generator(shape), dcgan.Discriminator(shape)
        dcgan.init_weights(made[0], of_g)
        dcgan.init_weights(made[1], of_d)
        return made
    other = conditional.ConditionalGenerator(shape), conditional.ProjectionDiscriminator(shape)
    conditional.init_weights(other[0], of_g)
    conditional.init_weights(other[1], of_d)
    return other


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
