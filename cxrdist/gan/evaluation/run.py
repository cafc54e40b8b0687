"""What a GAN run holds to be evaluated: its models, and of each the checkpoints that are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.files import FolderLock, read_json, remove_temporaries, slug
from cxrdist.models import TrainedGenerator, export_generator, load_generator
from cxrdist.run.checkpoint import is_whole, weights_sha256
from cxrdist.run.folder import SUMMARY, joint_digest, write_summary


def find_models(folder: Path, shards: ShardSet, split: str) -> dict[str, TrainedGenerator]:
    """The models of a finished run, by the names of their folders.

    Raises UserError where the run is absent or unfinished, has learnt from another set or another image size, or
    makes a class of which the split has no image.
    """
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    is_finished = isinstance(summary, dict) and (summary.get("job"), summary.get("status")) == (
        "gan",
        "finished",
    )
    names = sorted(slug(name) for name in summary["models"]) if is_finished else []
    if not is_finished or not all((folder / name / SUMMARY).exists() for name in names):
        again = f"accelerate launch launch/train_gan.py --shards {shards} --run {folder}"
        raise UserError(f"{folder}: no finished run of train_gan.py; train, or finish it, with `{again}`")
    models = {name: load_generator(folder / name) for name in names}
    for name, model in models.items():
        where = folder / name
        if not descends_from(model.lineage, shards):
            raise UserError(
                f"{where}: this generator has learnt from another set ({model.lineage['real_digest'][:12]}) than "
                f"{shards} ({shards.digest[:12]}), perhaps from images held out here: name its own with --shards"
            )
        if model.image_size != shards.image_size:
            raise UserError(
                f"{where}: this generator makes images of {model.image_size} px, and {shards} has "
                f"{shards.image_size} px: name its own set with --shards"
            )
        for class_name in model.classes:
            if not shards.samples(split, class_name, "real"):
                other = "test" if split == "val" else "val"
                raise UserError(
                    f"{shards}: no image of {class_name} in {split} to compare generated ones with; take --split "
                    f"{other}, or import the set with a larger share for {split}"
                )
    return models


@contextlib.contextmanager
def holding_finished(folder: Path, dist: Dist) -> Iterator[None]:
    """Hold a finished run's folder for the time of the block."""
    held: list[FolderLock] = []
    dist.on_main(lambda: held.append(FolderLock(folder, "an evaluation")))
    try:
        yield
    finally:
        for lock in held:
            lock.release()


def exchange(folder: Path, model: TrainedGenerator, metrics: Mapping[str, Any]) -> None:
    """Have what ``model.network`` is now be the generator of the model's folder, and its summary say so."""
    remove_temporaries(folder)
    summary = read_json(folder / SUMMARY)
    if weights_sha256(model.network) != model.weights_sha256:
        # Killed before the end of this, the model is unfinished: train_gan.py then exports its last checkpoint.
        (folder / SUMMARY).unlink()
    digest = export_generator(
        folder,
        model.network,
        architecture=model.architecture,
        preset=model.preset,
        classes=model.classes,
        lineage=model.lineage,
        metrics=metrics,
    )
    write_summary(folder, summary | {"weights_sha256": digest})


def tell_summary(folder: Path, exported: Mapping[str, str]) -> None:
    """Have a run's summary name the weights that were exported: ``{folder of the model: their SHA-256}``."""
    summary = read_json(folder / SUMMARY)
    for name, of_model in summary["models"].items():
        of_model["weights_sha256"] = exported[slug(name)]
    write_summary(folder, summary | {"weights_sha256": joint_digest(summary["models"], "weights_sha256")})


def candidates_of(model: Path, with_checkpoints: bool) -> list[Path | None]:
    """The weights of a model that are compared, oldest first: those that draw in each whole checkpoint; where there
    is none, or none is wanted, the exported generator (None)."""
    found: list[Path | None] = []
    for checkpoint in sorted((model / "checkpoints").glob("images-*")) if with_checkpoints else ():
        if is_whole(checkpoint):
            ema = checkpoint / "ema.safetensors"
            found.append(ema if ema.exists() else checkpoint / "generator.safetensors")
    return found or [None]


def images_at(weights: Path | None) -> int | None:
    """How many images the network of these weights of a checkpoint had seen."""
    return None if weights is None else int(weights.parent.name.removeprefix("images-"))
