"""Run a study: import, GANs, their evaluation, synthesis, classifiers, report; each step in its own process.

    import -> classifiers on real images -> GANs -> evaluation, which chooses their checkpoints -> synthetic images
      -> classifiers on mixes with synthetic images -> report

Classifiers on real images come first, so that the evaluation can compare the features of one of them. Every step
resumes, or does nothing if it is finished, so running the same command again resumes a study.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrdist.config.parser import to_dict
from cxrdist.config.yaml_files import find, find_named, load_yaml
from cxrdist.console import duration, say
from cxrdist.data.mix.rules import OTHERS, MixRule, WeightRule, rule_from
from cxrdist.data.shards.open import synthetic_place
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.storage.store import store_of
from cxrdist.errors import OptionError, UserError
from cxrdist.process import available_cores, die_with_parent
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.study.evaluation import EVALUATION, read_evaluation
from cxrdist.study.report import write_report
from cxrdist.study.tables import print_table


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Run all steps of a study from a YAML file in configs/study/ and write the report."""

    name: str = "demo"
    """Name of the study: its runs are in runs/<name>, and it is their W&B group."""
    shards: str = "shards/demo"
    """Set of real images; the synthetic one is written to <shards>-synthetic."""
    source: str | None = "phantom --size 64 --seed 0"
    """Arguments of `cxrdist import` (without --out) that create the set; null: it must exist."""
    gan_config: str = "configs/gan/demo.yaml"
    """Config of train_gan.py."""
    gan_options: tuple[str, ...] = ()
    """Additional options of train_gan.py, such as '--budget=20000 images'."""
    evaluate: bool = True
    """Evaluate the GANs before images are synthesized: the best checkpoint of each becomes its generator."""
    evaluate_options: tuple[str, ...] = ()
    """Additional options of evaluate_gan.py."""
    evaluation_mix: str | None = None
    """Mix of real images whose classifier (of the first seed) provides the features of the evaluation; null:
    evaluate_gan.py trains one for it, in about 2 min at 64 px."""
    cls_config: str | None = None
    """Config of train_cls.py; null: the preset for the image size."""
    cls_options: tuple[str, ...] = ()
    """Additional options of train_cls.py."""
    mixes: tuple[str, ...] = ("DS1", "DS2", "DS3")
    """Mixes to compare; the last one that uses synthetic images determines how many are generated."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the classifiers; one is trained per mix and seed."""
    processes: int = 0
    """Processes per job; 0: one per GPU, or on CPU one per core, at most two."""
    report: str = "report"
    """Folder of the report."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        for name in ("mixes", "seeds"):
            if not getattr(self, name):
                raise OptionError(name, "must name at least one")
        if self.processes < 0:
            raise OptionError("processes", f"must be 0 (as many as fit) or more, not {self.processes}")
        if self.evaluation_mix is not None and self.evaluation_mix not in self.mixes:
            raise OptionError("evaluation_mix", f"{self.evaluation_mix} is none of the mixes of the study")

    @property
    def folder(self) -> Path:
        return Path("runs") / self.name

    @property
    def gan_run(self) -> Path:
        return self.folder / "gan"

    def classifier_run(self, mix: str, seed: int) -> str:
        return str(self.folder / f"cls-{Path(mix).stem.lower()}-seed{seed}")

    @property
    def synthetic(self) -> str:
        return synthetic_place(self.shards)


@dataclass(frozen=True)
class Step:
    """One process of a study."""

    title: str
    command: list[str]
    finished: Callable[[], str | None] = lambda: None
    """Called before the process is started. A sentence if there is nothing to do: no process is started then."""


def run_study(config: StudyConfig) -> int:
    from cxrdist.study.tracking import track_study  # loads torch, which --help does not need

    began_s = time.monotonic()
    steps = steps_of(config)
    say(f"study {config.name}: {len(steps)} steps, then the report")
    for number, step in enumerate(steps, 1):
        elapsed = duration(time.monotonic() - began_s)
        say(f"\n[{number}/{len(steps)}] {step.title}  ({elapsed} so far)")
        if done := step.finished():
            say(done)
        else:
            run_step(step)
    runs = [config.folder]
    page = write_report(runs, Path(config.report))
    track_study(config.folder, config.name, config.tracking, to_dict(config))
    say("")
    print_table(runs)
    say(f"\n{duration(time.monotonic() - began_s)} in all. Report: {page}")
    return 0


def steps_of(config: StudyConfig) -> list[Step]:
    steps = []
    if config.source is not None:
        words = [*shlex.split(config.source), "--out", config.shards]
        steps.append(Step(f"import {words[0]}", [sys.executable, "-m", "cxrdist", "import", *words]))
    elif not store_of(config.shards).exists(MANIFEST):
        raise UserError(f"{config.shards}: no such shard set; import it first, or set the option source")
    launch = launcher(config.processes)
    common = ["--shards", config.shards, *tracking_words(config)]
    synthetic_mix = last_synthetic_mix(config.mixes)
    real_mixes = [mix for mix in config.mixes if not rule_of(mix).needs_synthetic]
    if config.evaluation_mix not in (None, *real_mixes):
        raise OptionError(
            "evaluation_mix", f"{config.evaluation_mix} uses synthetic images; name a mix of real images"
        )
    steps += classifier_steps(config, real_mixes, launch, common)
    if synthetic_mix is not None:
        steps += synthetic_steps(config, synthetic_mix, launch, common)
    others = [mix for mix in config.mixes if mix not in real_mixes]
    return steps + classifier_steps(config, others, launch, common)


def classifier_steps(
    config: StudyConfig, mixes: Sequence[str], launch: list[str], common: list[str]
) -> list[Step]:
    preset = ["--config", config.cls_config] if config.cls_config else []
    steps = []
    for seed in config.seeds:
        for mix in mixes:
            words = ["--mix", mix, "--synthetic", config.synthetic, "--seed", str(seed)]
            words += ["--run", config.classifier_run(mix, seed), *common]
            command = [*launch, script("train_cls.py"), *preset, *words, *config.cls_options]
            steps.append(Step(f"classifier on {mix}, seed {seed}", command))
    return steps


def rule_of(mix: str) -> MixRule:
    return rule_from(load_yaml(find_named("mix", mix)))


def last_synthetic_mix(mixes: tuple[str, ...]) -> str | None:
    """The mix that images are synthesized for. Raises UserError if another one needs classes that it does not."""
    rules = {mix: rule_of(mix) for mix in mixes}
    last = next((mix for mix in reversed(mixes) if rules[mix].needs_synthetic), None)
    if last is None:
        return None
    weighted = [rule.weights for rule in rules.values() if isinstance(rule, WeightRule)]
    classes = sorted({name for weights in weighted for name in weights} | {OTHERS})
    if any(OTHERS not in weights for weights in weighted):
        classes.remove(OTHERS)  # that rule names every class
    for mix, rule in rules.items():
        for name in classes:
            if rule.may_take("synthetic", name) and not rules[last].may_take("synthetic", name):
                which = "classes that it does not name" if name == OTHERS else name
                raise UserError(
                    f"mixes: synthetic images are generated for {last}, the last mix that uses any, but {mix} also "
                    f"needs some of {which}: put {mix} last, or give {which} a synthetic weight in {last}"
                )
    return last


def synthetic_steps(config: StudyConfig, mix: str, launch: list[str], common: list[str]) -> list[Step]:
    gan = str(config.gan_run)
    train = ["--config", config.gan_config, "--run", gan, *common, *config.gan_options]
    run = str(config.folder / "synth")
    make = ["--gan", gan, "--mix", mix, "--out", config.synthetic, "--run", run, *common]
    steps = [Step("GANs", [*launch, script("train_gan.py"), *train])]
    if config.evaluate:
        words = ["--run", gan, *common, *config.evaluate_options]
        if config.evaluation_mix is not None:
            words += ["--classifier", config.classifier_run(config.evaluation_mix, config.seeds[0])]
        command = [*launch, script("evaluate_gan.py"), *words]
        steps.append(Step("evaluation of the GANs", command, lambda: already_evaluated(config.gan_run)))
    return [*steps, Step(f"synthetic images for {mix}", [*launch, script("synthesize.py"), *make])]


def already_evaluated(gan: Path) -> str | None:
    """A sentence if the weights that a GAN run exports now are evaluated: evaluate_gan.py would do it again."""
    evaluation = read_evaluation(gan)
    if evaluation is None or not evaluation.is_current:
        return None
    return f"{gan}: already evaluated; nothing to do (remove {gan / EVALUATION} to evaluate again)"


def tracking_words(config: StudyConfig) -> list[str]:
    group = config.tracking.group or config.name
    words = {"mode": config.tracking.mode, "project": config.tracking.project, "group": group}
    flags = [name for name in ("system_metrics", "thumbnails") if getattr(config.tracking, name)]
    return [
        *(word for key, value in words.items() for word in (f"--tracking.{key}", value)),
        *(f"--tracking.{name.replace('_', '-')}" for name in flags),
    ]


def script(name: str) -> str:
    return str(find(f"launch/{name}"))


def launcher(processes: int) -> list[str]:
    """The command line of ``accelerate launch`` for this machine."""
    import torch

    gpus = torch.cuda.device_count()
    processes = processes or gpus or min(2, available_cores())
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes == 1:
        plain = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
        return [*words, *plain, "--dynamo_backend", "no", *([] if gpus else ["--cpu"])]
    config = "configs/accelerate/gpu.yaml" if gpus else "configs/accelerate/cpu2.yaml"
    return [*words, "--config_file", str(find(config)), "--num_processes", str(processes)]


def run_step(step: Step) -> None:
    """Run a step and forward its output. Raises UserError if it fails."""
    process = subprocess.Popen(
        step.command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
        env=quiet_environment(),
    )
    assert process.stderr is not None
    has_error = False
    for line in process.stderr:
        # After the job's one-line error the launcher prints a traceback of its own, which is of no use.
        has_error = has_error or line.startswith("error: ")
        if not has_error or line.startswith("error: "):
            sys.stderr.write(line)
    if process.wait():
        raise UserError(
            f"the step '{step.title}' failed{'' if has_error else f' with exit code {process.returncode}'}; run the "
            "same command again to resume from it"
        )


def quiet_environment() -> dict[str, str]:
    """torchrun warns if OMP_NUM_THREADS is not set; the jobs set their own number of threads."""
    return {"OMP_NUM_THREADS": "1", **os.environ}
