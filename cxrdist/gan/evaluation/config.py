"""What can be chosen in evaluating GANs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import UserError
from cxrdist.run.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Tell how close a GAN run's images are to real ones, and keep each model's best checkpoint as its generator.

    FID, KID, precision, recall, density and coverage per class and overall, in two feature spaces, each beside its
    floor: the same figure of real training images. And the nearest training image of the closest generated ones.
    """

    run: str = "runs/gan"
    """Finished run of train_gan.py."""
    shards: str = DEFAULT_SET
    """Set of real images that it was trained on."""
    split: Literal["val", "test"] = "val"
    """Real images that generated ones are compared with; of patients whom no GAN has seen."""
    images: int | None = None
    """Generated images per class; null: as many as train has of the class, but 500 at least and 2,000 at most."""
    k: int = 5
    """Precision, recall, density and coverage: which nearest neighbour a ball reaches to."""
    classifier: str | None = None
    """Run of train_cls.py on real images of this set; null: <run>/classifier, trained where it is absent."""
    features: str = "random"
    """Second feature space: random, a fixed untrained network; or package.module:function, which returns a callable
    from images [B, 1, H, W] uint8 to features [B, D]."""
    checkpoints: bool = True
    """Compare the checkpoints that are kept, too, and export the best of a model as its generator."""
    seed: int = 0
    """Seed of z, and of which real images are taken where there are more than 2,000."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 2:
            raise UserError(f"--images {self.images}: 2 or more, or null")
        if self.k < 1:
            raise UserError(f"--k {self.k}: 1 or more")
        if self.features != "random" and not all(self.features.partition(":")):
            raise UserError(
                f"--features {self.features!r}: random, or your own as package.module:function, such as "
                "my_features:load"
            )
