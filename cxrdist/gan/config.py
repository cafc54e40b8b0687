"""Options of GAN training (launch/train_gan.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cxrdist.config.budget import check_budget
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.data.transforms import AugmentConfig
from cxrdist.distributed.watch import COLLECTIVE_TIMEOUT
from cxrdist.errors import OptionError
from cxrdist.gan.diffaugment import DiffAugmentConfig
from cxrdist.run.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """Train GANs on the train split of a shard set: one per class, or one of all classes.

    Running the same command again resumes; finished classes are not trained again.
    """

    shards: str = DEFAULT_SET
    """Set of real images; the default phantom set is created if it does not exist."""
    init: str | None = None
    """Run whose networks the models start from, such as one of the same preset trained on phantoms; null: random
    weights."""
    classes: tuple[str, ...] = ("all",)
    """Classes to train, or all."""
    preset: str = "custom"
    """Name of these settings in model.json."""
    run: str = "runs/gan"
    """Folder of this run, with a folder for each model."""
    seed: int = 0
    """Seed of weights, z and the order of images."""
    architecture: Literal["dcgan", "conditional"] = "dcgan"
    """dcgan: the paper's, one GAN per class; conditional: one GAN of all classes, with Haar bands and a projection
    D."""
    placement: Literal["data", "class"] = "data"
    """data: all processes share each batch; class: each process trains other classes, without communication."""
    mix: str = "balanced"
    """Mix of real images that a conditional GAN is trained on: balanced, or the path of a YAML rule."""
    use_unlabelled: bool = False
    """Also train a conditional GAN on the unlabelled images of a set that was imported with --keep-unlabelled. They
    have a label of their own in G and D, of which no image is drawn afterwards."""
    unlabelled_share: float | None = None
    """Fraction of the training images that are unlabelled; null: as many in an epoch as of a class on average."""
    batch: int = 64
    """Global batch size, over all processes."""
    accumulate: int = 1
    """Gradient accumulation: each process splits its share of a batch into this many parts, to save memory."""
    budget: str = "20 epochs"
    """How long to train each GAN: '20 epochs' or '50000 images'."""
    images_per_class: int | None = 2000
    """Maximum number of training images per class (the paper: 2,000); null: all."""
    extend: bool = False
    """Train a finished run on to a larger --budget; only without --rate-decay, which follows the budget."""
    learning_rate: float = 2e-4
    """Learning rate of Adam, for both networks."""
    rate_images: int | None = None
    """With fewer training images, the learning rate is raised in proportion, up to ten times; null: never."""
    rate_decay: float = 0.0
    """Part of the budget, at its end, over which the learning rate falls linearly to 5 %; 0: it stays constant."""
    beta1: float = 0.5
    """beta1 of Adam."""
    beta2: float = 0.999
    """beta2 of Adam."""
    g_loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """Loss of G: non-saturating (Goodfellow et al. 2014), or minimax (Eq. 2 of the paper)."""
    z_dim: int = 128
    """Dimensions of z, an even number; each drawn from U(-1, 1) for a dcgan, N(0, 1) for a conditional GAN."""
    maps: int = 1024
    """Feature maps of a dcgan at 4x4 pixels; each stage halves them."""
    widths: tuple[int, ...] = (512, 512, 256, 128, 64, 32, 16)
    """Feature maps of a conditional G at 4x4, 8x8, ... up to half the image's side; later ones are not used."""
    d_widths: tuple[int, ...] = (512, 512, 256, 128, 64, 32, 16)
    """The same of a conditional D."""
    kernel: int = 5
    """Kernel size of the convolutions of a dcgan, in pixels."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation in both networks of a dcgan."""
    regularizer: Literal["none", "r1"] = "none"
    """Regularization of D: r1, a penalty on its gradient at real images."""
    r1_weight: float = 1.0
    """gamma of R1: gamma / 2 * E |dD/dx|^2."""
    r1_every: int = 16
    """Apply R1 every so many steps, weighted by as much (lazy regularization)."""
    embed_dim: int = 32
    """Length of a conditional G's embedding of a class; a short one lets the classes share more."""
    minibatch_std: bool = False
    """Add the standard deviation within classes of a batch as a feature map of a conditional D."""
    minibatch_std_images: int | None = None
    """Compare only so many consecutive images of a batch, a number that divides each part of it; null: all."""
    ema_half_life_images: int = 0
    """Half-life, in images, of the moving average of G that draws samples and is exported; 0: no average."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the real images of a conditional GAN, which its images will show too: mild amounts."""
    augment_images: int | None = None
    """Multiply the amounts by this number over the training images of the class, at most 1.5: rare classes are
    augmented more; null: all classes alike."""
    diffaugment: DiffAugmentConfig = field(default_factory=DiffAugmentConfig)
    """Differentiable augmentation of all images that D sees."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    look_every_images: int | None = None
    """Log, draw samples and write a checkpoint every so many images; null: ten times in total."""
    checkpoint_minutes: float = 10
    """Write a checkpoint at least every so many minutes, beside training; a look writes one anyway."""
    keep: int = 3
    """Number of newest checkpoints to keep, besides the best one found by evaluate_gan.py."""
    patience_images: int | None = None
    """Stop when KID against training images, measured at each look, has not improved for so many images; null: no."""
    copy_limit: float | None = None
    """Stop when more than this fraction of the images of a look are near copies of training images; null: no."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do if D or the diversity of samples collapses; a loss that is not finite always stops the run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the hardware supports it natively, else fp32."""
    threads: int | None = None
    """Threads of each process on CPU; null: its share of the cores, or OMP_NUM_THREADS if you set it."""
    collective_timeout: float = COLLECTIVE_TIMEOUT
    """Minutes after which a process of the job that no longer answers is named and ends the others."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How images are read."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name in ("learning_rate", "r1_weight"):
            if not math.isfinite(getattr(self, name)):
                raise OptionError(name, f"must be a finite number, not {getattr(self, name)}")
        for name in (
            "batch",
            "accumulate",
            "learning_rate",
            "r1_every",
            "keep",
            "embed_dim",
            "checkpoint_minutes",
            "collective_timeout",
        ):
            if getattr(self, name) <= 0:
                raise OptionError(name, f"must be more than 0, not {getattr(self, name)}")
        if self.images_per_class is not None and self.images_per_class < 1:
            raise OptionError(
                "images_per_class", f"must be 1 or more, or null for all, not {self.images_per_class}"
            )
        if self.z_dim < 2 or self.z_dim % 2:
            raise OptionError("z_dim", f"must be an even number of 2 or more, not {self.z_dim}")
        for name in (
            "rate_images",
            "look_every_images",
            "minibatch_std_images",
            "augment_images",
            "patience_images",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(name, f"must be 1 or more, or null, not {value}")
        for name in ("r1_weight", "ema_half_life_images"):
            if getattr(self, name) < 0:
                raise OptionError(name, f"must be 0 or more, not {getattr(self, name)}")
        if self.copy_limit is not None and not 0 < self.copy_limit < 1:
            raise OptionError("copy_limit", f"must be above 0 and below 1, or null, not {self.copy_limit}")
        if self.extend and self.rate_decay:
            raise OptionError(
                "extend",
                f"--rate-decay {self.rate_decay:g} has lowered the learning rate at the end of the budget, so a "
                "longer run is another one: give another --run, with --init to begin with the networks of this one",
            )
        if not 0 <= self.rate_decay <= 1:
            raise OptionError("rate_decay", f"must be from 0 to 1, not {self.rate_decay}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(name, f"must be at least 0 and below 1, not {getattr(self, name)}")
        if self.use_unlabelled and self.architecture == "dcgan":
            raise OptionError("use_unlabelled", "a dcgan trains on one class; use --architecture conditional")
        if self.unlabelled_share is not None:
            if not self.use_unlabelled:
                raise OptionError("unlabelled_share", "has no effect without --use-unlabelled; remove it")
            if not 0 < self.unlabelled_share < 1:
                raise OptionError(
                    "unlabelled_share", f"must be above 0 and below 1, not {self.unlabelled_share}"
                )
        if self.architecture == "dcgan" and self.minibatch_std:
            raise OptionError("minibatch_std", "the paper's dcgan has none; use --architecture conditional")
        if self.minibatch_std:
            self._check_groups()

    def _check_groups(self) -> None:
        """A part of a batch must hold whole groups: else what is compared would depend on how a batch is split."""
        if self.minibatch_std_images is None:
            if self.accumulate > 1:
                raise OptionError(
                    "minibatch_std_images",
                    f"must divide a part of the batch, {self.batch // self.accumulate} images, with --accumulate "
                    f"{self.accumulate}; it is null: the whole batch of {self.batch}",
                )
        elif self.batch % (self.accumulate * self.minibatch_std_images):
            part = "a part of the batch" if self.accumulate > 1 else "the batch"
            raise OptionError(
                "minibatch_std_images",
                f"is {self.minibatch_std_images}, which does not divide {part}, {self.batch // self.accumulate} "
                "images",
            )
