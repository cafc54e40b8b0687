"""The jobs of a study and what each of them waits for.

    import ─┬─> classifiers of real arms ──(one of them)──┬────────────┐
            └─> GAN ─> evaluation <───────────────────────┘            │
                          └─> synthesis <──(gates: those of one arm)───┘
                                  └─> classifiers of synthetic arms
                                  └─> prediction, by the classifiers of a teacher ─> classifiers of its students

once per fold, with a GAN of its own in each fold, so that none has seen a test patient of its fold. With several
learning rates, the searches of an arm on the first fold come before its other runs.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.storage.store import store_of
from cxrdist.errors import OptionError, UserError
from cxrdist.files import slug
from cxrdist.process import available_cores
from cxrdist.study.arms.arm import Arm, read_arms, synthesis_mix
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.rates import rate_words, search_name, search_run

SOFT_LABELS = "soft-labels.csv"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process of a study."""

    name: str
    """Unique in the study; also the name of its log."""
    kind: str
    """import, search, classifier, gan, evaluation, synthesis or prediction."""
    command: Callable[[], list[str]]
    """Its command line, known when the jobs that it needs are finished."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that must be finished before."""
    run: Path | None = None
    """Folder of the run that it writes; None for an import."""
    inputs: tuple[Path, ...] = ()
    """Files of other jobs; if one has changed, the job runs again."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arms and jobs of a study, in an order in which they can be run one after the other."""

    config: StudyConfig
    arms: tuple[Arm, ...]
    mix: str | None
    """The mix that images are synthesized for; None if no arm uses any."""
    jobs: tuple[Job, ...]


def plan_study(config: StudyConfig) -> Plan:
    """Raises UserError for arms that do not exist or do not fit together, and a set that does not exist."""
    arms = read_arms(config.arms)
    names = [arm.name for arm in arms]
    for option in ("reference", "evaluation_arm", "gates_arm"):
        wanted = getattr(config, option)
        if wanted is not None and wanted not in names:
            raise OptionError(option, f"{wanted} is none of the arms of the study ({', '.join(names)})")
        judging = next((arm for arm in arms if arm.name == wanted and option != "reference"), None)
        if judging is not None and judging.needs_synthetic:
            raise OptionError(option, f"{judging.name} uses synthetic images; name an arm of real ones")
    mix = synthesis_mix(arms, config.synthesis_mix)
    builder = _Builder(config, arms, mix)
    return Plan(config=config, arms=tuple(arms), mix=mix, jobs=tuple(builder.build()))


