"""Exported classifiers: what is written, what comes back, and what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.models import (
    Mismatch,
    export_classifier,
    export_generator,
    load_classifier,
    load_generator,
    mismatch_with,
)
from cxrdist.nets.classifiers import NetworkConfig, build_network, dcnn_config, init_network
from cxrdist.nets.dcgan import DCGANConfig, Generator
from cxrdist.nets.dcnn import DCNN, DCNNConfig

LINEAGE = {
    "real_digest": "a" * 64,
    "real_ancestors": ["b" * 64],
    "split": "train",
    "synthetic_digest": "c" * 64,
    "other_lineage_allowed": False,
}
METRICS = {"val": {"accuracy": 0.5, "per_class": {"A": 0.25}}}
CLASSES = ["A", "B", "C"]
TINY = dcnn_config(DCNNConfig(size=16, classes=3, widths=(4, 6), hidden=8, kernel=3))
RESNET = NetworkConfig(network="resnet18", image_size=16, classes=3)
OWN = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("was-run").touch()

class Shared(nn.Module):
    def __init__(self, image_size, classes):
        super().__init__()
        self.first = nn.Linear(image_size**2, image_size**2)
        self.second = self.first
        self.head = nn.Linear(image_size**2, classes)

    def forward(self, images):
        return self.head(self.second(self.first(images.flatten(1))))
"""


def exported(folder: Path, config: NetworkConfig = TINY, seed: int = 3) -> nn.Module:
    network = build_network(config)
    init_network(network, config, seed)
    export_classifier(folder, network, config=config, classes=CLASSES, lineage=LINEAGE, metrics=METRICS)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    exported(tmp_path / "cls")
    return tmp_path / "cls"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def network(name: str = "dcnn", **changes: Any) -> dict[str, Any]:
    options = TINY.options | changes if name == "dcnn" else changes
    return {"network": {"network": name, "image_size": 16, "classes": 3, "options": options}}


def pixels(count: int = 5, size: int = 16) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, size, size), np.uint8)


