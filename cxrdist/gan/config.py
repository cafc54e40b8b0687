"""What can be chosen in training the GANs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrdist.budget import check_budget
from cxrdist.data.loader import LoaderConfig
from cxrdist.data.open import DEFAULT_SET
from cxrdist.errors import UserError
from cxrdist.nets.dcgan import DCGANConfig
from cxrdist.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """Train a DCGAN per class on the train split of a shard set.

    The same command again resumes; classes that are finished are left as they are.
    """

    shards: str = DEFAULT_SET
    """Set of real images; the phantom set is made where it is absent."""
    classes: tuple[str, ...] = ("all",)
    """Classes to train, or all."""
    run: str = "runs/gan"
    """Folder of this run; each class has a folder of its own in it."""
    seed: int = 0
    """Seed of weights, z and the order of images."""
    batch: int = 64
    """Global batch size, over all processes."""
    budget: str = "20 epochs"
    """How long to train each class: '20 epochs' or '50000 images'."""
    images_per_class: int | None = 2000
    """At most so many training images of a class (the paper's 2,000); null: all."""
    learning_rate: float = 2e-4
    """Adam's learning rate of both networks (the paper: 2e-4 to 2e-3, by dataset size)."""
    beta1: float = 0.5
    """Adam's momentum."""
    g_loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """G's loss: Goodfellow's non-saturating form, or Eq. 2 to the letter."""
    z_dim: int = 128
    """Dimensions of z, each U(-1, 1)."""
    maps: int = 1024
    """Feature maps at 4x4; each stage halves them."""
    kernel: int = 5
    """Kernel of each convolution, in pixels."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation in both networks."""
    looks: int = 10
    """How many times to log, draw samples and write a checkpoint, evenly over the budget."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware multiplies it fast, else fp32."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How images are read."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name in ("batch", "looks", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: more than 0")
        if self.images_per_class is not None and self.images_per_class < 1:
            raise UserError(f"--images-per-class {self.images_per_class}: 1 or more, or null for all")
        if self.z_dim % 4:
            raise UserError(f"--z-dim {self.z_dim}: a multiple of 4")

    def network(self, image_size: int) -> DCGANConfig:
        """The networks for a set's image size. Raises UserError for a size that no DCGAN here has."""
        try:
            return DCGANConfig(
                size=image_size, z_dim=self.z_dim, maps=self.maps, kernel=self.kernel, norm=self.norm
            )
        except ValueError as error:
            raise UserError(str(error)) from None