class _Builder:
    def __init__(self, config: StudyConfig, arms: Sequence[Arm], mix: str | None) -> None:
        self.config, self.arms, self.mix = config, arms, mix
        self.launch = launcher(config.processes, config.parallel)

    def build(self) -> list[Job]:
        jobs = []
        # Evaluation and synthesis wait for these two.
        judging = (self.config.evaluation_arm, self.config.gates_arm)
        real = [arm for arm in self.arms if not arm.needs_synthetic]
        real.sort(key=lambda arm: arm.name not in judging)
        synthetic = [arm for arm in self.arms if arm.needs_synthetic]
        for fold in range(self.config.folds):
            trains_gans = self.mix is not None and self.config.synthetic is None
            gan_seeds = self.config.gan_seeds if trains_gans else ()
            jobs += self.import_jobs(fold)
            # The longest chain begins first, since other jobs can run beside it.
            jobs += [self.gan(fold, gan_seed) for gan_seed in gan_seeds]
            jobs += self.classifier_jobs(real, fold)
            for gan_seed in gan_seeds:
                jobs += self.synthesis_jobs(str(self.mix), fold, gan_seed)
            jobs += self.prediction_jobs(synthetic, fold)
            jobs += self.classifier_jobs(synthetic, fold)
        return jobs

    def name(self, fold: int, word: str) -> str:
        return f"fold{fold}/{word}" if self.config.folds > 1 else word

    def import_jobs(self, fold: int) -> list[Job]:
        place = self.config.set_of(fold)
        if self.config.source is None:
            if not self.config.dry_run and not store_of(place).exists(MANIFEST):
                raise UserError(f"{place}: no such shard set; import it first, or set the option source")
            return []
        words = [*shlex.split(self.config.source), "--out", place]
        if self.config.folds > 1:
            words += ["--folds", str(self.config.folds), "--fold", str(fold)]
        command = [sys.executable, "-m", "cxrdist", "import", *words]
        # Never skipped: the import finds out whether the set is the one that it would write.
        return [Job(name=self.name(fold, "import"), kind="import", command=lambda: command)]

    def imported(self, fold: int) -> tuple[str, ...]:
        return (self.name(fold, "import"),) if self.config.source is not None else ()

    # ---- classifiers

    def classifier_jobs(self, arms: Sequence[Arm], fold: int) -> list[Job]:
        jobs = []
        if fold == 0 and len(self.config.learning_rates) > 1:
            jobs += [self.search(arm, rate) for arm in arms for rate in self.config.learning_rates]
        for seed in self.config.seeds:
            jobs += [self.classifier(arm, fold, seed) for arm in arms]
        return jobs

    def search(self, arm: Arm, rate: float) -> Job:
        seed, run = self.config.seeds[0], search_run(self.config, arm, rate)
        return Job(
            name=search_name(arm, rate),
            kind="search",
            command=lambda: [*self.classifier_words(arm, 0, seed, run), "--learning-rate", str(rate)],
            needs=self.data_of(arm, 0, seed),
            run=run,
            inputs=self.labels_of(arm, 0, seed),
        )

    def classifier(self, arm: Arm, fold: int, seed: int) -> Job:
        run = classifier_run(self.config, arm, fold, seed)
        rates = self.config.learning_rates
        return Job(
            name=self.name(fold, f"cls-{arm.slug}-seed{seed}"),
            kind="classifier",
            command=lambda: [*self.classifier_words(arm, fold, seed, run), *rate_words(self.config, arm)],
            needs=(
                *self.data_of(arm, fold, seed),
                *(search_name(arm, rate) for rate in rates if len(rates) > 1),
            ),
            run=run,
            inputs=self.labels_of(arm, fold, seed),
        )

    def data_of(self, arm: Arm, fold: int, seed: int) -> tuple[str, ...]:
        """The jobs that make what a classifier reads."""
        if arm.teacher is not None:
            return (self.prediction_name(arm.teacher, fold, self.config.gan_seed_of(seed)),)
        return self.images_of(arm, fold, self.config.gan_seed_of(seed))

    def images_of(self, arm: Arm, fold: int, gan_seed: int) -> tuple[str, ...]:
        if not arm.needs_synthetic or self.config.synthetic is not None:
            return self.imported(fold)
        return (self.of_gan("synthesis", fold, gan_seed),)

    def classifier_words(self, arm: Arm, fold: int, seed: int, run: Path) -> list[str]:
        config = self.config
        base = config.cls_config or preset_of("cls", read_manifest(config.set_of(fold)).image_size)
        words = ["--config", str(find(base)), "--config", str(arm.file), "--arm", arm.name]
        words += ["--seed", str(seed), "--run", str(run), *self.common(fold)]
        if arm.needs_synthetic:
            words += ["--synthetic", config.synthetic_of(fold, config.gan_seed_of(seed))]
        for labels in self.labels_of(arm, fold, seed):
            words += ["--soft-labels", str(labels)]
        if config.budget is not None:
            words += ["--budget", config.budget]
        return [*self.launch, script("train_cls.py"), *words, *config.cls_options]

    # ---- soft labels

    def labels_of(self, arm: Arm, fold: int, seed: int) -> tuple[Path, ...]:
        """The file of soft labels, if an arm has a teacher."""
        if arm.teacher is None:
            return ()
        return (self.prediction_run(arm.teacher, fold, self.config.gan_seed_of(seed)) / SOFT_LABELS,)

    def prediction_jobs(self, arms: Sequence[Arm], fold: int) -> list[Job]:
        """What the classifiers of each teacher, all seeds of the fold together, say of each synthetic set."""
        jobs = {}
        for arm in arms:
            seeds = [self.config.gan_seed_of(seed) for seed in self.config.seeds]
            for gan_seed in dict.fromkeys(seeds) if arm.teacher is not None else ():
                job = self.prediction(arm, str(arm.teacher), fold, gan_seed)
                jobs[job.name] = job
        return [*jobs.values()]

    def prediction(self, arm: Arm, teacher_name: str, fold: int, gan_seed: int) -> Job:
        config = self.config
        teacher = next(each for each in self.arms if each.name == teacher_name)
        teachers = [classifier_run(config, teacher, fold, seed) for seed in config.seeds]
        run = self.prediction_run(teacher_name, fold, gan_seed)
        words = ["--run", ",".join(map(str, teachers)), "--splits", "train", "--out", str(run / SOFT_LABELS)]
        command = [sys.executable, "-m", "cxrdist", "predict", config.synthetic_of(fold, gan_seed), *words]
        return Job(
            name=self.prediction_name(teacher_name, fold, gan_seed),
            kind="prediction",
            command=lambda: command,
            needs=(
                *self.images_of(arm, fold, gan_seed),
                *(self.name(fold, f"cls-{teacher.slug}-seed{seed}") for seed in config.seeds),
            ),
            run=run,
            inputs=tuple(teacher / "summary.json" for teacher in teachers),
        )

    def prediction_name(self, teacher: str, fold: int, gan_seed: int) -> str:
        return self.name(fold, self.prediction_run(teacher, fold, gan_seed).name)

    def prediction_run(self, teacher: str, fold: int, gan_seed: int) -> Path:
        name = f"labels-{slug(teacher)}"
        name += f"-gan{gan_seed}" if len(self.config.gan_seeds) > 1 else ""
        return self.config.fold_folder(fold) / name

    # ---- GANs

    def of_gan(self, kind: str, fold: int, gan_seed: int) -> str:
        word = f"{kind}-seed{gan_seed}" if len(self.config.gan_seeds) > 1 else kind
        return self.name(fold, word)

    def gan(self, fold: int, gan_seed: int) -> Job:
        config, run = self.config, self.config.gan_run(fold, gan_seed)
        words = ["--config", config.gan_config, "--run", str(run), "--seed", str(gan_seed)]
        train = [*self.launch, script("train_gan.py"), *words, *self.common(fold), *config.gan_options]
        name = self.of_gan("gan", fold, gan_seed)
        return Job(name=name, kind="gan", command=lambda: train, needs=self.imported(fold), run=run)

    def synthesis_jobs(self, mix: str, fold: int, gan_seed: int) -> list[Job]:
        """The evaluation of a GAN and the synthesis with it."""
        config, gan = self.config, self.config.gan_run(fold, gan_seed)
        jobs = [self.evaluation(fold, gan_seed)] if config.evaluate else []
        run = gan.with_name(gan.name.replace("gan", "synth", 1))
        place = config.synthetic_of(fold, gan_seed)
        words = ["--gan", str(gan), "--mix", mix, "--out", place, "--run", str(run), "--seed", str(gan_seed)]
        words += ["--gates", config.gates]
        needs = [jobs[-1].name if jobs else self.of_gan("gan", fold, gan_seed)]
        judging = config.gates_arm or config.evaluation_arm
        arm = next((arm for arm in self.arms if arm.name == judging), None)
        classifiers: list[Path] = []
        if arm is not None and config.gates != "none":
            classifiers = [classifier_run(config, arm, fold, seed) for seed in config.seeds]
            words += ["--classifiers", ",".join(map(str, classifiers))]
            needs += [self.name(fold, f"cls-{arm.slug}-seed{seed}") for seed in config.seeds]
        make = [*self.launch, script("synthesize.py"), *words, *self.common(fold), *config.synthesis_options]
        job = Job(
            name=self.of_gan("synthesis", fold, gan_seed),
            kind="synthesis",
            command=lambda: make,
            needs=tuple(needs),
            run=run,
            inputs=tuple(folder / "summary.json" for folder in classifiers),
        )
        return [*jobs, job]

    def evaluation(self, fold: int, gan_seed: int) -> Job:
        config, gan = self.config, self.config.gan_run(fold, gan_seed)
        needs: tuple[str, ...] = (self.of_gan("gan", fold, gan_seed),)
        words = ["--run", str(gan), *self.common(fold), *config.evaluate_options]
        arm = next((arm for arm in self.arms if arm.name == config.evaluation_arm), None)
        if arm is not None:
            seed = config.seeds[0]
            words += ["--classifier", str(classifier_run(config, arm, fold, seed))]
            needs += (self.name(fold, f"cls-{arm.slug}-seed{seed}"),)
        command = [*self.launch, script("evaluate_gan.py"), *words]
        return Job(
            name=self.of_gan("evaluation", fold, gan_seed),
            kind="evaluation",
            command=lambda: command,
            needs=needs,
            run=gan,
        )

    def common(self, fold: int) -> list[str]:
        tracking = self.config.tracking
        words = {"mode": tracking.mode, "group": tracking.group or self.config.name}
        if tracking.project is not None:
            words["project"] = tracking.project
        options = [word for key, value in words.items() for word in (f"--tracking.{key}", value)]
        flags = [name for name in ("system_metrics", "thumbnails") if getattr(tracking, name)]
        options += [f"--tracking.{name.replace('_', '-')}" for name in flags]
        return ["--shards", self.config.set_of(fold), *options]


def classifier_run(config: StudyConfig, arm: Arm, fold: int, seed: int) -> Path:
    return config.fold_folder(fold) / f"cls-{arm.slug}-seed{seed}"


def script(name: str) -> str:
    return str(find(f"launch/{name}"))


def launcher(processes: int, parallel: int) -> list[str]:
    """The command line of ``accelerate launch`` for a job that has a share of this machine."""
    import torch

    gpus = torch.cuda.device_count()
    share = max(1, (gpus or min(2 * parallel, available_cores())) // parallel)
    processes = processes or share
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes == 1:
        plain = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
        return [*words, *plain, "--dynamo_backend", "no", *([] if gpus else ["--cpu"])]
    config = "configs/accelerate/gpu.yaml" if gpus else "configs/accelerate/cpu2.yaml"
    return [*words, "--config_file", str(find(config)), "--num_processes", str(processes)]
