"""Options of the synthesis (launch/synthesize.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET, synthetic_place
from cxrdist.run.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Generate the synthetic images of a mix and write them to a shard set.

    Running the same command again completes an unfinished set, with identical bytes. A finished set is not changed.
    """

    gan: str = "runs/gan"
    """Run folder of train_gan.py with the generators to use."""
    shards: str = DEFAULT_SET
    """Real shard set that the generators were trained on."""
    mix: str = "DS3"
    """Mix to generate synthetic images for, as many as one epoch contains."""
    out: str | None = None
    """Folder or URL of the new set (s3://bucket/set, gs://...); null: <shards>-synthetic."""
    run: str | None = None
    """Folder of this job's config and summary; null: runs/synth-<out>."""
    encoding: Literal["png", "jpg", "npy"] = "png"
    """Encoding of the images."""
    seed: int = 0
    """Seed of the latent vectors z."""
    threads: int | None = None
    """Threads of each process on CPU; null: its share of the cores, or OMP_NUM_THREADS if you set it."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    @property
    def out_place(self) -> str:
        return self.out or synthetic_place(self.shards)

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/synth-{Path(self.out_place).name}")
