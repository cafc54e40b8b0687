"""How much disk the checkpoints of a training take, from its config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.trainer import CHECKPOINTS_KEPT
from cxrdist.config.parser import parse, to_dict
from cxrdist.console import size_text
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import construct
from cxrdist.nets.classifiers import build_network, network_config

FURTHER = 3
"""Beside the newest looks: the best checkpoint, an interim one, and the one that is being written."""


@dataclass(frozen=True)
class Need:
    """``models`` of one run, each with ``kept`` checkpoints of ``checkpoint_bytes``. ``parts``: what one holds."""

    what: str
    checkpoint_bytes: int
    kept: int
    models: int
    parts: str

    @property
    def total_bytes(self) -> int:
        return self.checkpoint_bytes * self.kept * self.models

    def __str__(self) -> str:
        models = "" if self.models == 1 else f" x {self.models} models"
        one = f"{self.kept} checkpoints of {size_text(self.checkpoint_bytes)} ({self.parts}){models}"
        return f"{self.what}: {one} = {size_text(self.total_bytes)}"


def needs(gan: tuple[str, ...], cls: tuple[str, ...], *, image_size: int, classes: int) -> Iterator[Need]:
    """Of the trainings whose YAML files are given. Raises UserError for a file that is no config, or networks that do
    not fit the size."""
    if gan:
        yield of_gan(_parsed(GANConfig, gan), image_size=image_size, classes=classes)
    if cls:
        yield of_cls(_parsed(ClsConfig, cls), image_size=image_size, classes=classes)


def _parsed(kind: type, files: tuple[str, ...]) -> object:
    words = [word for file in files for word in ("--config", file)]
    return parse(kind, words, prog="cxrdist doctor", example="")


def of_gan(config: object, *, image_size: int, classes: int) -> Need:
    """G, D, Adam's two moments of both, and the moving average of G if there is one."""
    assert isinstance(config, GANConfig)
    is_dcgan = config.architecture == "dcgan"
    asked = classes if config.classes == ("all",) else len(config.classes)
    with torch.device("meta"):
        generator, discriminator = construct(config, image_size=image_size, classes=classes)
    g, d = bytes_of(generator), bytes_of(discriminator)
    average = g if config.ema_half_life_images else 0
    parts = f"G {size_text(g)}, D {size_text(d)}, each three times with Adam" + ", and G's average" * bool(
        average
    )
    size = 3 * (g + d) + average
    return Need("GAN", size, config.keep + FURTHER, asked if is_dcgan else 1, parts)


def of_cls(config: object, *, image_size: int, classes: int) -> Need:
    """The weights, Adam's two moments, and the best weights."""
    assert isinstance(config, ClsConfig)
    with torch.device("meta"):
        network = build_network(network_config(to_dict(config), image_size=image_size, classes=classes))
    size = bytes_of(network)
    parts = f"weights {size_text(size)}, three times with Adam, and the best ones"
    return Need("classifier", 4 * size, CHECKPOINTS_KEPT + FURTHER, 1, parts)


def bytes_of(network: nn.Module) -> int:
    """Of all weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
