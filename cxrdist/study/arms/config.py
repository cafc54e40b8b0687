"""The options of a study, and where its sets and runs lie."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cxrdist.config.budget import check_budget
from cxrdist.data.shards.open import synthetic_place
from cxrdist.errors import OptionError
from cxrdist.run.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Run all jobs of a study from a YAML file in configs/study/ and write the report: arms x folds x seeds."""

    name: str = "demo"
    """Name of the study: its runs are in runs/<name>, and it is their W&B group."""
    shards: str = "shards/demo"
    """Set of real images; with folds, <shards>-fold0 and so on. Synthetic sets are written beside them."""
    source: str | None = "phantom --size 64 --seed 0"
    """Arguments of `cxrdist import` (without --out and --folds) that create the sets; null: they must exist."""
    synthetic: str | None = None
    """Synthetic set that exists already, such as one of your own generator: no GAN is trained. null: train GANs."""
    folds: int = 1
    """Folds by patient for cross-validation, 3 or more: fold i is the test set, fold i + 1 the validation set; 1: the
    split of the set."""
    arms: tuple[str, ...] = ("DS1", "DS2", "DS3")
    """Arms to compare: names in configs/arm, or paths of YAML files with options of train_cls.py."""
    reference: str = "DS1"
    """Arm that the others are compared with, beside the best arm of real images alone."""
    margin_points: float = 1.0
    """Smallest gain in balanced accuracy that matters, in points: the report says "no" only if it can exclude it."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the classifiers; one is trained per arm, fold and seed."""
    gan_seeds: tuple[int, ...] = (0,)
    """Seeds of the GANs, each with a synthetic set in every fold; classifier number n uses GAN number n modulo their
    count."""
    gan_config: str = "configs/gan/demo.yaml"
    """Config of train_gan.py."""
    gan_options: tuple[str, ...] = ()
    """Additional options of train_gan.py, such as '--budget=20000 images'."""
    evaluate: bool = True
    """Evaluate the GANs before images are synthesized: the best checkpoint of each becomes its generator."""
    evaluate_options: tuple[str, ...] = ()
    """Additional options of evaluate_gan.py."""
    evaluation_arm: str | None = None
    """Arm of real images whose classifier (of the first seed) provides the features of the evaluation; null:
    evaluate_gan.py trains one for it, in about 2 min at 64 px."""
    synthesis_mix: str | None = None
    """Mix that determines how many images are synthesized; null: DS3 if an arm uses it, else that of the last arm
    that uses synthetic images. Arms that take more repeat them."""
    gates: str = "default"
    """Gates of the synthesis: none, default, strict, or a YAML file like those in configs/gates."""
    gates_arm: str | None = None
    """Arm of real images whose classifiers, of all seeds, the gates use; null: evaluation_arm, and without one
    synthesize.py trains two of its own."""
    synthesis_options: tuple[str, ...] = ()
    """Additional options of synthesize.py, such as '--least-pass-rate=0.01'."""
    cls_config: str | None = None
    """Config of train_cls.py; null: the preset for the image size."""
    cls_options: tuple[str, ...] = ()
    """Additional options of train_cls.py, for all arms."""
    budget: str | None = None
    """Budget of every classifier, such as '32000 images'; null: that of cls_config."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to try for each arm on fold 0 with the first seed; the best one on val is used in all of the
    arm's runs. Empty: that of cls_config."""
    processes: int = 0
    """Processes per job; 0: one per GPU, or on CPU one per core, at most two."""
    parallel: int = 1
    """Jobs at the same time, with an equal share of the GPUs or cores each."""
    share: str | None = None
    """Any name: the jobs are divided among all processes of this study that are given the same one, on machines that
    see the same files, and the last of them writes the report; launch/slurm/study.sbatch gives the number of its
    array. null: this process runs all jobs."""
    report: str = "report"
    """Folder of the report."""
    wandb_report: bool = False
    """Also write a W&B Report of the study: its answer and tables, and panels over its runs (needs W&B online and the
    extra `wandb-report`)."""
    dry_run: bool = False
    """Print arms, jobs, estimated time and disk, and what the study can show; start nothing."""
    power: bool = False
    """Print what the study can show: the smallest differences between arms, and what it takes to show
    margin_points; start nothing."""
    pilot: str | None = None
    """Folder of finished classifiers, of this set or a similar one, from which --power takes the recalls and their
    spread; null: those of the study itself, else assumed ones."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        for name in ("arms", "seeds", "gan_seeds"):
            values = getattr(self, name)
            if not values:
                raise OptionError(name, "must name at least one")
            if len(set(values)) < len(values):
                raise OptionError(name, "names one twice")
        if self.folds != 1 and self.folds < 3:
            raise OptionError(
                "folds",
                f"must be 3 or more (train, val and test are different folds), or 1, not {self.folds}",
            )
        if self.synthetic is not None and self.folds > 1:
            raise OptionError(
                "synthetic", "one set cannot serve several folds: its generator has seen test patients"
            )
        try:
            shlex.split(self.source or "")
        except ValueError as error:
            raise OptionError("source", f"{self.source}: {error}") from None
        if self.processes < 0:
            raise OptionError("processes", f"must be 0 (as many as fit) or more, not {self.processes}")
        if self.parallel < 1:
            raise OptionError("parallel", f"must be 1 or more, not {self.parallel}")
        if self.budget is not None:
            check_budget(self.budget)
        if any(rate <= 0 for rate in self.learning_rates):
            raise OptionError("learning_rates", "must all be more than 0")
        if self.margin_points <= 0:
            raise OptionError("margin_points", f"must be more than 0, not {self.margin_points}")

    @property
    def folder(self) -> Path:
        return Path("runs") / self.name

    def fold_folder(self, fold: int) -> Path:
        """Folder of the runs of a fold."""
        return self.folder / f"fold{fold}" if self.folds > 1 else self.folder

    def set_of(self, fold: int) -> str:
        """Place of the real set of a fold."""
        return f"{self.shards.rstrip('/')}-fold{fold}" if self.folds > 1 else self.shards

    def synthetic_of(self, fold: int, gan_seed: int) -> str:
        """Place of the synthetic set of a GAN, or the given one."""
        if self.synthetic is not None:
            return self.synthetic
        place = synthetic_place(self.set_of(fold))
        return f"{place}-seed{gan_seed}" if len(self.gan_seeds) > 1 else place

    def gan_run(self, fold: int, gan_seed: int) -> Path:
        name = f"gan-seed{gan_seed}" if len(self.gan_seeds) > 1 else "gan"
        return self.fold_folder(fold) / name

    def gan_seed_of(self, seed: int) -> int:
        """The GAN whose images the classifiers of a seed use."""
        return self.gan_seeds[self.seeds.index(seed) % len(self.gan_seeds)]
