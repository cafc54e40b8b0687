"""What a job says of itself: the name, tags and config of its W&B run, built from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrdist.distributed.dist import Dist
from cxrdist.run.folder import environment

Job = Literal["gan", "gan-eval", "synth", "cls", "study"]
MAX_TAG_CHARACTERS = 64
"""W&B refuses longer ones."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A W&B run before it starts."""

    job: Job
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    """The options, ``data``, ``machine``, ``versions`` and ``git_commit``, nested; absolute paths are shortened."""


def describe(
    job: Job,
    name: str,
    labels: Sequence[str],
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    dist: Dist,
) -> Description:
    """The description of a job. ``labels``: tags besides the job, image size and seed, such as the mix;
    ``options``: of the job, as JSON types; ``data``: see ``data_of``."""
    seed = options.get("seed")
    tags = [job, *labels, f"{data['image_size']}px", *([] if seed is None else [f"seed{seed}"])]
    machine = machine_of(dist.world_size, dist.device_name, dist.precision, dist.threads)
    return Description(
        job=job,
        name=name,
        tags=tuple(tag[:MAX_TAG_CHARACTERS] for tag in dict.fromkeys(tags) if tag),
        config=config_of(options, data, machine, environment()),
    )


def cls_name(mix: str, seed: int) -> str:
    return f"{mix}-seed{seed}"


def gan_name(preset: str, image_size: int, seed: int) -> str:
    return f"gan-{preset}-{image_size}px" + (f"-seed{seed}" if seed else "")


def data_of(
    *,
    real_digest: str,
    image_size: int,
    classes: Sequence[str],
    train_counts: Mapping[str, Any],
    synthetic_digest: str | None = None,
    epoch_counts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The data of a job, for its config. ``train_counts``, ``epoch_counts``: ``{class: {origin: images}}`` in the
    real set's train split, and in an epoch."""
    data = {
        "real_digest": real_digest,
        "synthetic_digest": synthetic_digest,
        "image_size": image_size,
        "classes": list(classes),
        "train_counts": {name: dict(of) for name, of in train_counts.items()},
    }
    if epoch_counts is not None:
        data["epoch_counts"] = {name: dict(of) for name, of in epoch_counts.items()}
    return data


def machine_of(world_size: int, device: str, precision: str, threads: int) -> dict[str, Any]:
    """What a job runs on; ``precision``: the resolved one."""
    return {"world_size": world_size, "device": device, "precision": precision, "threads": threads}


def config_of(
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    machine: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> dict[str, Any]:
    """The config of a W&B run, with the precision that the run's own config has. ``versions``:
    run.folder.environment()."""
    resolved = {"precision": machine["precision"]} if "precision" in options else {}
    return without_paths({**options, **resolved, "data": data, "machine": machine, **versions})


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with absolute paths reduced to their last part: a path may contain the name of a person or place."""
    return {
        key: without_paths(value)
        if isinstance(value, Mapping)
        else Path(value).name
        if isinstance(value, str) and Path(value).expanduser().is_absolute()
        else value
        for key, value in settings.items()
    }
