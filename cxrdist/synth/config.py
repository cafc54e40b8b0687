"""What can be chosen in synthesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET, synthetic_place
from cxrdist.run.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Write the synthetic images that a mix lacks straight into a shard set.

    The same command again finishes an unfinished set, bit for bit the same; a finished one is left as it is.
    """

    gan: str = "runs/gan"
    """Run of train_gan.py whose generators are used."""
    shards: str = DEFAULT_SET
    """Set of real images that the generators were trained on."""
    mix: str = "DS3"
    """Mix whose synthetic images are made."""
    out: str | None = None
    """Folder of the new set, or its URL (s3://bucket/set, gs://...); by default <shards>-synthetic."""
    run: str | None = None
    """Folder of this job's config and summary; by default runs/synth-<out>."""
    encoding: Literal["png", "jpg", "npy"] = "png"
    """How images are stored."""
    seed: int = 0
    """Seed of z."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    @property
    def out_place(self) -> str:
        return self.out or synthetic_place(self.shards)

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/synth-{Path(self.out_place).name}")
