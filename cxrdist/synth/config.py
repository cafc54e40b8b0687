"""Options of the synthesis (launch/synthesize.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET, synthetic_place
from cxrdist.errors import OptionError
from cxrdist.run.tracking.config import TrackingConfig

DEFAULT_MIX = "DS3"


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Generate the synthetic images of a mix and write them to a shard set.

    Running the same command again completes an unfinished set, with identical bytes. A finished set is not changed.
    """

    gan: str = "runs/gan"
    """Run folder of train_gan.py with the generators to use."""
    shards: str = DEFAULT_SET
    """Real shard set that the generators were trained on."""
    mix: str | None = None
    """Mix to generate synthetic images for, as many as one epoch contains; null: DS3, or what --count says."""
    count: str | None = None
    """Number of images instead: '1000' of each class, or 'Pneumothorax=5000,Pulmonary Edema=2000'."""
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

    def __post_init__(self) -> None:
        if self.count is not None and self.mix is not None:
            raise OptionError("count", f"is given beside --mix {self.mix}: give one of them")

    @property
    def mix_name(self) -> str:
        """Of the mix that says how many images to make, if ``count`` does not."""
        return self.mix or DEFAULT_MIX

    @property
    def out_place(self) -> str:
        return self.out or synthetic_place(self.shards)

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/synth-{Path(self.out_place).name}")
