"""A generator of the user's own, named as ``package.module:load``.

    def load():
        return MyGenerator()

    class MyGenerator:
        classes = ["Normal", "Pneumothorax"]
        image_size = 64
        version = "ddpm 2026-03"            # or digest = "<64 hexadecimal digits>", the SHA-256 of its weights
        def sample(self, class_name, seeds):    # seeds [n] uint64 -> uint8 [n, H, W]
            ...

An image must be a function of its class and seed alone. What the generator learned from is unknown unless it says so:
``lineage = {"real_digest": <digest of a shard set>, "split": "train"}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError, nearest
from cxrdist.files import SHA256, canonical_json, sha256_bytes
from cxrdist.seeds import derive
from cxrdist.synth.generators.sources import BLOCK, TRAIN_SPLIT, UNKNOWN, ImageSource
from cxrdist.user_code import described, find_function


@dataclass(frozen=True)
class OwnGenerator:
    """The user's object, checked."""

    name: str
    """As it was named in the option."""
    model: Any
    classes: Sequence[str]
    image_size: int
    lineage: dict[str, Any] | None
    digest: str

    @property
    def kind(self) -> str:
        return self.name

    @property
    def training_data(self) -> str:
        return UNKNOWN if self.lineage is None else TRAIN_SPLIT

    def block(self, class_name: str, seed: int, number: int) -> np.ndarray:
        indices = range(number * BLOCK, (number + 1) * BLOCK)
        seeds = np.array([derive(seed, f"synthesis {class_name}", index) for index in indices], np.uint64)
        try:
            images = self.model.sample(class_name, seeds)
        except Exception as error:  # the user's code may raise anything
            raise UserError(f"{self.name}: sample({class_name!r}, ...): {described(error)}") from error
        expected = (BLOCK, self.image_size, self.image_size)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != expected:
            is_array = isinstance(images, np.ndarray)
            got = f"{images.dtype} {list(images.shape)}" if is_array else type(images).__name__
            raise UserError(
                f"{self.name}: sample({class_name!r}, {BLOCK} seeds) returned {got}, expected uint8 {list(expected)}"
            )
        return images

    def to(self, device: torch.device) -> None:
        """The user's object chooses its own device."""


def own_sources(name: str, classes: Iterable[str], shards: ShardSet) -> dict[str, list[ImageSource]]:
    """``{class: [the generator]}``.

    Raises UserError if it is not found, fails, lacks an attribute or a class, has another image size, or says that it
    learned from other images than the train split of ``shards``.
    """
    source = load_own(name)
    if source.image_size != shards.image_size:
        raise UserError(
            f"{name}: generates images of {source.image_size} px, but {shards} has {shards.image_size} px"
        )
    lineage = source.lineage
    if lineage is not None and not descends_from(lineage, shards):
        raise UserError(
            f"{name}: its lineage says that it learned from the {lineage['split']} split of the set "
            f"{lineage['real_digest'][:12]}, not from the train split of {shards} ({shards.digest[:12]})"
        )
    for class_name in classes:
        if class_name not in source.classes:
            raise UserError(
                f"{name}: {class_name} is none of its classes ({', '.join(source.classes)})"
                f"{nearest(class_name, source.classes)}; make others with --count 'class=number'"
            )
    return {class_name: [source] for class_name in classes}


def load_own(name: str) -> OwnGenerator:
    """Call the user's function. Raises OptionError if it is not found, UserError for what it returns."""
    try:
        load = find_function(name)
    except UserError as error:
        raise OptionError("generator", str(error)) from error.__cause__
    try:
        model = load()
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name}: {described(error)}") from error
    found = {}
    for attribute, (expected, is_right) in ATTRIBUTES.items():
        found[attribute] = value = _attribute(name, model, attribute)
        if value is None:
            raise UserError(f"{name}: what it returns has no attribute {attribute}")
        if not is_right(value):
            raise UserError(f"{name}: its {attribute} is {value!r:.100}: expected {expected}")
    lineage = _attribute(name, model, "lineage")
    if lineage is not None and not _is_lineage(lineage):
        raise UserError(
            f"{name}: its lineage must be a dict with real_digest and split, both text, not {lineage!r:.100}"
        )
    return OwnGenerator(
        name, model, tuple(found["classes"]), int(found["image_size"]), lineage, _digest_of(name, model)
    )


def _attribute(name: str, model: Any, attribute: str) -> Any:
    """An attribute of the user's object, None if it has none. Raises UserError if a property fails."""
    try:
        return getattr(model, attribute, None)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name}: {attribute}: {described(error)}") from error


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(name, str) for name in value)


def _is_lineage(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    is_named = all(isinstance(value.get(field), str) for field in ("real_digest", "split"))
    return is_named and _are_names(value.get("real_ancestors", ["none"]))


ATTRIBUTES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "classes": ("a list of names", _are_names),
    "image_size": (
        "a number of pixels",
        lambda value: isinstance(value, int | np.integer) and bool(value > 0),
    ),
    "sample": ("a method", callable),
}
"""What the user's object must have: what is expected, and whether a value is that."""


def _digest_of(name: str, model: Any) -> str:
    digest, version = (_attribute(name, model, attribute) for attribute in ("digest", "version"))
    if digest is not None:
        if not isinstance(digest, str) or SHA256.fullmatch(digest) is None:
            raise UserError(
                f"{name}: its digest is {digest!r}: expected the 64 hexadecimal digits of a SHA-256"
            )
        return digest
    if version is None:
        raise UserError(
            f"{name}: what it returns has neither digest (SHA-256 of its weights) nor version: add one, and change "
            "it whenever its images change, since the set names it"
        )
    return sha256_bytes(canonical_json([name, str(version)]))