def test_the_digest_and_the_description_of_an_export(tmp_path: Path) -> None:
    made = DCNN(DCNNConfig(size=2, classes=2, widths=(1,), hidden=0, kernel=1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(0.5)
    digest = export_classifier(
        tmp_path,
        made,
        config=dcnn_config(made.cfg),
        classes=["A", "B"],
        lineage=LINEAGE,
        metrics=METRICS,
    )
    half = np.float32(0.5).tobytes()
    expected = hashlib.sha256(
        b"mlp.0.bias torch.float32 (2,)\n" + 2 * half
        + b"mlp.0.weight torch.float32 (2, 1)\n" + 2 * half
        + b"stages.0.0.bias torch.float32 (1,)\n" + half
        + b"stages.0.0.weight torch.float32 (1, 1, 1, 1)\n" + half
    )  # fmt: skip
    assert digest == expected.hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    options = {"widths": [1], "hidden": 0, "kernel": 1, "bias": 0.1}
    assert json.loads((tmp_path / "model.json").read_text()) == {
        "kind": "classifier",
        "format": 1,
        "network": {"network": "dcnn", "image_size": 2, "classes": 2, "options": options},
        "classes": ["A", "B"],
        "image_size": 2,
        "lineage": LINEAGE,
        "metrics": METRICS,
        "weights_sha256": digest,
    }


def test_the_description_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cxrdist.models.description.write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(UserError, match=r"model.json: no such file"):
        load_classifier(tmp_path)


def test_the_number_of_classes_is_that_of_the_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 classes, but the network has 3"):
        export_classifier(
            tmp_path, build_network(TINY), config=TINY, classes=["A", "B"], lineage=LINEAGE, metrics={}
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [TINY, RESNET], ids=["dcnn", "resnet18"])
def test_a_classifier_comes_back_bit_for_bit(tmp_path: Path, config: NetworkConfig) -> None:
    made = exported(tmp_path, config).eval()
    state = torch.get_rng_state()
    found = load_classifier(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.config, found.classes, found.image_size) == (config, ("A", "B", "C"), 16)
    assert (found.lineage, found.metrics) == (LINEAGE, METRICS)
    assert not found.network.training and not any(p.requires_grad for p in found.network.parameters())
    for name, weights in made.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weights), name
    images = torch.from_numpy(pixels()).float()[:, None] / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_array_equal(found.probabilities(pixels()), made(images).softmax(1).numpy())


def test_probabilities_and_features_of_batches(folder: Path) -> None:
    found = load_classifier(folder)
    probabilities, features = found.probabilities(pixels()), found.features(pixels())
    assert (probabilities.shape, probabilities.dtype) == ((5, 3), np.float32)
    assert (features.shape, features.dtype) == ((5, 6 * 4 * 4), np.float32)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert len({row.tobytes() for row in probabilities}) == 5
    for batch in (1, 2):
        np.testing.assert_allclose(found.probabilities(pixels(), batch=batch), probabilities, atol=1e-6)
        np.testing.assert_allclose(found.features(pixels(), batch=batch, device="cpu"), features, atol=1e-5)
    assert found.probabilities(pixels(0)).shape == (0, 3) and found.features(pixels(0)).shape == (0, 96)
    turned = found.probabilities(pixels()[:, ::-1])
    np.testing.assert_array_equal(turned, found.probabilities(np.ascontiguousarray(pixels()[:, ::-1])))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pixels(2, 32), r"pixels are uint8 \[2, 32, 32\], expected uint8 \[N, 16, 16\]"),
        (pixels(2)[0], r"pixels are uint8 \[16, 16\], expected"),
        (pixels(2).astype(np.float32), r"pixels are float32 \[2, 16, 16\], expected"),
    ],
)
def test_pixels_of_another_shape_or_type_are_refused(folder: Path, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_classifier(folder).probabilities(wrong)


def test_a_classifier_of_another_set_or_image_size_does_not_match(folder: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    assert mismatch_with(load_classifier(folder), shards) == Mismatch("lineage", "a" * 64, shards.digest)
    edit(folder, lineage=LINEAGE | made_from(shards))
    assert mismatch_with(load_classifier(folder), shards) == Mismatch("image size", "16", "32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, but this version of cxrdist reads format 1$"),
        ({"format": "1"}, "not the model.json of a classifier; restore the file, or train the model again"),
        ({"kind": "segmenter"}, "describes a segmenter; give the folder of a classifier"),
        (network("dcn"), r"unknown network 'dcn'; did you mean 'dcnn'\?"),
        (network("os.system"), "unknown network 'os.system'"),
        (
            network("resnet18"),
            r"not the weights of the network in model.json \(bn1.bias: missing, expected \[64\]\)",
        ),
        (network("resnet18", depth=2), "resnet18 has no option depth"),
        (network(hidden=2**40), r"\(mlp.0.bias: \[8\], expected \[1099511627776\]\)"),
        (network(hidden=10**30), "invalid config of a dcnn"),
        (network(hidden=True), r"invalid config of a dcnn \(hidden is True\)"),
        (network(widths=[4, "6"]), r"invalid config of a dcnn \(widths is \[4, '6'\]\)"),
        (network(device="cuda"), r"invalid config of a dcnn \(unknown field device\)"),
        ({"network": {"network": "dcnn"}}, "invalid network .*missing 2 required"),
        ({"network": network()["network"] | {"seed": 1}}, r"invalid network \(unknown field seed\)"),
        ({"network": network()["network"] | {"options": []}}, r"invalid network \(options is \[\]\)"),
        (
            {"network": network()["network"] | {"classes": 1}},
            r"invalid network \(a classifier needs at least",
        ),
        ({"network": []}, "network is missing or not a dict"),
        ({"image_size": 32}, "image_size 32, but its network takes 16 px"),
        ({"classes": ["A", "B"]}, "2 classes, but its network has 3"),
        ({"classes": ["A", "A", "B"]}, "classes must be distinct, non-empty names"),
        ({"lineage": LINEAGE | {"split": None}}, "lineage does not name the set and split"),
        ({"lineage": LINEAGE | {"synthetic_digest": 1}}, "lineage does not say which synthetic images"),
        ({"lineage": LINEAGE | {"other_lineage_allowed": 0}}, "lineage does not say which synthetic images"),
        ({"lineage": {"real_digest": "a", "split": "train"}}, "lineage does not say which synthetic images"),
        ({"metrics": None}, "metrics is missing or not a dict"),
        ({"weights_sha256": "a" * 64}, "model.safetensors: changed since it was exported"),
    ],
)
def test_a_forged_description_is_refused_in_one_line(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_classifier(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 600


def change_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights["mlp.0.weight"][0, 0] += 1
    save_file(weights, path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (change_a_weight, "model.safetensors: changed since it was exported"),
        (lambda path: path.unlink(), "model.safetensors: no such file; train the model again"),
        (lambda path: path.write_bytes(b"\x80\x04."), "not a safetensors file"),
        (lambda path: save_file({"w": torch.zeros(1)}, path), r"\(mlp.0.bias: missing, expected \[8\]\)"),
    ],
)
def test_weights_that_are_not_the_ones_are_refused(
    folder: Path, break_it: Callable[[Path], None], message: str
) -> None:
    break_it(folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_classifier(folder)


def test_a_generator_is_no_classifier(folder: Path, tmp_path: Path) -> None:
    gan = tmp_path / "gan"
    made = Generator(DCGANConfig(size=32, z_dim=6, maps=8))
    export_generator(gan / "a", made, preset="demo", classes=["A"], lineage=LINEAGE, metrics={})
    exported(gan / "classifier")
    with pytest.raises(
        UserError, match=r"gan/a/model.json: describes a generator; give the folder of a classif"
    ):
        load_classifier(gan / "a")
    with pytest.raises(
        UserError, match=r"cls/model.json: describes a classifier; give the folder of a generat"
    ):
        load_generator(folder)
    with pytest.raises(UserError, match=r"gan contains several generators: name the folder of one .*\(a\)"):
        load_generator(gan)
    with pytest.raises(UserError, match=r"gan contains several classifiers: .*\(classifier\)"):
        load_classifier(gan)


def test_code_that_a_folder_names_is_run_only_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_shared.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_shared", raising=False)
    made = exported(tmp_path / "cls", NetworkConfig(network="my_shared:Shared", image_size=4, classes=3))
    (tmp_path / "was-run").unlink()
    monkeypatch.delitem(sys.modules, "my_shared")
    with pytest.raises(
        UserError,
        match=r"cls/model.json: its network is code of its own, my_shared:Shared: if you trust it, run it with "
        r"--allow-code \(in Python: allow_code=True\)",
    ):
        load_classifier(tmp_path / "cls")
    assert not (tmp_path / "was-run").exists()
    found: Any = load_classifier(tmp_path / "cls", allow_code=True).network
    assert (tmp_path / "was-run").exists()
    # The weights that two of its layers share are one tensor again.
    assert found.second.weight is found.first.weight
    assert torch.equal(found.first.weight, made.state_dict()["second.weight"])
    (tmp_path / "my_shared.py").write_text("def Shared(image_size, classes): return 1")
    monkeypatch.delitem(sys.modules, "my_shared")
    with pytest.raises(
        UserError, match=r"cls/model.json: my_shared:Shared: returned a int, expected a torch.nn"
    ):
        load_classifier(tmp_path / "cls", allow_code=True)
