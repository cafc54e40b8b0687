"""Exported classifiers: written by training, loaded without its code or state; their probabilities and features.

model.safetensors   weights and buffers
model.json          kind, config of the network, classes, lineage, metrics, weights_sha256
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxrdist.data.transforms import to_float
from cxrdist.errors import UserError
from cxrdist.models.description import (
    CLASSIFIER,
    MODEL_FILE,
    RESTORE,
    check_shapes,
    first_line,
    load_exported,
    read_model,
    write_model,
)
from cxrdist.nets.classifiers import NetworkConfig, build_network, features_of
from cxrdist.nets.configs import config_of

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A classifier in evaluation mode, with the contents of its ``model.json``."""

    config: NetworkConfig
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    lineage: dict[str, Any]
    """That of cxrdist.data.shards.lineage.made_from; ``synthetic_digest``: digest of the synthetic set, or null;
    ``other_lineage_allowed``: whether that set's generator may have learned from other real images."""
    metrics: dict[str, Any]
    weights_sha256: str
    network: nn.Module

    @property
    def image_size(self) -> int:
        """Side of the square image in pixels."""
        return self.config.image_size

    @property
    def fit(self) -> str:
        """How its training images were made square: pad or crop (cxrdist.data.imaging.radiograph)."""
        return str(self.lineage.get("fit", "pad"))

    def probabilities(
        self, pixels: np.ndarray, *, batch: int = BATCH, device: torch.device | str | None = None
    ) -> np.ndarray:
        """[N, H, W] uint8 -> softmax probabilities [N, classes] float32.

        ``device``: the network is moved there; None: it stays where it is. The last bits of a row may depend on the
        size of its batch. Raises ValueError for another shape or type of pixels.
        """
        return self._each_batch(pixels, lambda images: self.network(images).float().softmax(1), batch, device)

    def features(
        self, pixels: np.ndarray, *, batch: int = BATCH, device: torch.device | str | None = None
    ) -> np.ndarray:
        """[N, H, W] uint8 -> penultimate features [N, D] float32 (cxrdist.nets.classifiers.features_of); otherwise as
        ``probabilities``."""
        return self._each_batch(
            pixels, lambda images: features_of(self.network, images).float(), batch, device
        )

    @torch.no_grad()
    def _each_batch(
        self,
        pixels: np.ndarray,
        compute: Callable[[Tensor], Tensor],
        batch: int,
        device: torch.device | str | None,
    ) -> np.ndarray:
        size = self.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (size, size):
            raise ValueError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, {size}, {size}]"
            )
        if device is not None:
            self.network.to(device)
        here = next(self.network.parameters()).device
        found = []
        for first in range(0, max(len(pixels), 1), batch):
            some = torch.tensor(np.ascontiguousarray(pixels[first : first + batch]), device=here)
            found.append(compute(to_float(some[:, None])).cpu())
        return torch.cat(found).numpy()


def export_classifier(
    folder: Path,
    network: nn.Module,
    *,
    config: NetworkConfig,
    classes: Sequence[str],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> str:
    """Write a classifier's weights, then ``model.json``; returns the SHA-256 of the weights.

    ``network``: the plain module, not its DDP or DeepSpeed wrapper, built from ``config``. ``lineage``: as in
    TrainedClassifier. ``metrics``: JSON values with finite numbers. Raises OSError, and ValueError if the config has
    another number of classes.
    """
    if config.classes != len(classes):
        raise ValueError(f"{len(classes)} classes, but the network has {config.classes}")
    description = {
        "kind": CLASSIFIER.name,
        "format": CLASSIFIER.formats[-1],
        "network": dataclasses.asdict(config),
        "classes": list(classes),
        "image_size": config.image_size,
        "lineage": dict(lineage),
        "metrics": dict(metrics),
    }
    return write_model(folder, CLASSIFIER, network, description)


def load_classifier(folder: Path | str, *, allow_code: bool = False) -> TrainedClassifier:
    """Load the classifier that ``export_classifier`` wrote to a folder, on the CPU.

    ``allow_code``: import and call the user's function that the folder names as its network. Raises UserError if a
    file is missing, has another format, was changed since the export, or does not match the other file, and if the
    folder names code that is not allowed. Nothing is unpickled, and no network larger than the file of its weights is
    allocated, unless the allowed code does so.
    """
    folder = Path(folder)
    model = read_model(folder, CLASSIFIER)
    where = folder / MODEL_FILE
    _check_lineage(where, model["lineage"])
    try:
        config = config_of(NetworkConfig, model["network"])
    except (TypeError, UserError) as error:
        raise UserError(f"{where}: invalid network ({first_line(error)}); {RESTORE}") from None
    if config.image_size != model["image_size"]:
        raise UserError(
            f"{where}: image_size {model['image_size']}, but its network takes {config.image_size} px"
        )
    if config.classes != len(model["classes"]):
        raise UserError(f"{where}: {len(model['classes'])} classes, but its network has {config.classes}")
    network = _network_of(folder, config, allow_code)
    return TrainedClassifier(
        config=config,
        classes=tuple(model["classes"]),
        lineage=model["lineage"],
        metrics=model["metrics"],
        weights_sha256=model["weights_sha256"],
        network=load_exported(folder, CLASSIFIER, network, model["weights_sha256"]),
    )


def _network_of(folder: Path, config: NetworkConfig, allow_code: bool) -> nn.Module:
    """The network that a folder describes, whose weights have the names and shapes of its weights file."""
    where = folder / MODEL_FILE
    if config.is_own_code and not allow_code:
        raise UserError(
            f"{where}: its network is code of its own, {config.network}: if you trust it, run it with --allow-code "
            "(in Python: allow_code=True)"
        )
    try:
        # The meta device allocates nothing, however large the sizes in the file are. User code may fail there.
        with torch.device("cpu" if config.is_own_code else "meta"):
            planned = build_network(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    check_shapes(folder, CLASSIFIER, planned)
    return planned if config.is_own_code else build_network(config)


def _check_lineage(where: Path, lineage: Mapping[str, Any]) -> None:
    synthetic = lineage.get("synthetic_digest", 0)
    if not isinstance(synthetic, str | None) or type(lineage.get("other_lineage_allowed")) is not bool:
        raise UserError(f"{where}: lineage does not say which synthetic images it was trained on; {RESTORE}")
