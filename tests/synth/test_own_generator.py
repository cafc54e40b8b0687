"""A generator of the user's own."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.seeds import derive
from cxrdist.synth.generators import own
from cxrdist.synth.generators.own import load_own, own_sources
from tests.helpers.launching import CLONE
from tests.synth import conftest

NAME = "tests.synth.test_own_generator:load"
made: Any = None


def load() -> Any:
    if isinstance(made, Exception):
        raise made
    return made


def using(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """What ``load`` returns: the generator of noise with changes; None removes an attribute."""
    base = conftest.Noise()
    values = {"classes": base.classes, "image_size": 32, "version": "1", "sample": base.sample, **changes}
    model = SimpleNamespace(**{name: value for name, value in values.items() if value is not None})
    monkeypatch.setattr(f"{__name__}.made", model)


def test_its_seeds_follow_from_seed_class_and_index(monkeypatch: pytest.MonkeyPatch, tiny_set: Path) -> None:
    seen: list[tuple[str, np.ndarray]] = []

    def sample(class_name: str, seeds: np.ndarray) -> np.ndarray:
        seen.append((class_name, seeds))
        return np.zeros((len(seeds), 32, 32), np.uint8)

    using(monkeypatch, sample=sample)
    sources = own_sources(NAME, ["Normal"], ShardSet(tiny_set))
    sources["Normal"][0].block("Normal", 5, 2)
    ((class_name, seeds),) = seen
    assert (class_name, seeds.dtype, len(seeds)) == ("Normal", np.uint64, 64)
    assert [int(seed) for seed in seeds[:2]] == [derive(5, "synthesis Normal", index) for index in (128, 129)]


def test_its_digest_is_its_own_or_that_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    using(monkeypatch, digest="ab" * 32)
    assert load_own(NAME).digest == "ab" * 32
    using(monkeypatch, version=3)
    canonical = f'[\n "{NAME}",\n "3"\n]\n'
    assert load_own(NAME).digest == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": None}, "has neither digest (SHA-256 of its weights) nor version"),
        ({"digest": "abc"}, "its digest is 'abc': expected the 64 hexadecimal digits of a SHA-256"),
        ({"classes": None}, "what it returns has no attribute classes"),
        ({"sample": None}, "what it returns has no attribute sample"),
        ({"image_size": 64}, "generates images of 64 px, but"),
        ({"classes": ["Pneumothorax"]}, "Normal is none of its classes (Pneumothorax)"),
        ({"lineage": "train"}, "its lineage must be a dict with real_digest and split"),
        (
            {"lineage": {"real_digest": "f" * 64, "split": "train"}},
            "that it learned from the train split of the set ffffffffffff, not from the train split of",
        ),
        (
            {"lineage": {"real_digest": "f" * 64, "split": "test"}},
            "that it learned from the test split of the set ffffffffffff, not from the train split of",
        ),
        ({"lineage": {"real_digest": ["f"], "split": "train"}}, "its lineage must be a dict with"),
        (
            {"lineage": {"real_digest": "f", "split": "train", "real_ancestors": 1}},
            "its lineage must be a dict with",
        ),
        ({"image_size": "32"}, "its image_size is '32': expected a number of pixels"),
        ({"classes": "Normal"}, "its classes is 'Normal': expected a list of names"),
        ({"classes": [1, 2]}, "its classes is [1, 2]: expected a list of names"),
        ({"sample": 3}, "its sample is 3: expected a method"),
    ],
)
def test_what_it_lacks_is_named(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tiny_set: Path
) -> None:
    using(monkeypatch, **changes)
    with pytest.raises(UserError) as caught:
        own_sources(NAME, ["Normal"], ShardSet(tiny_set))
    assert message in str(caught.value) and str(caught.value).startswith(NAME)


def test_learning_from_test_is_refused_and_from_train_is_known(
    monkeypatch: pytest.MonkeyPatch, tiny_set: Path
) -> None:
    real = ShardSet(tiny_set)
    using(monkeypatch)
    assert own_sources(NAME, ["Normal"], real)["Normal"][0].training_data == "unknown"
    using(monkeypatch, lineage={"real_digest": real.digest, "split": "train"})
    assert own_sources(NAME, ["Normal"], real)["Normal"][0].training_data == "train split"
    using(monkeypatch, lineage={"real_digest": real.digest, "split": "test"})
    with pytest.raises(UserError, match="learned from the test split of the set"):
        own_sources(NAME, ["Normal"], real)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (np.zeros((64, 32, 32), np.float32), "float32 [64, 32, 32]"),
        (np.zeros((63, 32, 32), np.uint8), "uint8 [63, 32, 32]"),
        (np.zeros((64, 1, 32, 32), np.uint8), "uint8 [64, 1, 32, 32]"),
        ([], "list"),
    ],
)
def test_images_of_another_type_or_shape_are_refused(
    returned: Any, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, sample=lambda *_: returned)
    with pytest.raises(UserError) as caught:
        load_own(NAME).block("Normal", 0, 0)
    assert str(caught.value) == (
        f"{NAME}: sample('Normal', 64 seeds) returned {got}, expected uint8 [64, 32, 32]"
    )


def test_its_exceptions_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.made", RuntimeError("no weights"))
    with pytest.raises(UserError, match=r":load: RuntimeError: no weights \(.*test_own_generator.py, line"):
        load_own(NAME)
    using(monkeypatch, sample=lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"sample\('Normal', ...\): ZeroDivisionError"):
        load_own(NAME).block("Normal", 0, 0)

    class Failing:
        @property
        def classes(self) -> list[str]:
            raise RuntimeError("no table")

    monkeypatch.setattr(f"{__name__}.made", Failing())
    with pytest.raises(UserError, match=r":load: classes: RuntimeError: no table \(.*, line"):
        load_own(NAME)
    with pytest.raises(UserError, match="generator: nowhere:load: No module named 'nowhere'"):
        own.load_own("nowhere:load")


def test_the_example_of_the_docs_is_such_a_generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a pipeline that draws one grey value, in place of the one that is not installed."""
    text = (CLONE / "docs/synthesis.md").read_text()
    (code,) = re.findall(r"```python\n(# my_diffusion.py.*?)```", text, re.DOTALL)
    (tmp_path / "my_diffusion.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))

    def draw(labels: list[int], *, generator: list[Any], **_: Any) -> Any:
        greys = [(one.initial_seed() % 200) / 255 for one in generator]
        images = np.stack([np.full((64, 64, 3), grey, np.float32) for grey in greys])
        return SimpleNamespace(images=images)

    pipeline = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(to=lambda _: draw))
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(DiTPipeline=pipeline))
    source = load_own("my_diffusion:load")
    assert (source.image_size, source.training_data) == (64, "unknown")
    block = source.block("Pneumothorax", 0, 0)
    seed = derive(0, "synthesis Pneumothorax", 0) % 2**63
    assert block.shape == (64, 64, 64) and block[0, 0, 0] == seed % 200
