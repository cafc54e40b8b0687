"""Read a GAN run for its evaluation (models, kept checkpoints), write the chosen generators and the results back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrdist.cards.generator import EVALUATION
from cxrdist.config.parser import to_dict
from cxrdist.console import say
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import FolderLock, canonical_json, read_json, remove_temporaries, slug, write_atomic
from cxrdist.gan.evaluation.class_metrics import lines
from cxrdist.gan.evaluation.config import EvaluateConfig
from cxrdist.gan.evaluation.metrics import table
from cxrdist.models import TrainedGenerator, export_generator, load_generator, mismatch_with
from cxrdist.run.checkpoint import is_whole, weights_sha256
from cxrdist.run.folder import SUMMARY, environment, joint_digest, write_summary
from cxrdist.run.tracking.description import Description, without_paths
from cxrdist.run.tracking.figures import evaluation_figures
from cxrdist.run.tracking.start import start


def find_models(folder: Path, shards: ShardSet, split: str) -> dict[str, TrainedGenerator]:
    """The models of a finished run, by the name of their folder.

    Raises UserError if the run does not exist or is not finished, if a model was trained on another set or image
    size, or if the split has no image of one of its classes.
    """
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    is_finished = isinstance(summary, dict) and (summary.get("job"), summary.get("status")) == (
        "gan",
        "finished",
    )
    names = sorted(slug(name) for name in summary["models"]) if is_finished else []
    if not is_finished or not all((folder / name / SUMMARY).exists() for name in names):
        again = f"accelerate launch launch/train_gan.py --shards {shards} --run {folder}"
        raise UserError(f"{folder}: not a finished run of train_gan.py; start or resume it with `{again}`")
    models = {name: load_generator(folder / name) for name in names}
    for name, model in models.items():
        _check_set(folder / name, model, shards)
        for class_name in model.classes:
            if not shards.samples(split, class_name, "real"):
                other = "test" if split == "val" else "val"
                raise UserError(
                    f"{shards}: no image of {class_name} in {split} to compare generated images with; use --split "
                    f"{other}, or import the set with a larger share for {split}"
                )
    return models


def _check_set(folder: Path, model: TrainedGenerator, shards: ShardSet) -> None:
    problem = mismatch_with(model, shards)
    if problem is None:
        return
    if problem.kind == "lineage":
        reason = (
            f"was trained on another set ({problem.model[:12]}) than {shards} ({problem.shards[:12]}), perhaps "
            "on images that are held out here"
        )
    else:
        reason = f"generates images of {problem.model} px, but {shards} has {problem.shards} px"
    raise UserError(f"{folder}: this generator {reason}: name the set it was trained on with --shards")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a finished run's folder for the duration of the block."""
    lock = FolderLock(folder, "an evaluation")
    try:
        yield
    finally:
        lock.release()


def replace_generator(folder: Path, model: TrainedGenerator, metrics: Mapping[str, Any]) -> None:
    """Export the current weights of ``model.network`` as the generator of the model's folder, and update its
    summary."""
    remove_temporaries(folder)
    summary = read_json(folder / SUMMARY)
    if weights_sha256(model.network) != model.weights_sha256:
        # If this is killed before its end, the model counts as unfinished: train_gan.py exports its last checkpoint.
        (folder / SUMMARY).unlink()
    digest = export_generator(
        folder,
        model.network,
        preset=model.preset,
        classes=model.classes,
        lineage=model.lineage,
        metrics=metrics,
    )
    write_summary(folder, summary | {"weights_sha256": digest})


def update_summary(folder: Path, exported: Mapping[str, str]) -> None:
    """Write the digests of the exported weights, ``{folder of the model: SHA-256}``, to the run's summary."""
    summary = read_json(folder / SUMMARY)
    for name, of_model in summary["models"].items():
        of_model["weights_sha256"] = exported[slug(name)]
    write_summary(folder, summary | {"weights_sha256": joint_digest(summary["models"], "weights_sha256")})


def candidates_of(model: Path, with_checkpoints: bool) -> list[Path | None]:
    """The weights to compare, oldest first: of each whole checkpoint the moving average, else G. ``[None]``, the
    exported generator, if there is no checkpoint or ``with_checkpoints`` is False."""
    found: list[Path | None] = []
    for checkpoint in sorted((model / "checkpoints").glob("images-*")) if with_checkpoints else ():
        if is_whole(checkpoint):
            ema = checkpoint / "ema.safetensors"
            found.append(ema if ema.exists() else checkpoint / "generator.safetensors")
    return found or [None]


def images_at(weights: Path | None) -> int | None:
    """Images that had been trained on when a checkpoint's weights were written; None for the exported generator."""
    return None if weights is None else int(weights.parent.name.removeprefix("images-"))


def conclude(folder: Path, result: dict[str, Any], config: EvaluateConfig) -> None:
    """Rank 0: write the run's files, print the tables, log to W&B."""
    update_summary(folder, {name: m["best"]["weights_sha256"] for name, m in result["models"].items()})
    write_atomic(folder / EVALUATION, canonical_json({**result, **environment()}))
    classes = {name: found for model in result["models"].values() for name, found in model["classes"].items()}
    spaces = {name: found["spaces"] for name, found in classes.items()}
    for line in table({**spaces, "overall": result["overall"]}):
        say(line)
    shares = {**classes, "mean": result["mean_over_classes"]}
    for line in lines(shares):
        say(line)
    for name, found in classes.items():
        near = ", ".join(
            f"{space} {copies['share']:.1%} (floor {copies['floor']:.1%})"
            for space, copies in found["copies"].items()
        )
        say(f"{name}: as close to a training image as the closest 1% of {config.split}: {near}")
    track(folder, result, config)


def track(folder: Path, result: Mapping[str, Any], config: EvaluateConfig) -> None:
    """Log the figures to the W&B run of the GAN: they judge it, and are compared beside its options."""
    options = to_dict(config)
    description = Description(
        job="gan-eval",
        name=f"gan-eval-{folder.name}",
        tags=("gan-eval", config.split),
        config=without_paths({"evaluation": options}),
    )
    tracker = start(folder, config.tracking, description, joins=True)
    summary = read_json(folder / SUMMARY)
    names = {slug(name): name for name in summary["models"]}
    for place, model in result["models"].items():
        for look in model["checkpoints"]:
            values = {f"{names[place]}/evaluated/{key}": look[key] for key in ("kid_train", "copy_rate")}
            tracker.log(look["images"] or 0, values)
    tracker.use_artifact("real-set", result["shards"]["real"], Path(config.shards).name)
    tracker.log_artifact("gan", summary["weights_sha256"], folder.name)
    tracker.finish({"metrics": evaluation_figures(result)})
