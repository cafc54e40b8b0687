"""A trained classifier as one ONNX file, which needs neither torch nor this package.

Input ``pixels`` [batch, 1, H, W] uint8, output ``probabilities`` [batch, classes] float32. Normalisation and softmax
are inside: a program that scales grey values in another way would get wrong probabilities without an error.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxrdist.data.transforms import to_float
from cxrdist.errors import UserError
from cxrdist.files import write_atomic
from cxrdist.models.classifiers import TrainedClassifier
from cxrdist.models.description import first_line
from cxrdist.seeds import uniform

CHECKED_IMAGES = 8
TOLERANCE = 1e-4
"""Largest difference of a probability between torch and the ONNX file."""


class _FromPixels(nn.Module):
    """[B, 1, H, W] uint8 -> probabilities [B, classes] float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(to_float(pixels)).float().softmax(1)


def export_onnx(trained: TrainedClassifier, path: Path) -> float:
    """Write a classifier to an ONNX file; returns the largest difference of a probability between it and torch.

    The file's metadata have ``classes`` (a JSON list, in the order of the output), ``image_size`` in pixels, and
    ``weights_sha256`` of the classifier's folder. torch's exporter is used (torch.onnx, with torch.export). Before
    the file is written, onnxruntime computes the probabilities of CHECKED_IMAGES random images from its content.

    Raises UserError, and writes nothing, if a package is missing, torch cannot export the network, or a probability
    differs by TOLERANCE or more.
    """
    data = _model_bytes(trained)
    pixels = _random_pixels(trained.image_size)
    difference = float(np.abs(_run(path, data, pixels) - trained.probabilities(pixels[:, 0])).max())
    if not difference < TOLERANCE:  # NaN is no success
        raise UserError(
            f"{path}: not written, since probabilities in ONNX differ from torch's by up to {difference:.1e} "
            f"(allowed: less than {TOLERANCE:.0e}); does {trained.config.network} depend on the size of a batch or "
            "on random numbers?"
        )
    write_atomic(path, data)
    return difference


def _model_bytes(trained: TrainedClassifier) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'cxrdist[onnx]'") from None
    device = next(trained.network.parameters()).device
    two = torch.from_numpy(_random_pixels(trained.image_size)[:2]).to(device)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                _FromPixels(trained.network).eval(),
                (two,),
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exporter raises many types
        cause = error.__cause__ or error
        raise UserError(
            f"torch cannot export {trained.config.network} to ONNX: {first_line(cause)}"
        ) from error
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the source lines of every node, with paths of this machine
    model = program.model_proto
    onnx.helper.set_model_props(
        model,
        {
            "classes": json.dumps(trained.classes),
            "image_size": str(trained.image_size),
            "weights_sha256": trained.weights_sha256,
        },
    )
    return model.SerializeToString()


def _run(path: Path, data: bytes, pixels: np.ndarray) -> np.ndarray:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"pixels": pixels})[0]
    except Exception as error:  # onnxruntime has its own types
        raise UserError(
            f"{path}: not written, since onnxruntime cannot run it: {first_line(error)}"
        ) from error


def _random_pixels(size: int) -> np.ndarray:
    """[CHECKED_IMAGES, 1, size, size] uint8, always the same."""
    width = -(-size * size // 4) * 4  # uniform() draws multiples of four numbers
    drawn = uniform(0, "onnx", range(CHECKED_IMAGES), width)[:, : size * size]
    return ((drawn + 1) * 128).astype(np.uint8).reshape(CHECKED_IMAGES, 1, size, size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that it does not need, and its listing of a graph that it cannot
    export: torch logs them and prints them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
