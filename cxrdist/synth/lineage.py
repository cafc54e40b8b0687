"""Find the generator of each class in a GAN run, and check that it was trained on the set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import slug
from cxrdist.models import ALL_CLASSES, MODEL_FILE, TrainedGenerator, load_generator, mismatch_with


def load_generators(gan_run: Path, classes: Iterable[str], shards: ShardSet) -> dict[str, TrainedGenerator]:
    """``{class: generator}``: the generator of that class alone, else the one of all classes (the same object for
    each of them).

    Raises UserError if one is missing, was changed, has another image size, or was trained on anything but the
    train split of ``shards`` or of a set of its family.
    """
    loaded: dict[Path, TrainedGenerator] = {}
    found = {}
    for name in classes:
        folder = _folder_of(gan_run, name, shards)
        if folder not in loaded:
            loaded[folder] = load_generator(folder)
            _check(loaded[folder], folder, gan_run, shards)
        if name not in loaded[folder].classes:
            raise UserError(
                f"{folder}: the classes of this generator are {', '.join(loaded[folder].classes)}, not {name}; train "
                f"another with `{_training(gan_run, shards)}-other`"
            )
        found[name] = loaded[folder]
    return found


def _folder_of(gan_run: Path, class_name: str, shards: ShardSet) -> Path:
    for folder in (gan_run / slug(class_name), gan_run / slug(ALL_CLASSES)):
        if (folder / MODEL_FILE).exists():
            return folder
    raise UserError(
        f"{gan_run} has no finished generator of {class_name}; train it with `{_training(gan_run, shards)}`"
    )


def _check(generator: TrainedGenerator, folder: Path, gan_run: Path, shards: ShardSet) -> None:
    problem = mismatch_with(generator, shards)
    if problem is None:
        return
    if problem.kind == "lineage":
        reason = (
            f"was trained on another set ({problem.model[:12]}) than the train split of {shards} "
            f"({problem.shards[:12]})"
        )
    else:
        reason = f"generates images of {problem.model} px, but {shards} has {problem.shards} px"
    raise UserError(
        f"{folder}: this generator {reason}; train one on this set with `{_training(gan_run, shards)}-other`"
    )


def _training(gan_run: Path, shards: ShardSet) -> str:
    return f"accelerate launch launch/train_gan.py --shards {shards} --run {gan_run}"
