"""What can be chosen in training the GANs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cxrdist.budget import check_budget
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import UserError
from cxrdist.gan.diffaugment import DiffAugmentConfig
from cxrdist.run.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """Train GANs on the train split of a shard set: one per class, or one of all classes.

    The same command again resumes; classes that are finished are left as they are.
    """

    shards: str = DEFAULT_SET
    """Set of real images; the phantom set is made where it is absent."""
    classes: tuple[str, ...] = ("all",)
    """Classes to train, or all."""
    preset: str = "custom"
    """What model.json calls these settings."""
    run: str = "runs/gan"
    """Folder of this run; each model has a folder of its own in it."""
    seed: int = 0
    """Seed of weights, z and the order of images."""
    architecture: Literal["dcgan", "conditional"] = "dcgan"
    """dcgan: the paper's, one per class; conditional: one generator of all classes, with a projection D."""
    placement: Literal["data", "class"] = "data"
    """data: every process works on each batch; class: each process trains other classes, without communication."""
    mix: str = "balanced"
    """Mix whose real images a conditional GAN learns from: balanced, or the path of a YAML rule."""
    batch: int = 64
    """Global batch size, over all processes."""
    accumulate: int = 1
    """Parts in which each process works on its share of a batch, one after the other, to save memory."""
    budget: str = "20 epochs"
    """How long to train each GAN: '20 epochs' or '50000 images'."""
    images_per_class: int | None = 2000
    """At most so many training images of a class (the paper's 2,000); null: all."""
    learning_rate: float = 2e-4
    """Adam's learning rate of both networks."""
    rate_images: int | None = None
    """A GAN of fewer training images than this learns faster in proportion, up to ten times; null: no GAN does."""
    beta1: float = 0.5
    """Adam's momentum."""
    beta2: float = 0.999
    """Adam's decay of squared gradients."""
    g_loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """G's loss: Goodfellow's non-saturating form, or Eq. 2 to the letter."""
    z_dim: int = 128
    """Dimensions of z, each U(-1, 1)."""
    maps: int = 1024
    """Feature maps at 4x4; each stage halves them."""
    kernel: int = 5
    """Kernel of each convolution of a dcgan, in pixels."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation in both networks of a dcgan."""
    regularizer: Literal["none", "r1", "spectral"] = "none"
    """What keeps D smooth: R1, a penalty on its gradient at real images; or spectral normalisation of its weights."""
    r1_weight: float = 1.0
    """gamma of R1, in gamma / 2 * E |dD/dx|^2."""
    r1_every: int = 16
    """Steps from one R1 penalty to the next; each then weighs so many times more (lazy regularisation)."""
    minibatch_std: bool = False
    """Show a conditional D how much the images of a batch differ."""
    ema_half_life_images: int = 0
    """Images after which a weight counts half in G's moving average, which is what draws and is kept; 0: none."""
    diffaugment: DiffAugmentConfig = field(default_factory=DiffAugmentConfig)
    """What is done to all images before D sees them."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    look_every_images: int | None = None
    """Log, draw samples and write a checkpoint every so many images; null: ten times over the budget."""
    keep: int = 3
    """How many of the newest checkpoints are kept, beside the best one that evaluate_gan.py found."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when D or the diversity of samples collapses; figures that are not finite stop in any case."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware multiplies it fast, else fp32."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How images are read."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name in ("learning_rate", "r1_weight"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: a finite number")
        for name in ("batch", "accumulate", "learning_rate", "r1_every", "keep"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: more than 0")
        if self.images_per_class is not None and self.images_per_class < 1:
            raise UserError(f"--images-per-class {self.images_per_class}: 1 or more, or null for all")
        if self.z_dim % 4:
            raise UserError(f"--z-dim {self.z_dim}: a multiple of 4")
        for name in ("rate_images", "look_every_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: 1 or more, or null")
        for name in ("r1_weight", "ema_half_life_images"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: from 0 to below 1")
        if self.architecture == "dcgan" and (self.minibatch_std or self.regularizer == "spectral"):
            what = "--minibatch-std" if self.minibatch_std else "--regularizer spectral"
            raise UserError(f"{what}: the paper's dcgan has none; take --architecture conditional")
