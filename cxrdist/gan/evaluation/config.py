"""Options of the evaluation of GANs (launch/evaluate_gan.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.distributed.watch import COLLECTIVE_TIMEOUT
from cxrdist.errors import OptionError
from cxrdist.run.tracking.config import TrackingConfig

COPY_LIMIT = 0.10
"""Twice the near-copy rate of real images."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure how close a GAN run's images are to real ones, and export each model's best checkpoint.

    Reports FID, KID, precision, recall, density and coverage per class and overall, in two feature spaces, each
    beside its floor: the same metric of real training images. Reports the classifier's agreement with the labels and
    the diversity of each class, and searches for copies of training images.
    """

    run: str = "runs/gan"
    """Finished run of train_gan.py."""
    shards: str = DEFAULT_SET
    """Real shard set that the run was trained on."""
    split: Literal["val", "test"] = "val"
    """Split of real images to compare with; no GAN was trained on its patients."""
    images: int | None = None
    """Generated images per class, 2 or more; null: as many as the class has in train, at least 500, at most 2,000."""
    k: int = 5
    """k of precision, recall, density and coverage: the radius of a ball is the distance to the k-th neighbour."""
    classifier: str | None = None
    """Run of train_cls.py on real images of this set; null: <run>/classifier, trained if it does not exist."""
    allow_code: bool = False
    """Run the code that the classifier's folder names as its network (package.module:build)."""
    features: str = "random"
    """Second feature space: random, a fixed untrained network; or package.module:function, a function that returns
    a callable from images [B, 1, H, W] uint8 to features [B, D]."""
    checkpoints: bool = True
    """Compare the kept checkpoints and export the best one of each model as its generator."""
    copy_limit: float = COPY_LIMIT
    """Near-copy rate (mean over classes) up to which a checkpoint may be chosen; of real images it is about 0.05."""
    seed: int = 0
    """Seed of z, of the choice of real images if a class has more than 2,000, and of the bootstrap."""
    threads: int | None = None
    """Threads of each process on CPU; null: its share of the cores, or OMP_NUM_THREADS if you set it."""
    collective_timeout: float = COLLECTIVE_TIMEOUT
    """Minutes after which a process of the job that no longer answers is named and ends the others."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 2:
            raise OptionError("images", f"must be 2 or more, or null, not {self.images}")
        if self.collective_timeout <= 0:
            raise OptionError("collective_timeout", f"must be more than 0, not {self.collective_timeout:g}")
        if self.k < 1:
            raise OptionError("k", f"must be 1 or more, not {self.k}")
        if not 0 <= self.copy_limit <= 1:
            raise OptionError("copy_limit", f"must be from 0 to 1, not {self.copy_limit}")
        if self.features != "random" and not all(self.features.partition(":")):
            raise OptionError(
                "features",
                "must be random, or your own as package.module:function, such as my_features:load, "
                f"not {self.features!r}",
            )
