"""``<run>/wandb.json``: which W&B run belongs to a run folder, so that a resumed job stays one W&B run."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError
from cxrdist.files import canonical_json, read_json, sha256_bytes, write_atomic
from cxrdist.run.folder import FREE_KEYS
from cxrdist.run.tracking.description import Description

IDENTITY = "wandb.json"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A W&B run, as it was first started."""

    id: str
    config_sha256: str
    """Of the options that a resumed job may not change, and of the data."""
    name: str
    job: str
    group: str | None
    tags: tuple[str, ...]


def read_identity(folder: Path) -> Identity | None:
    """The W&B run of a folder; None if it has none, or if its ``wandb.json`` is damaged."""
    try:
        content = read_json(folder / IDENTITY)
        return Identity(**{**content, "tags": tuple(content["tags"])})
    except (UserError, TypeError, KeyError):
        return None


def identity_of(folder: Path, description: Description, group: str | None, *, joins: bool) -> Identity:
    """The W&B run that a job logs to, written to the folder.

    The folder's own if it was started with the same config and data, or if the job ``joins`` whatever run the folder
    has, as the evaluation of a GAN does; else a new one.
    """
    digest = config_sha256(description.config)
    found = read_identity(folder)
    if found is not None and joins:
        found = dataclasses.replace(found, tags=tuple(dict.fromkeys([*found.tags, "evaluated"])))
    elif found is None or found.config_sha256 != digest:
        found = Identity(
            id=secrets.token_hex(8),
            config_sha256=digest,
            name=description.name,
            job=description.job,
            group=group,
            tags=description.tags,
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / IDENTITY, canonical_json(dataclasses.asdict(found)))
    return found


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config without what a resumed run may change: free options, the machine, versions."""
    changing = FREE_KEYS | {"machine", "versions", "git_commit"}
    return sha256_bytes(canonical_json({k: v for k, v in config.items() if k not in changing}))


def group_of(folder: Path, group: str | None) -> str | None:
    """The W&B group of a run folder: ``group`` if given, else WANDB_RUN_GROUP, else the study's name of
    ``runs/<study>/<run>``. No other part of a path is sent: it could name a person."""
    if chosen := group or os.environ.get("WANDB_RUN_GROUP"):
        return chosen
    parts = folder.parts
    return parts[-2] if len(parts) >= 3 and parts[-3] == "runs" else None
