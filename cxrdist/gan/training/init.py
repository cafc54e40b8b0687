"""Start a model from the networks of another run, such as one trained on phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxrdist.data.shards.lineage import descends_from, made_from
from cxrdist.data.shards.schema import UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError
from cxrdist.gan.plan import ModelPlan
from cxrdist.models import TrainedGenerator, load_generator
from cxrdist.run.checkpoint import newest_checkpoint

EMBEDDING = "embed.weight"  # of both networks: a row per label

Origin = list[dict[str, Any]]
"""Lineage of the runs that a model started from, the nearest first."""


def lineage_of(shards: ShardSet, init: Origin) -> dict[str, Any]:
    """The lineage in a model's ``model.json``: the set, whether it holds phantoms, and the runs it started from."""
    lineage = made_from(shards)
    if _is_phantom(shards):
        lineage["is_phantom"] = True
    return lineage | ({"init": init} if init else {})


def start_from(run: str, model: ModelPlan, shards: ShardSet, networks: Mapping[str, nn.Module]) -> Origin:
    """Copy the weights of the newest checkpoint of the same model of ``run`` into ``networks`` (generator,
    discriminator). Classes are matched by name; those that the other run does not have keep their initial weights.

    Returns the lineage to record. Raises OptionError if the run has no such model or checkpoint, if its networks have
    other shapes, or if it has learned from images of patients that may be held out in ``shards``.
    """
    folder = Path(run) / model.folder
    if not folder.is_dir():
        raise OptionError(
            "init", f"{run} has no model {model.folder}; name a finished run of the same classes"
        )
    found = load_generator(folder)
    origin = [_entry(found), *found.lineage.get("init", [])]
    for entry in origin:
        # A phantom of another set may be one that this set of phantoms holds out, such as another fold.
        is_harmless = entry["is_phantom"] and not _is_phantom(shards)
        if not is_harmless and not descends_from(entry["lineage"], shards):
            raise OptionError(
                "init",
                f"{run} has learned from another set ({entry['lineage']['real_digest'][:12]}), perhaps from patients "
                f"whom {shards} holds out; start from a run on the same set"
                + ("" if _is_phantom(shards) else ", or on phantoms"),
            )
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise OptionError("init", f"{folder} has no checkpoint, which holds the discriminator")
    theirs = [*found.classes, UNLABELLED]
    for name, network in networks.items():
        _copy(load_file(checkpoint / f"{name}.safetensors"), network, theirs, model.labels, folder)
    return origin


def _is_phantom(shards: ShardSet) -> bool:
    return shards.manifest.provenance.json_value().get("is_phantom") is True


def _entry(found: TrainedGenerator) -> dict[str, Any]:
    lineage = {key: value for key, value in found.lineage.items() if key not in ("is_phantom", "init")}
    return {
        "lineage": lineage,
        "is_phantom": found.lineage.get("is_phantom") is True,
        "weights_sha256": found.weights_sha256,
    }


@torch.no_grad()
def _copy(
    weights: Mapping[str, Tensor],
    network: nn.Module,
    theirs: Sequence[str],
    ours: Sequence[str],
    folder: Path,
) -> None:
    own = network.state_dict()
    expected = {name: tensor.shape[1:] if name == EMBEDDING else tensor.shape for name, tensor in own.items()}
    given = {
        name: tensor.shape[1:] if name == EMBEDDING else tensor.shape for name, tensor in weights.items()
    }
    if given != expected:
        wrong = min(name for name in {*given, *expected} if given.get(name) != expected.get(name))
        raise OptionError(
            "init",
            f"{folder}: its networks have other shapes ({wrong}); use the preset that they were trained with",
        )
    for name, tensor in own.items():
        if name != EMBEDDING:
            tensor.copy_(weights[name])
            continue
        for label, class_name in enumerate(ours):
            if class_name in theirs and theirs.index(class_name) < len(weights[name]):
                tensor[label] = weights[name][theirs.index(class_name)]
