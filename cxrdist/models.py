"""Exported generators: written by training, loaded and sampled without its code or state.

    from cxrdist.models import load_generator
    generator = load_generator("runs/gan/normal")
    images = generator.sample("Normal", 16)  # [16, H, W] uint8

generator.safetensors   weights and buffers
model.json              architecture and config of the network, classes, lineage, metrics, digest of the weights
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from cxrdist import counter_rng
from cxrdist.data.transforms import to_uint8
from cxrdist.errors import UserError, nearest
from cxrdist.files import SHA256, canonical_json, read_json, write_atomic
from cxrdist.nets import conditional, conditional_v1, dcgan
from cxrdist.run.checkpoint import load_weights, save_weights, weights_sha256
from cxrdist.seeds import derive, uniform

if TYPE_CHECKING:
    from cxrdist.data.shards.shard_set import ShardSet

FORMAT = 2
GENERATOR_FILE = "generator.safetensors"
MODEL_FILE = "model.json"
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
_RESTORE = "restore the file, or train the model again"
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
    save_weights(folder / GENERATOR_FILE, generator)
    cfg: Any = generator.cfg
    digest = weights_sha256(generator)
    model = {
        "format": version,
        "architecture": architecture,
        "network": dataclasses.asdict(cfg),
        "preset": preset,
        "classes": list(classes),
        "image_size": cfg.size,
        "lineage": dict(lineage),
        "metrics": dict(metrics),
        "weights_sha256": digest,
    }
    if getattr(cfg, "classes", 1) == len(classes) + 1:
        model["unlabelled"] = True
    write_atomic(folder / MODEL_FILE, canonical_json(model))
    return digest


def load_generator(folder: Path | str) -> TrainedGenerator:
    """Load the generator that ``export_generator`` wrote to a folder, on the CPU.

    Raises UserError if a file is missing, has another format, was changed since the export, or does not match the
    other file. Nothing is unpickled, and no network larger than the file of its weights is allocated.
    """
    folder = Path(folder)
    model = _read_model(folder)
    where = folder / MODEL_FILE
    try:
        with torch.device("meta"):  # allocates no memory, however large the sizes in the file are
            planned = network_of(model["architecture"], model["network"], model["format"]).state_dict()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_shapes(folder / GENERATOR_FILE, {name: list(weights.shape) for name, weights in planned.items()})
    network = network_of(model["architecture"], model["network"], model["format"])
    cfg: Any = network.cfg
    if cfg.size != model["image_size"]:
        raise UserError(f"{where}: image_size {model['image_size']}, but its network makes {cfg.size} px")
    # Trained on unlabelled images too, the network has one label more than it has classes to draw.
    if getattr(cfg, "classes", 1) != len(model["classes"]) + (model.get("unlabelled") is True):
        raise UserError(
            f"{where}: {len(model['classes'])} classes, but its network has {getattr(cfg, 'classes', 1)}"
        )
    load_weights(folder / GENERATOR_FILE, network)
    if weights_sha256(network) != model["weights_sha256"]:
        raise UserError(
            f"{folder / GENERATOR_FILE}: changed since it was exported (its SHA-256 is not the one in {MODEL_FILE}): "
            "restore the file, or train the model again"
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


@dataclass(frozen=True)
class Mismatch:
    """Why a generator must not be used with a set of real images."""

    kind: Literal["lineage", "image size"]
    """lineage: it was trained on another set, or on another split than train."""
    generator: str
    """Digest of the set that the generator was trained on, or its image size in pixels."""
    shards: str
    """The same of the set."""


def mismatch_with(generator: TrainedGenerator, shards: ShardSet) -> Mismatch | None:
    """None if the generator was trained on the train split of ``shards``, or of a set of its family, at its image
    size."""
    # Loading a generator needs no image codec, which a shard set imports.
    from cxrdist.data.shards.lineage import descends_from

    if not descends_from(generator.lineage, shards):
        return Mismatch("lineage", generator.lineage["real_digest"], shards.digest)
    if generator.image_size != shards.image_size:
        return Mismatch("image size", str(generator.image_size), str(shards.image_size))
    return None


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
        built = network_type(_config_of(config_type, network))
    except (UserError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"invalid config of a {architecture} ({_first_line(error)})") from None
    return built


def _config_of(kind: type, values: Mapping[str, Any]) -> Any:
    """A config dataclass from parsed JSON. Raises TypeError for an unknown field or a value of another type."""
    hints = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    typed = dict(values)
    for name, value in values.items():
        if name not in hints:
            raise TypeError(f"unknown field {name}")
        hint = hints[name]
        if get_origin(hint) is Literal:
            fits = value in get_args(hint)
        elif get_origin(hint) is tuple:
            fits = type(value) is list and all(type(number) is get_args(hint)[0] for number in value)
            typed[name] = tuple(value) if fits else value
        else:
            fits = type(value) is hint or (hint is float and type(value) is int)
        if not fits:
            raise TypeError(f"{name} is {value!r}")
    return kind(**typed)


def _read_model(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    if not path.exists() and (models := sorted(p.parent.name for p in folder.glob(f"*/{MODEL_FILE}"))):
        raise UserError(
            f"{folder} contains several generators: name the folder of one of them ({', '.join(models)})"
        )
    model = read_json(path)
    if not isinstance(model, dict) or type(model.get("format")) is not int:
        raise UserError(f"{path}: not the {MODEL_FILE} of a generator; {_RESTORE}")
    if model["format"] not in _NETWORKS:
        raise UserError(
            f"{path}: format {model['format']}, but this version of cxrdist reads formats 1 to {FORMAT}"
        )
    for key, kind in _KEYS.items():
        if type(model.get(key)) is not kind:
            raise UserError(f"{path}: {key} is missing or not a {kind.__name__}; {_RESTORE}")
    classes = model["classes"]
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) < len(classes):
        raise UserError(f"{path}: classes must be distinct, non-empty names; {_RESTORE}")
    lineage = model["lineage"]
    ancestors = lineage.get("real_ancestors", [])
    fields = [
        lineage.get("real_digest"),
        lineage.get("split"),
        *(ancestors if isinstance(ancestors, list) else [None]),
    ]
    if not all(isinstance(field, str) for field in fields):
        raise UserError(f"{path}: lineage does not name the set and split of the training images; {_RESTORE}")
    if not SHA256.fullmatch(model["weights_sha256"]):
        raise UserError(f"{path}: weights_sha256 is not a SHA-256; {_RESTORE}")
    return model


def _check_shapes(path: Path, expected: Mapping[str, list[int]]) -> None:
    """Compare the names and shapes in the header of a safetensors file. Raises UserError if they are not
    ``expected``."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again") from None
    except OSError:
        raise
    except Exception as error:  # safetensors raises its own type, and others for arbitrary bytes
        raise UserError(
            f"{path}: not a safetensors file ({_first_line(error)}); train the model again"
        ) from None
    if found != dict(expected):
        name = min(k for k in {*found, *expected} if found.get(k) != expected.get(k))
        raise UserError(
            f"{path}: not the weights of the network in {MODEL_FILE} ({name}: {found.get(name, 'missing')}, expected "
            f"{expected.get(name, 'none')}): restore both files, or train the model again"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
