"""The preset that a job uses if no config is given: the one that fits the image size of its shard set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from cxrdist.config.parser import parse
from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.storage.store import store_of

T = TypeVar("T")

PHANTOM_SIZE = 64


def parse_with_preset(
    cls: type[T], kind: str, *, prog: str, example: str, argv: Sequence[str] | None = None
) -> T:
    """``parse``, with the preset that fits ``--shards`` if no ``--config`` is given."""
    argv = list(sys.argv[1:] if argv is None else argv)
    config = parse(cls, argv, prog=prog, example=example)
    if any(word == "--config" or word.startswith("--config=") for word in argv):
        return config
    shards = store_of(str(getattr(config, "shards")))  # noqa: B009
    size = read_manifest(shards).image_size if shards.exists(MANIFEST) else PHANTOM_SIZE
    return parse(cls, argv, prog=prog, example=example, default_config=find(preset_of(kind, size)))
