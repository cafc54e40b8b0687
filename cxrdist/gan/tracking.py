"""What a GAN run and its evaluation log: names of metrics, the W&B run's description, artifacts.

<model>/loss_d, <model>/d_accuracy ...    metrics of one G and D, named like the model: its class, or "all classes"
<class>/spread, <class>/samples           what belongs to a class, under the same name whichever model generates it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cxrdist.config.parser import to_dict
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.files import slug
from cxrdist.gan.config import GANConfig
from cxrdist.run.tracking.description import Description, data_of, describe, gan_name
from cxrdist.run.tracking.metrics_file import Row, read_rows
from cxrdist.run.tracking.no_tracker import NoTracker

SPREAD = "spread/"


def describe_gan(config: GANConfig, shards: ShardSet, dist: Dist, model: str | None = None) -> Description:
    """Of a run, or of one ``model`` of it that has a W&B run of its own."""
    name = gan_name(config.preset, shards.image_size, config.seed) + (f"-{slug(model)}" if model else "")
    labels = [config.preset, *([model] if model else [])]
    return describe("gan", name, labels, to_dict(config), gan_data(shards), dist)


def gan_data(shards: ShardSet) -> dict[str, Any]:
    return data_of(
        real_digest=shards.digest,
        image_size=shards.image_size,
        classes=shards.classes,
        train_counts=shards.manifest.counts["train"],
    )


def row_of(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The names of a line of a model's ``metrics.jsonl`` in the run's W&B run."""
    return {
        f"{name.removeprefix(SPREAD)}/spread" if name.startswith(SPREAD) else f"{model}/{name}": value
        for name, value in values.items()
    }


def replay_model(
    tracker: NoTracker, folder: Path, model: str, classes: Iterable[str], rows: Iterable[Row]
) -> None:
    """Give the tracker the looks that earlier processes logged, with the sample grids that are there."""
    classes = list(classes)
    for images, values in rows:
        for name in classes:
            if (grid := grid_path(folder, name, images)).exists():
                tracker.picture(images, f"{name}/samples", grid)
        tracker.log(images, row_of(model, values))


def replay_finished(tracker: NoTracker, run: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """The same of finished models, ``{name: summary}``, in the order in which they were trained."""
    folders = {name: run / slug(name) for name in models}
    for name in sorted(models, key=lambda name: (folders[name] / "metrics.jsonl").stat().st_mtime_ns):
        rows = read_rows(folders[name])
        replay_model(tracker, folders[name], name, models[name]["classes"], rows)


def grid_path(folder: Path, class_name: str, images: int) -> Path:
    """The sample grid of a class at a look, in the folder of its model."""
    return folder / "samples" / slug(class_name) / f"images-{images:09d}.png"
