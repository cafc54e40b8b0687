"""Which generator draws a class's images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import key_of, key_prefix
from cxrdist.errors import UserError
from cxrdist.models import export_generator, load_generator
from cxrdist.nets import conditional, dcgan
from cxrdist.synth.generators.sources import BLOCK, gan_sources
from cxrdist.synth.show import _of_run

CLASSES = ["Normal", "Pleural Effusion", "Pneumothorax"]


def export(folder: Path, generator: nn.Module, classes: list[str], real: ShardSet) -> str:
    return export_generator(
        folder, generator, preset="demo", classes=classes, lineage=made_from(real), metrics={}
    )


@pytest.fixture
def run(tmp_path: Path, tiny_set: Path) -> Path:
    """A run with one generator of two classes, and of one of them another of its own."""
    real = ShardSet(tiny_set)
    of_all = conditional.ConditionalGenerator(
        conditional.ConditionalConfig(size=32, classes=2, z_dim=4, widths=(8, 8, 4), d_widths=(8, 8, 4))
    )
    conditional.init_weights(of_all, 1)
    export(tmp_path / "all-classes", of_all, CLASSES[:2], real)
    own = dcgan.Generator(dcgan.DCGANConfig(size=32, z_dim=4, maps=8))
    dcgan.init_weights(own, 2)
    export(tmp_path / "normal", own, ["Normal"], real)
    return tmp_path


def test_a_class_has_its_own_generator_or_that_of_all_classes(run: Path, tiny_set: Path) -> None:
    real = ShardSet(tiny_set)
    found = gan_sources([run], CLASSES[:2], real)
    kinds = {name: [source.kind for source in of] for name, of in found.items()}
    assert kinds == {"Normal": ["dcgan"], "Pleural Effusion": ["conditional"]}
    (run / "normal/model.json").unlink()
    both = gan_sources([run], CLASSES[:2], real)
    assert both["Normal"][0] is both["Pleural Effusion"][0]
    expected = r"all-classes: the classes of this generator are Normal, Pleural Effusion, not Pneumo"
    with pytest.raises(UserError, match=expected):
        gan_sources([run], CLASSES, real)
    (run / "all-classes/model.json").unlink()
    expected = r"has no finished generator of Normal; train it with `accelerate launch"
    with pytest.raises(UserError, match=expected):
        gan_sources([run], CLASSES, real)


def test_several_runs_each_have_a_generator_of_the_class(run: Path, tiny_set: Path, tmp_path: Path) -> None:
    real = ShardSet(tiny_set)
    other = dcgan.Generator(dcgan.DCGANConfig(size=32, z_dim=4, maps=8))
    dcgan.init_weights(other, 3)
    digest = export(tmp_path / "second/normal", other, ["Normal"], real)
    found = gan_sources([run, tmp_path / "second"], ["Normal"], real)["Normal"]
    assert [source.digest for source in found] == [load_generator(run / "normal").weights_sha256, digest]
    with pytest.raises(UserError, match="another run of --gan has the same generator"):
        gan_sources([run, run], ["Normal"], real)


def test_an_image_is_a_function_of_generator_seed_class_and_index(run: Path, tiny_set: Path) -> None:
    """Not of the block that is drawn before it."""
    (source,) = gan_sources([run], ["Pleural Effusion"], ShardSet(tiny_set))["Pleural Effusion"]
    second = source.block("Pleural Effusion", 0, 1)
    assert second.shape == (BLOCK, 32, 32) and second.dtype == np.uint8
    source.block("Normal", 0, 0)
    assert np.array_equal(source.block("Pleural Effusion", 0, 1), second)
    for other in (("Pleural Effusion", 1, 1), ("Pleural Effusion", 0, 0), ("Normal", 0, 1)):
        assert not np.array_equal(source.block(*other), second), other


def test_no_key_is_given_twice_where_one_generator_makes_two_classes(run: Path) -> None:
    digest = load_generator(run / "all-classes").weights_sha256
    normal, effusion = (
        hashlib.sha256(f'[\n "{digest}",\n 0,\n "{name}"\n]\n'.encode()).hexdigest()[:16]
        for name in CLASSES[:2]
    )
    assert normal != effusion
    assert key_of(key_prefix(digest, 0, "Normal"), 7) == f"{normal}-0000000007"
    assert key_of(key_prefix(digest, 0, "Pleural Effusion"), 7) == f"{effusion}-0000000007"


def test_a_generator_is_found_beside_classifiers_and_in_any_of_several_runs(
    run: Path, tmp_path: Path
) -> None:
    """Gates train classifiers in the run of a GAN."""
    (run / "classifier").mkdir()
    (run / "classifier/model.json").write_text('{"format": 2, "kind": "classifier"}')
    for name in ("normal", "all-classes"):
        digest = load_generator(run / name).weights_sha256
        for runs in (run, Path(f"{tmp_path / 'nowhere'},{run}")):
            assert _of_run(runs, digest)[0] == str(run / name)
    with pytest.raises(UserError, match=f"has no generator of digest {'0' * 12}"):
        _of_run(run, "0" * 64)
