"""Config files of accelerate, as ``accelerate launch`` reads them."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import DistributedType

from cxrdist.config.yaml_files import find, load_yaml
from cxrdist.errors import UserError

KNOWN_KEYS = frozenset(field.name for field in dataclasses.fields(ClusterConfig)) | {"fp16", "dynamo_backend"}
"""Of the installed accelerate, which stops at others."""
TYPES = tuple(kind.value for kind in DistributedType)
"""What ``distributed_type`` may be."""


def default_file() -> Path | None:
    """The config that ``accelerate launch`` takes without --config_file; None if there is none. accelerate looks at
    HF_HOME, then XDG_CACHE_HOME, when it is imported; this looks now."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))  # noqa: PTH118  (expanduser comes after)
    # Unlike Path.expanduser it raises nothing for a user without a home folder.
    file = Path(os.path.expanduser(home)) / "accelerate" / "default_config.yaml"  # noqa: PTH111
    return file if file.is_file() else None


def read(place: str) -> dict[str, Any]:
    """The values of a config file, YAML or JSON, which may be named relative to the clone. Raises UserError for a
    file that is missing or no mapping, and for a key that occurs twice."""
    path = Path(place) if Path(place).is_file() else find(place)
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{place}: not JSON: {error}") from None
    else:
        load_yaml(path)  # which is strict; accelerate's own reader takes `no` for False
        values = yaml.safe_load(path.read_text()) or {}
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected a mapping (key: value), got {type(values).__name__}")
    return values
