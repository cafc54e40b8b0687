"""``cxrdist synth``: what belongs to synthetic sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.parser import parse

DIFFERS = 1


@dataclass(frozen=True, kw_only=True)
class Show:
    """Make one image of a synthetic set again from its generator, and compare it with the stored pixels.

    Exits with 1 if they differ.
    """

    key: str
    """Key of the image."""
    set: str
    """Synthetic set that holds it."""
    gan: str = "runs/gan"
    """Run of train_gan.py that the set was made with, or the folder of its generator."""
    out: str | None = None
    """PNG of both images, side by side; null: none."""


def show(argv: Sequence[str]) -> int:
    options = parse(
        Show,
        argv,
        prog="cxrdist synth show",
        example="cxrdist synth show 0123456789abcdef-000000-00000007 --set shards/phantom-synthetic --gan runs/gan",
        positional=("key",),
    )
    import numpy as np
    from PIL import Image

    from cxrdist.data.shards.shard_set import ShardSet
    from cxrdist.files import atomic_writer
    from cxrdist.synth.show import show

    shown = show(options.key, ShardSet(options.set), Path(options.gan))
    meta = shown.sample.meta
    print(
        f"{options.key}: {meta['class']}, seed {meta['seed']}, shard {meta['shard']}, candidate {meta['candidate']}"
    )
    print(f"made by {shown.generator} (weights {meta['generator_sha256'][:12]})")
    if options.out is not None:
        with atomic_writer(Path(options.out)) as file:
            Image.fromarray(np.hstack([shown.stored, shown.again])).save(file, "PNG")
        print(f"{options.out}: the stored image, and the one made now")
    if not shown.differing:
        print(f"made again: all {shown.stored.size:,} pixels are the stored ones")
        return 0
    pixels = f"{shown.differing:,} of {shown.stored.size:,} pixels"
    print(f"made again: {pixels} differ, by up to {shown.largest} grey values")
    print("another processor or GPU than that of the synthesis rounds in another way")
    return DIFFERS


COMMANDS = {"show": show}
