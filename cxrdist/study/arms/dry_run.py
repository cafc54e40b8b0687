"""What a study would do, as text: arms, jobs, dependencies, time and disk."""

from __future__ import annotations

from collections import Counter

from cxrdist.console import duration, say
from cxrdist.study.arms.estimate import Estimator
from cxrdist.study.arms.jobs import Job, Plan

SHOWN_JOBS = 40
GIB = 2**30


def describe(plan: Plan) -> None:
    """Print it; nothing is started."""
    config = plan.config
    say(f"study {config.name}: {len(plan.arms)} arms x {config.folds} folds x {len(config.seeds)} seeds")
    width = max(len(arm.name) for arm in plan.arms)
    for arm in plan.arms:
        say(f"  {arm.name:{width}}  {arm.about}")
    if plan.mix is not None and config.synthetic is not None:
        say(f"synthetic images of {config.synthetic}")
    elif plan.mix is not None:
        count = config.folds * len(config.gan_seeds)
        gans = "1 GAN" if count == 1 else f"{count} GANs, one per fold and GAN seed"
        say(f"synthetic images for {plan.mix}, by {gans}")
    if len(config.learning_rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
        say(f"the learning rate of each arm is searched on fold 0, seed {config.seeds[0]}: {rates}")
    estimate = Estimator(plan).estimate()
    say(f"{len(plan.jobs)} jobs, {config.parallel} at a time:")
    for kind, count in Counter(job.kind for job in plan.jobs).items():
        say(f"  {count:4} x {kind:<10}  about {duration(estimate.seconds_by_kind[kind])} each")
    say(f"  about {duration(estimate.seconds)} in all, from {estimate.basis}")
    say(f"  about {estimate.disk_bytes / GIB:.1f} GiB of disk")
    for job in plan.jobs[:SHOWN_JOBS]:
        say(f"  {_line(job)}")
    if len(plan.jobs) > SHOWN_JOBS:
        say(f"  and {len(plan.jobs) - SHOWN_JOBS} more")


def _line(job: Job) -> str:
    return f"{job.name}" + (f"  <- {', '.join(job.needs)}" if job.needs else "")
