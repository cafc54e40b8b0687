"""Which preset a job takes when none is named: the one that fits the set's image size."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from cxrdist.config import find, parse
from cxrdist.data.shards.manifest import MANIFEST, read_manifest
from cxrdist.data.storage.store import store_of

T = TypeVar("T")

# Up to so many pixels, this preset.
PRESETS: dict[str, dict[int, str]] = {
    "gan": {64: "configs/gan/demo.yaml", 4096: "configs/gan/paper.yaml"},
    "cls": {
        32: "configs/cls/px32.yaml",
        64: "configs/cls/px64.yaml",
        128: "configs/cls/px128.yaml",
        4096: "configs/cls/paper.yaml",
    },
}
PHANTOM_SIZE = 64


def parse_with_preset(
    cls: type[T], kind: str, *, prog: str, example: str, argv: Sequence[str] | None = None
) -> T:
    """``parse``, with the preset that fits ``--shards`` where no ``--config`` is given."""
    argv = list(sys.argv[1:] if argv is None else argv)
    config = parse(cls, argv, prog=prog, example=example)
    if any(word == "--config" or word.startswith("--config=") for word in argv):
        return config
    shards = store_of(str(getattr(config, "shards")))  # noqa: B009
    size = read_manifest(shards)["image_size"] if shards.exists(MANIFEST) else PHANTOM_SIZE
    preset = next(name for most, name in PRESETS[kind].items() if size <= most)
    return parse(cls, argv, prog=prog, example=example, default_config=find(preset))
