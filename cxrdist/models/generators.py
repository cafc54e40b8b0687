"""Exported generators: written by training, loaded and sampled without its code or state.

generator.safetensors   weights and buffers
model.json              architecture and config of the network, preset, classes, lineage, metrics, weights_sha256
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cxrdist import counter_rng
from cxrdist.data.transforms import to_uint8
from cxrdist.errors import UserError, nearest
from cxrdist.models.description import (
    GENERATOR,
    MODEL_FILE,
    check_shapes,
    first_line,
    load_exported,
    read_model,
    write_model,
)
from cxrdist.nets import conditional, conditional_v1, dcgan
from cxrdist.nets.configs import config_of
from cxrdist.seeds import derive, uniform

FORMAT = GENERATOR.formats[-1]
ALL_CLASSES = "all classes"
"""Name of the single model of a conditional run."""
BATCH = 16

_NETWORKS: dict[int, dict[str, tuple[type, type[nn.Module]]]] = {
    1: {
        "dcgan": (dcgan.DCGANConfig, dcgan.Generator),
        "conditional": (conditional_v1.ConditionalConfigV1, conditional_v1.ConditionalGeneratorV1),
    },
    FORMAT: {
        "dcgan": (dcgan.DCGANConfig, dcgan.Generator),
        "conditional": (conditional.ConditionalConfig, conditional.ConditionalGenerator),
    },
}
"""``{format of model.json: {architecture: (config, generator)}}``."""


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A generator in evaluation mode, with the contents of its ``model.json``."""

    architecture: str
    preset: str
    """Name of the config that it was trained with."""
    classes: tuple[str, ...]
    image_size: int
    lineage: dict[str, Any]
    """Digest of the real set that it was trained on, that set's ancestors, and the split
    (cxrdist.data.shards.lineage.made_from)."""
    metrics: dict[str, Any]
    weights_sha256: str
    network: nn.Module

    @property
    def z_dim(self) -> int:
        return int(self.network.cfg.z_dim)  # type: ignore[union-attr, arg-type]

    def label(self, class_name: str) -> int:
        """Index of a class among those of the model. Raises UserError if the model does not have the class."""
        if class_name not in self.classes:
            raise UserError(f"{class_name}: not a class of this generator{nearest(class_name, self.classes)}")
        return self.classes.index(class_name)

    @torch.no_grad()
    def images(self, class_name: str, z: np.ndarray) -> np.ndarray:
        """z [n, z_dim] float32 -> images [n, H, W] uint8, computed on the network's device.

        The bytes of an image depend on its own z alone, not on n. Raises UserError if the model does not have the
        class, ValueError for another shape of z.
        """
        label = self.label(class_name)
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {list(z.shape)}, expected [n, {self.z_dim}]")
        device = next(self.network.parameters()).device
        labels = torch.full((BATCH,), label, dtype=torch.int64, device=device)
        # A fixed batch size, since kernels, and with them the last bits of floats, depend on it.
        padded = np.zeros((-(-len(z) // BATCH) * BATCH, self.z_dim), np.float32)
        padded[: len(z)] = z
        out = np.empty((len(padded), self.image_size, self.image_size), np.uint8)
        for first in range(0, len(padded), BATCH):
            some = torch.from_numpy(padded[first : first + BATCH]).to(device)
            out[first : first + BATCH] = to_uint8(self.network(some, labels))[:, 0].cpu().numpy()
        return out[: len(z)]

    def sample(self, class_name: str, count: int, seed: int = 0) -> np.ndarray:
        """The first ``count`` images [count, H, W] uint8 of an endless sequence that is a function of (seed, class).

        Raises UserError if the model does not have the class, or for a count below 1.
        """
        if count < 1:
            raise UserError(f"{count} images of {class_name}: the count must be 1 or more")
        return self.images(class_name, self.z(seed, f"sample {class_name}", range(count)))

    def z(self, seed: int, purpose: str, positions: range) -> np.ndarray:
        """[len(positions), z_dim] float32 of the network's distribution: uniform in [-1, 1), or standard normal. Each
        row is a function of (seed, purpose, position) alone."""
        cfg: Any = self.network.cfg
        if cfg.z_distribution == "uniform":
            whole = -(-self.z_dim // 4) * 4  # uniform() draws multiples of four numbers
            return uniform(seed, purpose, positions, whole)[:, : self.z_dim]
        return z_at(self.network, derive(seed, purpose), positions, torch.device("cpu")).numpy()


def z_at(generator: nn.Module, seed: int, positions: range, device: torch.device) -> torch.Tensor:
    """z [len(positions), z_dim] float32 on the device, of the generator's distribution: each row is a function of
    (seed, position) alone (cxrdist.counter_rng)."""
    cfg: Any = generator.cfg
    width = -(-cfg.z_dim // 2) * 2  # bits are drawn in pairs
    drawn = counter_rng.bits(seed, counter_rng.positions_on(positions, device), width)
    return z_of(generator, drawn)[:, : cfg.z_dim]


def z_of(generator: nn.Module, drawn: torch.Tensor) -> torch.Tensor:
    """Random integers [n, z_dim] in [0, 2^32) (cxrdist.counter_rng.bits) -> z [n, z_dim] float32 of the generator's
    distribution."""
    cfg: Any = generator.cfg
    return counter_rng.to_normal(drawn) if cfg.z_distribution == "normal" else counter_rng.to_uniform(drawn)


def export_generator(
    folder: Path,
    generator: nn.Module,
    *,
    preset: str,
    classes: Sequence[str],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a generator's weights, then ``model.json``; returns the SHA-256 of the weights.

    ``generator``: the plain module, not its DDP or DeepSpeed wrapper; its ``cfg`` is stored to rebuild it.
    ``lineage``: the result of cxrdist.data.shards.lineage.made_from. ``metrics``: finite numbers. Raises OSError, and
    ValueError for a module that is not one of the known generators.
    """
    version, architecture = _kind_of(generator)
    cfg: Any = generator.cfg
    model = {
        "format": version,
        "architecture": architecture,
        "network": dataclasses.asdict(cfg),
        "preset": preset,
        "classes": list(classes),
        "image_size": cfg.size,
        "lineage": dict(lineage),
        "metrics": dict(metrics),
    }
    if getattr(cfg, "classes", 1) == len(classes) + 1:
        model["unlabelled"] = True
    return write_model(folder, GENERATOR, generator, model)


def load_generator(folder: Path | str) -> TrainedGenerator:
    """Load the generator that ``export_generator`` wrote to a folder, on the CPU.

    Raises UserError if a file is missing, has another format, was changed since the export, or does not match the
    other file. Nothing is unpickled, and no network larger than the file of its weights is allocated.
    """
    folder = Path(folder)
    model = read_model(folder, GENERATOR)
    where = folder / MODEL_FILE
    try:
        with torch.device("meta"):  # allocates no memory, however large the sizes in the file are
            planned = network_of(model["architecture"], model["network"], model["format"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    check_shapes(folder, GENERATOR, planned)
    network = network_of(model["architecture"], model["network"], model["format"])
    cfg: Any = network.cfg
    if cfg.size != model["image_size"]:
        raise UserError(f"{where}: image_size {model['image_size']}, but its network makes {cfg.size} px")
    # Trained on unlabelled images too, the network has one label more than it has classes to draw.
    if getattr(cfg, "classes", 1) != len(model["classes"]) + (model.get("unlabelled") is True):
        raise UserError(
            f"{where}: {len(model['classes'])} classes, but its network has {getattr(cfg, 'classes', 1)}"
        )
    return TrainedGenerator(
        architecture=model["architecture"],
        preset=model["preset"],
        classes=tuple(model["classes"]),
        image_size=model["image_size"],
        lineage=model["lineage"],
        metrics=model["metrics"],
        weights_sha256=model["weights_sha256"],
        network=load_exported(folder, GENERATOR, network, model["weights_sha256"]),
    )


def _kind_of(generator: nn.Module) -> tuple[int, str]:
    """The newest format that has a generator's type, and its architecture there."""
    for version in sorted(_NETWORKS, reverse=True):
        for architecture, (_, kind) in _NETWORKS[version].items():
            if type(generator) is kind:
                return version, architecture
    expected = ", ".join(_NETWORKS[FORMAT])
    raise ValueError(f"{type(generator).__name__} is not a generator: expected one of {expected}")


def network_of(architecture: str, network: Mapping[str, Any], version: int = FORMAT) -> nn.Module:
    """Build the generator of an architecture from its config, with arbitrary weights. ``version``: the format of its
    ``model.json``.

    Raises UserError for an unknown architecture, or a config that is invalid for it.
    """
    known = _NETWORKS[version]
    if architecture not in known:
        raise UserError(f"unknown architecture {architecture!r}{nearest(architecture, known)}")
    config_type, network_type = known[architecture]
    try:
        built = network_type(config_of(config_type, network))
    except (UserError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"invalid config of a {architecture} ({first_line(error)})") from None
    return built
