"""Which generator an image comes from, and what that generator has learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.checkpoint import load_weights, weights_sha256
from cxrdist.data.lineage import descends_from
from cxrdist.data.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import read_json, slug
from cxrdist.nets.dcgan import DCGANConfig, Generator


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator of one class and the digest of its weights."""

    class_name: str
    network: Generator
    weights_sha256: str


def load_generator(gan_run: Path, class_name: str, shards: ShardSet) -> TrainedGenerator:
    """The generator of a class. Raises UserError where it is missing, changed, of another image size, or has
    learnt from anything but the train split of ``shards`` or of a conversion of it."""
    folder = gan_run / slug(class_name)
    again = f"accelerate launch launch/train_gan.py --shards {shards} --run {gan_run}"
    if not (folder / "model.json").exists():
        raise UserError(f"{gan_run} has no finished generator of {class_name}; train it with `{again}`")
    model: dict[str, Any] = read_json(folder / "model.json")
    if not descends_from(model["lineage"], shards):
        raise UserError(
            f"{folder}: this generator has learnt from another set ({model['lineage']['real_digest'][:12]}) than "
            f"{shards} ({shards.digest[:12]}); train one on it with `{again}-other`"
        )
    if model["network"]["size"] != shards.image_size:
        raise UserError(
            f"{folder}: this generator makes images of {model['network']['size']} px, and {shards} has "
            f"{shards.image_size} px; train one on it with `{again}-other`"
        )
    network = Generator(DCGANConfig(**model["network"]))
    load_weights(folder / "generator.safetensors", network)
    if weights_sha256(network) != model["weights_sha256"]:
        raise UserError(f"{folder}/generator.safetensors: changed since it was trained; train it again")
    return TrainedGenerator(class_name, network, model["weights_sha256"])
