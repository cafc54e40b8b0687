"""Options of the synthesis (launch/synthesize.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET, synthetic_place
from cxrdist.distributed.watch import COLLECTIVE_TIMEOUT
from cxrdist.errors import OptionError
from cxrdist.run.tracking.config import TrackingConfig

DEFAULT_MIX = "DS3"
ENSEMBLE = 2
"""Classifiers that are trained for the gates, if none are named."""


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Generate the synthetic images of a mix, and write those that pass the gates to a shard set.

    Running the same command again completes an unfinished set, with identical bytes, and fills up a set from which a
    review removed images.
    """

    gan: str = "runs/gan"
    """Run folder of train_gan.py with the generators to use; several, separated by commas, share each class."""
    generator: str | None = None
    """A generator of your own instead: package.module:load (docs/synthesis.md)."""
    shards: str = DEFAULT_SET
    """Real shard set that the generators were trained on."""
    mix: str | None = None
    """Mix to generate synthetic images for, as many as one epoch contains; null: DS3, or what --count says."""
    count: str | None = None
    """Number of images instead: '1000' of each class, or 'Pneumothorax=5000,Pulmonary Edema=2000'."""
    out: str | None = None
    """Folder or URL of the new set (s3://bucket/set, gs://...); null: <shards>-synthetic."""
    run: str | None = None
    """Folder of this job's config, scores and summary; null: runs/synth-<out>."""
    gates: str = "default"
    """Which images are written: none (all), default, strict, or a YAML file like those in configs/gates."""
    classifiers: tuple[str, ...] = ()
    """Finished runs of train_cls.py on real images of this set that the gates use; by default two are trained first:
    <gan>/classifier and <gan>/classifier-seed1 (with --generator <run>-classifier ...)."""
    least_pass_rate: float = 0.05
    """Stop if a smaller share of a generator's images passes all gates."""
    keep_rejected: int = 0
    """Keep so many of the images that the gates refuse, of each shard, in <out>-rejected, to look at."""
    encoding: Literal["png", "jpg", "npy"] = "png"
    """Encoding of the images."""
    seed: int = 0
    """Seed of the latent vectors z."""
    threads: int | None = None
    """Threads of each process on CPU; null: its share of the cores, or OMP_NUM_THREADS if you set it."""
    collective_timeout: float = COLLECTIVE_TIMEOUT
    """Minutes after which a process of the job that no longer answers is named and ends the others."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        if self.count is not None and self.mix is not None:
            raise OptionError("count", f"is given beside --mix {self.mix}: give one of them")
        if self.generator is None and not self.gan_runs:
            raise OptionError("gan", f"is {self.gan!r}: expected a run folder of train_gan.py")
        if not 0 < self.least_pass_rate <= 1:
            raise OptionError(
                "least_pass_rate", f"is {self.least_pass_rate:g}: expected a share above 0, at most 1"
            )
        if self.collective_timeout <= 0:
            raise OptionError("collective_timeout", f"is {self.collective_timeout:g}: expected more than 0")
        if self.keep_rejected < 0:
            raise OptionError("keep_rejected", f"is {self.keep_rejected}: expected 0 or more")

    @property
    def gan_runs(self) -> list[Path]:
        return [Path(name.strip()) for name in self.gan.split(",") if name.strip()]

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
