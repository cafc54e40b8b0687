from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrdist import counter_rng
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import to_uint8
from cxrdist.errors import UserError
from cxrdist.models import Mismatch, export_generator, load_generator, mismatch_with, network_of
from cxrdist.nets import conditional, conditional_v1
from cxrdist.nets.dcgan import DCGANConfig, Generator, init_weights
from cxrdist.run.checkpoint import weights_sha256
from cxrdist.seeds import derive, uniform
from tests.helpers.launching import CLONE

LINEAGE = {"real_digest": "a" * 64, "real_ancestors": ["b" * 64], "split": "train"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = trained()
    export_generator(
        tmp_path,
        generator,
        preset="demo",
        classes=["Nodule"],
        lineage=LINEAGE,
        metrics={"loss_g": 0.5},
    )
    return tmp_path


def trained() -> Generator:
    generator = Generator(DCGANConfig(size=32, z_dim=6, maps=8))
    init_weights(generator, 3)
    with torch.no_grad():  # large enough that images differ in many grey values
        for parameter in generator.parameters():
            parameter.mul_(5)
    return generator


def test_only_a_generator_is_exported(tmp_path: Path) -> None:
    wrapped = torch.nn.Sequential(trained())
    with pytest.raises(ValueError, match="Sequential is not a generator: expected one of dcgan, conditional"):
        export_generator(tmp_path, wrapped, preset="demo", classes=["A"], lineage=LINEAGE, metrics={})
    assert not list(tmp_path.iterdir())


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_generator_comes_back_with_all_that_is_said_of_it(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["generator.safetensors", "model.json"]
    found = load_generator(str(folder))
    assert (found.architecture, found.preset, found.classes, found.image_size) == (
        "dcgan",
        "demo",
        ("Nodule",),
        32,
    )
    assert (found.lineage, found.metrics) == (LINEAGE, {"loss_g": 0.5})
    assert found.weights_sha256 == weights_sha256(trained()) == weights_sha256(found.network)
    assert not found.network.training
    assert json.loads((folder / "model.json").read_text())["network"] == asdict(
        DCGANConfig(size=32, z_dim=6, maps=8)
    )


def test_a_conditional_generator_comes_back(tmp_path: Path) -> None:
    network = conditional.ConditionalGenerator(
        conditional.ConditionalConfig(size=32, classes=2, z_dim=6, widths=(8, 8, 4), d_widths=(8, 4, 4))
    )
    conditional.init_weights(network, 1)
    export_generator(tmp_path, network, preset="demo", classes=["A", "B"], lineage=LINEAGE, metrics={})
    found = load_generator(tmp_path)
    assert found.network.cfg == network.cfg and found.weights_sha256 == weights_sha256(network)
    z = found.z(5, "test", range(40))
    drawn = counter_rng.bits(derive(5, "test"), torch.arange(40), 6)
    assert torch.equal(torch.from_numpy(z), counter_rng.to_normal(drawn))
    assert found.sample("A", 3).tobytes() != found.sample("B", 3).tobytes()
    for wrong in ([8, 8], [8, 8, "4"], "884"):
        edit(tmp_path, network={**asdict(network.cfg), "widths": wrong})
        with pytest.raises(UserError, match=r"invalid config of a conditional .*widths"):
            load_generator(tmp_path)


def test_a_conditional_generator_of_format_1_still_loads(tmp_path: Path) -> None:
    cfg = conditional_v1.ConditionalConfigV1(size=32, classes=2, z_dim=6, maps=8)
    network = conditional_v1.ConditionalGeneratorV1(cfg)
    export_generator(tmp_path, network, preset="modern", classes=["A", "B"], lineage=LINEAGE, metrics={})
    assert json.loads((tmp_path / "model.json").read_text())["format"] == 1
    found = load_generator(tmp_path)
    assert np.array_equal(found.z(5, "test", range(4)), uniform(5, "test", range(4), 8)[:, :6])
    with torch.no_grad():
        z = torch.from_numpy(found.z(0, "sample B", range(16)))
        expected = to_uint8(network(z, torch.ones(16, dtype=torch.int64)))[:, 0].numpy()
    np.testing.assert_array_equal(found.sample("B", 16), expected)


def test_images_are_those_of_the_network_in_evaluation_mode(folder: Path) -> None:
    z = uniform(5, "test", range(16), 8)[:, :6]
    with torch.no_grad():
        expected = to_uint8(trained().eval()(torch.from_numpy(z)))[:, 0].numpy()
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(load_generator(folder).images("Nodule", z), expected)


def test_an_image_does_not_depend_on_how_many_are_made_with_it(folder: Path) -> None:
    generator = load_generator(folder)
    many = generator.sample("Nodule", 37, seed=1)
    assert many.shape == (37, 32, 32) and many.dtype == np.uint8
    for count in (1, 16, 17):
        np.testing.assert_array_equal(generator.sample("Nodule", count, seed=1), many[:count])
    assert len({image.tobytes() for image in many}) == 37
    assert not np.array_equal(generator.sample("Nodule", 37, seed=2), many)
    assert generator.images("Nodule", np.empty((0, 6), np.float32)).shape == (0, 32, 32)


def test_what_a_generator_cannot_make_is_said(folder: Path) -> None:
    generator = load_generator(folder)
    with pytest.raises(UserError, match=r"nodul: not a class of this generator; did you mean 'Nodule'\?"):
        generator.sample("nodul", 1)
    with pytest.raises(UserError, match="0 images of Nodule: the count must be 1 or more"):
        generator.sample("Nodule", 0)
    with pytest.raises(ValueError, match=r"z has shape \[2, 5\], expected \[n, 6\]"):
        generator.images("Nodule", np.zeros((2, 5), np.float32))


def test_labels_are_the_places_of_classes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[int]] = []
    forward = Generator.forward

    def watched(self: Generator, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given.append(labels.tolist())
        return forward(self, z)

    monkeypatch.setattr(Generator, "forward", watched)
    generator = load_generator(folder)
    object.__setattr__(generator, "classes", ("A", "B", "C"))
    generator.sample("C", 17)
    assert given == [[2] * 16, [2] * 16]


def test_a_generator_of_another_set_or_image_size_does_not_match(folder: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    assert mismatch_with(load_generator(folder), shards) == Mismatch("lineage", "a" * 64, shards.digest)
    edit(folder, lineage=made_from(shards))
    generator = load_generator(folder)
    assert mismatch_with(generator, shards) is None
    assert mismatch_with(replace(generator, image_size=64), shards) == Mismatch("image size", "64", "32")


def network(**changes: Any) -> dict[str, Any]:
    return {"network": asdict(DCGANConfig(size=32, z_dim=6, maps=8)) | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "format 3, but this version of cxrdist reads formats 1 to 2"),
        ({"format": True}, "not the model.json of a generator; restore the file, or train the model again"),
        ({"architecture": "dcgn"}, r"unknown architecture 'dcgn'; did you mean 'dcgan'\?"),
        ({"architecture": "os.system"}, "unknown architecture 'os.system'; known: dcgan, conditional"),
        ({"architecture": ["dcgan"]}, "architecture is missing or not a str"),
        (network(maps=2**22), r"generator.safetensors: not the weights of the network in model.json"),
        (network(maps=2**70), "invalid config of a dcgan"),
        (network(z_dim=10**30), "invalid config of a dcgan"),
        (network(z_dim=7), r"project.weight: \[128, 6\], expected \[128, 7\]"),
        (network(maps="8"), r"invalid config of a dcgan \(maps is '8'\)"),
        (network(maps=True), r"invalid config of a dcgan \(maps is True\)"),
        (network(maps=8.0), r"invalid config of a dcgan \(maps is 8.0\)"),
        (network(size=33), "invalid config of a dcgan"),
        (network(norm="layer"), r"norm is 'layer'"),
        (
            network(norm="none"),
            r"not the weights of the network in model.json \(project.bias: missing, expected",
        ),
        (network(device="cuda"), "unknown field device"),
        ({"network": []}, "network is missing or not a dict"),
        ({"image_size": 64}, "image_size 64, but its network makes 32 px"),
        ({"classes": ["A", "B"]}, "2 classes, but its network has 1"),
        ({"classes": ["A", "A"]}, "classes must be distinct, non-empty names"),
        ({"classes": [1]}, "classes must be distinct, non-empty names"),
        ({"classes": "Nodule"}, "classes is missing or not a list"),
        ({"lineage": {"split": "train"}}, "lineage does not name the set and split of the training images"),
        ({"lineage": LINEAGE | {"real_ancestors": "b"}}, "lineage does not name the set and split of the"),
        ({"weights_sha256": "a"}, "weights_sha256 is not a SHA-256"),
        ({"weights_sha256": "a" * 64}, "generator.safetensors: changed since it was exported"),
    ],
)
def test_a_forged_description_is_refused_in_one_line(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_generator(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 600


def change_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights["project.weight"][0, 0] += 1
    save_file(weights, path)


def widen_the_weights(path: Path) -> None:
    save_file({name: weights.double() for name, weights in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (change_a_weight, "changed since it was exported"),
        (lambda path: path.unlink(), "no such file; train the model again"),
        (lambda path: path.write_bytes(b"\x80\x04."), "not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a safetensors file"),
        (lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"), "not a safetensors file"),
        (
            lambda path: save_file({"w": torch.zeros(1)}, path),
            r"\(project.weight: missing, expected \[128, 6\]\)",
        ),
    ],
)
def test_weights_that_are_not_the_ones_are_refused(
    folder: Path, break_it: Callable[[Path], None], message: str
) -> None:
    break_it(folder / "generator.safetensors")
    with pytest.raises(UserError, match=message):
        load_generator(folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"format":' + b"[" * 10**5, b'{"format": 1}'])
def test_what_is_no_description_is_refused(folder: Path, text: bytes) -> None:
    (folder / "model.json").write_bytes(text)
    with pytest.raises(UserError, match=r"model\.json"):
        load_generator(folder)


def test_a_folder_without_a_generator_is_said(folder: Path) -> None:
    with pytest.raises(UserError, match=r"absent/model.json: no such file"):
        load_generator(folder / "absent")
    (folder / "run").mkdir()
    for name in ("normal", "mass"):
        (folder / "run" / name).mkdir()
        for file in ("model.json", "generator.safetensors"):
            (folder / "run" / name / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(
        UserError, match=r"run contains several generators: name the folder of one .*\(mass, normal\)"
    ):
        load_generator(folder / "run")


def test_a_network_of_a_kind() -> None:
    assert isinstance(network_of("dcgan", {"size": 32, "maps": 8}), Generator)
    with pytest.raises(UserError, match="invalid config of a dcgan"):
        network_of("dcgan", {"size": 31})


def test_three_lines_from_any_folder_need_none_of_the_training(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from cxrdist.models import load_generator\n"
        f"generator = load_generator({str(folder)!r})\n"
        "images = generator.sample('Nodule', 2)\n"
        "heavy = {'accelerate', 'wandb', 'rich', 'yaml', 'PIL', 'webdataset', 'cxrdist.gan'}\n"
        "print(images.shape, sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CLONE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(2, 32, 32) []\n"
