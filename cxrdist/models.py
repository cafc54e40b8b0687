"""Generators that have left their training: written, read again and drawn from, without any of its code or state.

    from cxrdist.models import load_generator
    generator = load_generator("runs/gan/normal")
    images = generator.sample("Normal", 16)  # [16, H, W] uint8

generator.safetensors   weights and buffers
model.json              what they are the weights of, and what they have learnt from
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from cxrdist.data.transforms import to_uint8
from cxrdist.errors import UserError, nearest
from cxrdist.files import canonical_json, read_json, write_atomic
from cxrdist.nets import conditional, dcgan
from cxrdist.run.checkpoint import load_weights, save_weights, weights_sha256
from cxrdist.seeds import uniform

FORMAT = 1
GENERATOR_FILE = "generator.safetensors"
MODEL_FILE = "model.json"
ALL_CLASSES = "all classes"
"""What the one model of a conditional run is called."""
BATCH = 16

_NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "dcgan": (dcgan.DCGANConfig, dcgan.Generator),
    "conditional": (conditional.ConditionalConfig, conditional.ConditionalGenerator),
}
_KEYS: dict[str, type] = {
    "architecture": str,
    "network": dict,
    "preset": str,
    "classes": list,
    "image_size": int,
    "lineage": dict,
    "metrics": dict,
    "weights_sha256": str,
}


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A generator in evaluation mode, and what ``model.json`` says of it."""

    architecture: str
    preset: str
    """The config that it was trained with."""
    classes: tuple[str, ...]
    image_size: int
    lineage: dict[str, Any]
    """The digest of the real set that it has learnt from, its ancestors and the split."""
    metrics: dict[str, Any]
    weights_sha256: str
    network: nn.Module

    @property
    def z_dim(self) -> int:
        return int(self.network.cfg.z_dim)  # type: ignore[union-attr, arg-type]

    def label(self, class_name: str) -> int:
        """The class's place among those of the model. Raises UserError for a class that it does not make."""
        if class_name not in self.classes:
            raise UserError(
                f"{class_name}: this generator does not make it{nearest(class_name, self.classes)}"
            )
        return self.classes.index(class_name)

    @torch.no_grad()
    def images(self, class_name: str, z: np.ndarray) -> np.ndarray:
        """z [n, z_dim] float32 -> [n, H, W] uint8, on the device where the network is.

        An image's bytes do not depend on how many others are made with it. Raises UserError for a class that the
        model does not make, ValueError for another shape of z.
        """
        label = self.label(class_name)
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z is {list(z.shape)}, but this generator takes [n, {self.z_dim}]")
        device = next(self.network.parameters()).device
        labels = torch.full((BATCH,), label, dtype=torch.int64, device=device)
        # Always as many at once: kernels, and so the last bits of floats, depend on the batch's size.
        padded = np.zeros((-(-len(z) // BATCH) * BATCH, self.z_dim), np.float32)
        padded[: len(z)] = z
        out = np.empty((len(padded), self.image_size, self.image_size), np.uint8)
        for first in range(0, len(padded), BATCH):
            some = torch.from_numpy(padded[first : first + BATCH]).to(device)
            out[first : first + BATCH] = to_uint8(self.network(some, labels))[:, 0].cpu().numpy()
        return out[: len(z)]

    def sample(self, class_name: str, count: int, seed: int = 0) -> np.ndarray:
        """``count`` images [count, H, W] uint8, the first of the endless row that belongs to (seed, class):
        more of them begin with the same ones. Raises UserError as ``images`` does, and for a count below 1."""
        if count < 1:
            raise UserError(f"{count} images of {class_name}: ask for 1 or more")
        return self.images(class_name, self.z(seed, f"sample {class_name}", range(count)))

    def z(self, seed: int, purpose: str, positions: range) -> np.ndarray:
        """[len(positions), z_dim] float32 in [-1, 1), each a function of (seed, purpose, position) alone."""
        whole = -(-self.z_dim // 4) * 4  # numbers come in fours
        return uniform(seed, purpose, positions, whole)[:, : self.z_dim]


def export_generator(
    folder: Path,
    generator: nn.Module,
    *,
    architecture: str,
    preset: str,
    classes: Sequence[str],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a generator's weights and ``model.json``, that last; returns the digest of the weights.

    ``generator``: the network itself, out of any wrapper; its ``cfg`` is what builds it again. ``lineage``: as
    cxrdist.data.shards.lineage.made_from gives it. ``metrics``: finite figures. Raises OSError.
    """
    save_weights(folder / GENERATOR_FILE, generator)
    cfg: Any = generator.cfg
    digest = weights_sha256(generator)
    model = {
        "format": FORMAT,
        "architecture": architecture,
        "network": dataclasses.asdict(cfg),
        "preset": preset,
        "classes": list(classes),
        "image_size": cfg.size,
        "lineage": dict(lineage),
        "metrics": dict(metrics),
        "weights_sha256": digest,
    }
    write_atomic(folder / MODEL_FILE, canonical_json(model))
    return digest


def load_generator(folder: Path | str) -> TrainedGenerator:
    """The generator that ``export_generator`` wrote into a folder, on the CPU.

    Raises UserError where a file is missing, is of another format, does not fit the other, or has been changed
    since. Nothing is unpickled, and nothing larger than the file of the weights is built.
    """
    folder = Path(folder)
    model = _read_model(folder)
    where = folder / MODEL_FILE
    try:
        with torch.device("meta"):  # shapes without memory, whatever numbers stand there
            planned = network_of(model["architecture"], model["network"]).state_dict()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_shapes(folder / GENERATOR_FILE, {name: list(weights.shape) for name, weights in planned.items()})
    network = network_of(model["architecture"], model["network"])
    cfg: Any = network.cfg
    if cfg.size != model["image_size"]:
        raise UserError(f"{where}: image_size {model['image_size']}, but its network makes {cfg.size} px")
    if getattr(cfg, "classes", 1) != len(model["classes"]):
        raise UserError(
            f"{where}: {len(model['classes'])} classes, but its network is of {getattr(cfg, 'classes', 1)}"
        )
    load_weights(folder / GENERATOR_FILE, network)
    if weights_sha256(network) != model["weights_sha256"]:
        raise UserError(
            f"{folder / GENERATOR_FILE}: changed since it was trained (its digest is not the one in {MODEL_FILE}): "
            "restore it, or train it again"
        )
    return TrainedGenerator(
        architecture=model["architecture"],
        preset=model["preset"],
        classes=tuple(model["classes"]),
        image_size=model["image_size"],
        lineage=model["lineage"],
        metrics=model["metrics"],
        weights_sha256=model["weights_sha256"],
        network=network.eval().requires_grad_(False),
    )


def network_of(architecture: str, network: Mapping[str, Any]) -> nn.Module:
    """The generator of a kind and config, its weights still arbitrary. Raises UserError for a kind that there is
    not, and for a config that is none of that kind."""
    if architecture not in _NETWORKS:
        raise UserError(f"architecture {architecture!r} is not known{nearest(architecture, _NETWORKS)}")
    config_type, network_type = _NETWORKS[architecture]
    try:
        built = network_type(_config_of(config_type, network))
    except (UserError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"not a network that {architecture} can be ({_first_line(error)})") from None
    return built


def _config_of(kind: type, values: Mapping[str, Any]) -> Any:
    """A config dataclass from what JSON holds. Raises TypeError for another type than the field's."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise TypeError(f"{name} is no setting of it")
        hint = hints[name]
        if get_origin(hint) is Literal:
            fits = value in get_args(hint)
        else:
            fits = type(value) is hint or (hint is float and type(value) is int)
        if not fits:
            raise TypeError(f"{name} is {value!r}")
    return kind(**values)


def _read_model(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    if not path.exists() and (models := sorted(p.parent.name for p in folder.glob(f"*/{MODEL_FILE}"))):
        raise UserError(
            f"{folder}: holds several generators: name the folder of one of them ({', '.join(models)})"
        )
    model = read_json(path)
    if not isinstance(model, dict) or type(model.get("format")) is not int:
        raise UserError(f"{path}: not the description of a generator; train it again")
    if model["format"] != FORMAT:
        raise UserError(f"{path}: format {model['format']}, and this version of cxrdist reads {FORMAT}")
    for key, kind in _KEYS.items():
        if type(model.get(key)) is not kind:
            raise UserError(
                f"{path}: {key} is missing or is no {kind.__name__}; restore it, or train it again"
            )
    classes = model["classes"]
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) < len(classes):
        raise UserError(f"{path}: classes are not different names; restore it, or train it again")
    lineage = model["lineage"]
    ancestors = lineage.get("real_ancestors", [])
    told = [
        lineage.get("real_digest"),
        lineage.get("split"),
        *(ancestors if isinstance(ancestors, list) else [None]),
    ]
    if not all(isinstance(one, str) for one in told):
        raise UserError(
            f"{path}: lineage does not say what it has learnt from; restore it, or train it again"
        )
    if not re.fullmatch("[0-9a-f]{64}", model["weights_sha256"]):
        raise UserError(f"{path}: weights_sha256 is no SHA-256; restore it, or train it again")
    return model


def _check_shapes(path: Path, expected: Mapping[str, list[int]]) -> None:
    """Names and shapes of a safetensors file, from its head alone. Raises UserError where they are others."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again") from None
    except OSError:
        raise
    except Exception as error:  # its own kind of error, and others on foreign bytes
        raise UserError(
            f"{path}: not a safetensors file ({_first_line(error)}); train the model again"
        ) from None
    if found != dict(expected):
        name = min(k for k in {*found, *expected} if found.get(k) != expected.get(k))
        raise UserError(
            f"{path}: not the weights of the network in {MODEL_FILE} ({name} is {found.get(name, 'missing')}, not "
            f"{expected.get(name, 'there')}): restore both, or train the model again"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
