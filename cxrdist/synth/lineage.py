"""Which generators of a run make which classes, and what they have learnt from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import slug
from cxrdist.models import ALL_CLASSES, MODEL_FILE, TrainedGenerator, load_generator


def load_generators(gan_run: Path, classes: Iterable[str], shards: ShardSet) -> dict[str, TrainedGenerator]:
    """``{class: its generator}``: a class's own, else the one of all classes, which is then the same object.

    Raises UserError where one is missing, changed, of another image size, or has learnt from anything but the
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
                f"{folder}: this generator makes {', '.join(loaded[folder].classes)}, not {name}; train one that "
                f"does with `{_training(gan_run, shards)}-other`"
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
    again = f"train one on it with `{_training(gan_run, shards)}-other`"
    if not descends_from(generator.lineage, shards):
        raise UserError(
            f"{folder}: this generator has learnt from another set ({generator.lineage['real_digest'][:12]}) than "
            f"{shards} ({shards.digest[:12]}); {again}"
        )
    if generator.image_size != shards.image_size:
        raise UserError(
            f"{folder}: this generator makes images of {generator.image_size} px, and {shards} has "
            f"{shards.image_size} px; {again}"
        )


def _training(gan_run: Path, shards: ShardSet) -> str:
    return f"accelerate launch launch/train_gan.py --shards {shards} --run {gan_run}"
