"""What exported models share: ``model.json`` beside the weights, the checks of both, and the sets that a model fits.

<weights>.safetensors   weights and buffers
model.json              network, classes, lineage, metrics, digest of the weights; written last
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safetensors import safe_open
from torch import nn

from cxrdist.errors import UserError
from cxrdist.files import SHA256, canonical_json, read_json, write_atomic
from cxrdist.run.checkpoint import load_weights, save_weights, weights_sha256

if TYPE_CHECKING:
    from cxrdist.data.shards.shard_set import ShardSet

MODEL_FILE = "model.json"
RESTORE = "restore the file, or train the model again"
_KEYS: dict[str, type] = {
    "network": dict,
    "classes": list,
    "image_size": int,
    "lineage": dict,
    "metrics": dict,
    "weights_sha256": str,
}


@dataclass(frozen=True)
class Kind:
    """A kind of exported model."""

    name: str
    """As in error messages, and under ``kind`` in ``model.json``; generators have no such field."""
    weights_file: str
    formats: tuple[int, ...]
    """The formats of ``model.json`` that this version reads."""
    keys: Mapping[str, type]
    """Fields of ``model.json`` beside those that all kinds have."""


GENERATOR = Kind("generator", "generator.safetensors", (1, 2), {"architecture": str, "preset": str})
CLASSIFIER = Kind("classifier", "model.safetensors", (1,), {})


def write_model(folder: Path, kind: Kind, network: nn.Module, description: Mapping[str, Any]) -> str:
    """Write the weights, then ``model.json``: the description and the SHA-256 of the weights, which is returned.

    Raises OSError.
    """
    save_weights(folder / kind.weights_file, network)
    digest = weights_sha256(network)
    write_atomic(folder / MODEL_FILE, canonical_json({**description, "weights_sha256": digest}))
    return digest


def read_model(folder: Path, kind: Kind) -> dict[str, Any]:
    """The content of ``model.json``, whose fields have the right types. Raises UserError otherwise, and for a model
    of another kind or of a format of another version."""
    path = folder / MODEL_FILE
    if not path.exists() and (models := sorted(p.parent.name for p in folder.glob(f"*/{kind.weights_file}"))):
        raise UserError(
            f"{folder} contains several {kind.name}s: name the folder of one of them ({', '.join(models)})"
        )
    model = read_json(path)
    if not isinstance(model, dict) or type(model.get("format")) is not int:
        raise UserError(f"{path}: not the {MODEL_FILE} of a {kind.name}; {RESTORE}")
    found = model.get("kind", GENERATOR.name)
    if found != kind.name:
        raise UserError(f"{path}: describes a {found!s:.40}; give the folder of a {kind.name}")
    if model["format"] not in kind.formats:
        reads = " to ".join(str(version) for version in sorted({kind.formats[0], kind.formats[-1]}))
        raise UserError(
            f"{path}: format {model['format']}, but this version of cxrdist reads "
            f"format{'s' * (len(kind.formats) > 1)} {reads}"
        )
    for key, type_ in {**kind.keys, **_KEYS}.items():
        if type(model.get(key)) is not type_:
            raise UserError(f"{path}: {key} is missing or not a {type_.__name__}; {RESTORE}")
    classes = model["classes"]
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) < len(classes):
        raise UserError(f"{path}: classes must be distinct, non-empty names; {RESTORE}")
    lineage = model["lineage"]
    ancestors = lineage.get("real_ancestors", [])
    fields = [
        lineage.get("real_digest"),
        lineage.get("split"),
        *(ancestors if isinstance(ancestors, list) else [None]),
    ]
    if not all(isinstance(field, str) for field in fields):
        raise UserError(f"{path}: lineage does not name the set and split of the training images; {RESTORE}")
    if not SHA256.fullmatch(model["weights_sha256"]):
        raise UserError(f"{path}: weights_sha256 is not a SHA-256; {RESTORE}")
    return model


def check_shapes(folder: Path, kind: Kind, planned: nn.Module) -> None:
    """Compare the header of the weights file with the weights of ``planned``, which may lie on the meta device.

    Raises UserError if names or shapes differ, or the file is not safetensors.
    """
    path = folder / kind.weights_file
    expected = {name: list(weights.shape) for name, weights in planned.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again") from None
    except OSError:
        raise
    except Exception as error:  # safetensors raises its own type, and others for arbitrary bytes
        raise UserError(
            f"{path}: not a safetensors file ({first_line(error)}); train the model again"
        ) from None
    if found != expected:
        name = min(k for k in {*found, *expected} if found.get(k) != expected.get(k))
        raise UserError(
            f"{path}: not the weights of the network in {MODEL_FILE} ({name}: {found.get(name, 'missing')}, expected "
            f"{expected.get(name, 'none')}): restore both files, or train the model again"
        )


def load_exported(folder: Path, kind: Kind, network: nn.Module, expected_sha256: str) -> nn.Module:
    """Load the weights into the network; returns it in evaluation mode, without gradients. Raises UserError if they
    do not have the digest of ``model.json``."""
    path = folder / kind.weights_file
    load_weights(path, network)
    if weights_sha256(network) != expected_sha256:
        raise UserError(
            f"{path}: changed since it was exported (its SHA-256 is not the one in {MODEL_FILE}): "
            "restore the file, or train the model again"
        )
    return network.eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters, or its type if it has none."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


class Described(Protocol):
    """An exported model, as far as a set is compared with it."""

    @property
    def lineage(self) -> dict[str, Any]: ...

    @property
    def image_size(self) -> int: ...


@dataclass(frozen=True)
class Mismatch:
    """Why a model must not be used with a set of real images."""

    kind: Literal["lineage", "image size"]
    """lineage: it was trained on another set, or on another split than train."""
    model: str
    """Digest of the set that the model was trained on, or its image size in pixels."""
    shards: str
    """The same of the set."""


def mismatch_with(model: Described, shards: ShardSet) -> Mismatch | None:
    """None if the model was trained on the train split of ``shards``, or of a set of its family, at its image
    size."""
    # Loading a model needs no image codec, which a shard set imports.
    from cxrdist.data.shards.lineage import descends_from

    if not descends_from(model.lineage, shards):
        return Mismatch("lineage", model.lineage["real_digest"], shards.digest)
    if model.image_size != shards.image_size:
        return Mismatch("image size", str(model.image_size), str(shards.image_size))
    return None
