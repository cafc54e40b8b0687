"""Options of classifier training (launch/train_cls.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrdist.config.budget import check_budget
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.data.transforms import AugmentConfig
from cxrdist.errors import OptionError, UserError
from cxrdist.files import slug
from cxrdist.nets.dcnn import DCNNConfig
from cxrdist.run.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class ClsConfig:
    """Train the DCNN classifier on a mix of real and synthetic shards, and test it on real ones.

    Without --config, the preset of configs/cls/ for the set's image size is used. Running the same command again
    resumes.
    """

    mix: str = "DS1"
    """DS1 (real, imbalanced), DS2 (real, balanced), DS3 (real + synthetic), or the path of a YAML rule."""
    shards: str = DEFAULT_SET
    """Set of real images; the default phantom set is created if it does not exist."""
    synthetic: str | None = None
    """Set of synthetic images, not used by DS1 and DS2; null: the one that synthesize.py writes for --shards."""
    run: str | None = None
    """Folder of this run; null: runs/cls-<mix>-seed<seed>."""
    seed: int = 0
    """Seed of weights and of the order of images."""
    batch: int = 128
    """Global batch size, over all processes."""
    budget: str = "100 epochs"
    """How long to train: '100 epochs' of the mix, or '50000 images'."""
    evaluations: int = 100
    """Number of validations, evenly over the budget; each writes a checkpoint."""
    patience: int | None = None
    """Stop after so many validations without a better balanced accuracy; null: never."""
    learning_rate: float = 1e-3
    """Learning rate of Adam before the sigmoid decay."""
    beta1: float = 0.5
    """beta1 of Adam."""
    decay_steepness: float | None = None
    """k in lr / (1 + exp(k (e - e0))), e the epoch; null: 10 / epochs."""
    decay_middle: float | None = None
    """e0 in lr / (1 + exp(k (e - e0))); null: half the epochs."""
    l2: float = 1e-4
    """lambda of the L2 term, lambda / 2 * sum of squared weights, without biases."""
    widths: tuple[int, ...] = (32, 64, 128, 128, 64)
    """Feature maps of each convolution stage; each stage halves the image size."""
    hidden: int = 1024
    """Units of the hidden layer; 0: none, as in Eq. 5."""
    kernel: int = 5
    """Kernel size of the convolutions, in pixels."""
    bias: float = 0.1
    """Initial value of every bias."""
    allow_other_lineage: bool = False
    """Accept synthetic images of a generator that was not trained on this set's train split (a possible leak)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the hardware supports it natively, else fp32."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of the training images; validation and test images are not augmented."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How images are read."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name in ("batch", "evaluations", "learning_rate"):
            if getattr(self, name) <= 0:
                raise OptionError(name, f"must be more than 0, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise OptionError("patience", f"must be 1 or more, or null for none, not {self.patience}")
        if self.l2 < 0:
            raise OptionError("l2", f"must be 0 or more, not {self.l2}")

    @property
    def run_folder(self) -> str:
        return self.run or f"runs/cls-{slug(self.mix)}-seed{self.seed}"

    def network(self, image_size: int, classes: int) -> DCNNConfig:
        """Config of the network for a set. Raises UserError if the image size does not fit its stages."""
        try:
            return DCNNConfig(
                size=image_size,
                classes=classes,
                widths=self.widths,
                hidden=self.hidden,
                kernel=self.kernel,
                bias=self.bias,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
