"""Classifiers as ONNX files: they compute what torch computes, and are checked before they exist."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cxrdist.errors import UserError
from cxrdist.models import TrainedClassifier
from cxrdist.models.onnx import export_onnx
from cxrdist.nets.classifiers import NetworkConfig, build_network, dcnn_config, init_network
from cxrdist.nets.dcnn import DCNNConfig
from cxrdist.run.checkpoint import weights_sha256

TINY = dcnn_config(DCNNConfig(size=18, classes=3, widths=(4,), hidden=8, kernel=3))


def trained(config: NetworkConfig, network: nn.Module | None = None) -> TrainedClassifier:
    if network is None:
        network = build_network(config)
        init_network(network, config, 3)
    return TrainedClassifier(
        config=config,
        classes=("Normal", "Pleural Effusion", "Épanchement"),
        lineage={},
        metrics={},
        weights_sha256=weights_sha256(network),
        network=network.eval().requires_grad_(False),
    )


@pytest.mark.parametrize("config", [TINY, NetworkConfig(network="resnet18", image_size=32, classes=3)])
def test_an_onnx_file_computes_the_probabilities_of_torch(tmp_path: Path, config: NetworkConfig) -> None:
    classifier, path = trained(config), tmp_path / "model.onnx"
    difference = export_onnx(classifier, path)
    assert 0 <= difference < 1e-4 and [found.name for found in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size = config.image_size
    for count in (1, 5):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 1, size, size), np.uint8)
        (found,) = session.run(None, {"pixels": pixels})
        with torch.no_grad():
            expected = classifier.network(torch.from_numpy(pixels).float() / 127.5 - 1).softmax(1).numpy()
        assert found.dtype == np.float32 and found.shape == (count, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map == {
        "classes": json.dumps(["Normal", "Pleural Effusion", "Épanchement"]),
        "image_size": str(size),
        "weights_sha256": classifier.weights_sha256,
    }


def test_an_onnx_file_is_a_function_of_the_weights_and_names_no_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(trained(TINY), tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    assert b".py" not in data and str(Path.cwd()).encode() not in data


class Own(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.head, self.way = nn.Linear(4, 3), way

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(images.flatten(1))
        if self.way == "random":
            return logits + torch.rand_like(logits)
        if self.way == "branch" and logits.sum() > 0:
            return -logits
        return logits


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("random", r"model.onnx: not written, since probabilities in ONNX differ from torch's by up to \d"),
        ("branch", "torch cannot export my_net:build to ONNX: "),
    ],
)
def test_a_network_that_onnx_cannot_repeat_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], way: str, message: str
) -> None:
    config = NetworkConfig(network="my_net:build", image_size=2, classes=3)
    with pytest.raises(UserError, match=message) as caught:
        export_onnx(trained(config, Own(way)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir()) and len(str(caught.value)) < 500
    assert capfd.readouterr().err == ""
    assert export_onnx(trained(config, Own("plain")), tmp_path / "model.onnx") < 1e-6


def test_a_file_that_is_there_stays_if_the_new_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")

    def other(_: Any, __: Any, pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 3), np.nan, np.float32)

    monkeypatch.setattr("cxrdist.models.onnx._run", other)
    with pytest.raises(UserError, match=r"differ from torch's by up to nan \(allowed: less than 1e-04\)"):
        export_onnx(trained(TINY), path)
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install 'cxrdist\[onnx\]'"):
        export_onnx(trained(TINY), tmp_path / "model.onnx")
