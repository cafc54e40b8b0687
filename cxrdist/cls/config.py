"""Options of classifier training (launch/train_cls.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrdist.config.budget import check_budget
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.mix.named import DEFAULT_MIX
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.data.transforms import AugmentConfig
from cxrdist.distributed.watch import COLLECTIVE_TIMEOUT
from cxrdist.errors import OptionError
from cxrdist.files import slug
from cxrdist.run.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training that has several, such as pre-training on synthetic images."""

    mix: str
    """Its mix."""
    budget: str
    """How long it takes: '10 epochs' of its mix, '20000 images', or '50 %' of the run's budget."""
    learning_rate: float | None = None
    """Its learning rate before the decay; null: the run's."""
    freeze: Literal["nothing", "features"] = "nothing"
    """features: train the last linear layer alone."""

    def __post_init__(self) -> None:
        check_budget(self.budget, percent=True)
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise OptionError("learning_rate", f"must be more than 0, not {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class ClsConfig:
    """Train a classifier on a mix of real and synthetic shards, and test it on real ones.

    Without --config, the preset of configs/cls/ for the set's image size is used. Running the same command again
    resumes.
    """

    mix: str | None = None
    """DS1 (real, imbalanced), DS2 (real, balanced), DS3 (real + synthetic), another one of configs/mix, or the path
    of a YAML rule; null: DS1, or the stages' mixes."""
    stages: tuple[Stage, ...] = ()
    """Train in stages, one after the other: a YAML list, each with a mix, a budget (also '50 %'), and optionally
    learning_rate and freeze (features: the last layer alone); see configs/cls/pretrain.yaml. Empty: one stage on
    --mix."""
    arm: str | None = None
    """Name of this run's arm in a study, shown in reports; null: its mixes."""
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
    accumulate: int = 1
    """Parts in which each process takes its share of a batch, to save memory; gradients are those of the batch."""
    evaluations: int = 100
    """Number of validations, evenly over the budget; each writes a checkpoint."""
    checkpoint_minutes: float = 10
    """Write a checkpoint at least every so many minutes, beside training; a validation writes one anyway."""
    patience: int | None = None
    """Stop after so many validations of the last stage without a better balanced accuracy; null: never."""
    keep_weights: Literal["best", "last"] = "best"
    """Weights to test and export: those with the best balanced accuracy on val in the last stage, or the last ones.
    With few validation images the best ones are partly chosen by chance."""
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
    class_weights: Literal["none", "inverse"] = "none"
    """inverse: multiply the loss of each class by N / (classes n), n of N its images in an epoch of the mix."""
    sampling: Literal["mix", "balanced"] = "mix"
    """balanced: draw every class equally often, whatever their numbers in the mix."""
    label_smoothing: float = 0.0
    """Part of each target that is divided among all classes, 0 to 1 (exclusive)."""
    synthetic_label_smoothing: float | None = None
    """The same for synthetic images; null: as for real ones."""
    soft_labels: str | None = None
    """CSV of `cxrdist predict` with probabilities: the targets of the images whose keys it has, instead of their
    class. In an arm of a study also arm:NAME: what all classifiers of that arm of real images, as an ensemble, say of
    the synthetic images."""
    mixup: float = 0.0
    """alpha of mixup (Zhang et al. 2018): mix each image and its target with another of the batch, in a ratio drawn
    from Beta(alpha, alpha); 0: off."""
    network: str = "dcnn"
    """dcnn (the paper's), densenet121 or resnet18 (MONAI's, without pretrained weights), or 'package.module:build', a
    function of yours: build(image_size, classes) -> torch module, images [B, 1, H, W] in [-1, 1] to logits."""
    widths: tuple[int, ...] = (32, 64, 128, 128, 64)
    """dcnn: feature maps of each convolution stage; each stage halves the image size."""
    hidden: int = 1024
    """dcnn: units of the hidden layer; 0: none, as in Eq. 5."""
    kernel: int = 5
    """dcnn: kernel size of the convolutions, in pixels."""
    bias: float = 0.1
    """dcnn: initial value of every bias."""
    allow_other_lineage: bool = False
    """Accept synthetic images of a generator that was not trained on this set's train split (a possible leak)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the hardware supports it natively, else fp32."""
    threads: int | None = None
    """Threads of each process on CPU; null: its share of the cores, or OMP_NUM_THREADS if you set it."""
    collective_timeout: float = COLLECTIVE_TIMEOUT
    """Minutes after which a process of the job that no longer answers is named and ends the others."""
    compile: bool = False
    """Compile the network with torch.compile, on GPUs; it takes half a minute once."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of the training images; validation and test images are not augmented."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How images are read."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name in (
            "batch",
            "accumulate",
            "evaluations",
            "learning_rate",
            "checkpoint_minutes",
            "collective_timeout",
        ):
            if getattr(self, name) <= 0:
                raise OptionError(name, f"must be more than 0, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise OptionError("patience", f"must be 1 or more, or null for none, not {self.patience}")
        for name in ("l2", "mixup"):
            if getattr(self, name) < 0:
                raise OptionError(name, f"must be 0 or more, not {getattr(self, name)}")
        for name in ("label_smoothing", "synthetic_label_smoothing"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise OptionError(name, f"must be from 0 to below 1, not {value}")
        if self.soft_labels is not None and self.soft_labels.startswith("arm:"):
            raise OptionError(
                "soft_labels",
                f"{self.soft_labels}: only a study can make the labels by the classifiers of an arm; name a CSV of "
                "`cxrdist predict`",
            )
        if self.stages and self.mix is not None:
            raise OptionError(
                "mix", f"{self.mix} and stages are both given: put the mix into the list of stages"
            )

    @property
    def mixes(self) -> tuple[str, ...]:
        """The mix of each stage."""
        return tuple(stage.mix for stage in self.stages) or (self.mix or DEFAULT_MIX,)

    @property
    def run_folder(self) -> str:
        return self.run or f"runs/cls-{slug(self.arm or '-then-'.join(self.mixes))}-seed{self.seed}"
