"""The stages of a training: of each its mix, order, number of steps and learning rate.

Stages follow each other without a gap: global step = first step of the stage + step of the stage. A training without
``stages`` is one stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.cls.config import ClsConfig, Stage
from cxrdist.cls.training.optim import sigmoid_decay
from cxrdist.config.budget import budget_steps
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix.order import order_seed
from cxrdist.data.mix.rules import MixRule, Quotas, quotas, with_equal_classes
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.seeds import derive


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage, ready to be trained by this rank."""

    number: int
    rule: MixRule
    quotas: Quotas
    stream: Stream
    first: int
    """Global step at which it starts."""
    steps: int
    learning_rate: float
    is_frozen: bool
    """Only the last linear layer is trained."""

    @property
    def end(self) -> int:
        """Global step after its last one."""
        return self.first + self.steps

    def epoch_at(self, step: int) -> float:
        """Epochs of this stage's mix at a global step."""
        return (step - self.first) * self.stream.batch / self.stream.epoch_images

    def seed(self, run_seed: int, purpose: str) -> int:
        """The seed of a purpose in this stage: stages draw different numbers."""
        return derive(run_seed, purpose, *([self.number] if self.number else []))

    def learning_rate_at(self, step: int, config: ClsConfig) -> float:
        """The rate at a global step, which decays over the stage."""
        return sigmoid_decay(
            self.epoch_at(step),
            self.epoch_at(self.end),
            self.learning_rate,
            config.decay_steepness,
            config.decay_middle,
        )


def plan_stages(
    config: ClsConfig, rules: Sequence[MixRule], real: ShardSet, synthetic: ShardSet | None, dist: Dist
) -> list[StagePlan]:
    """``rules``: of each stage. Raises UserError if a mix does not fit the sets, or the batch does not fit the
    ranks."""
    stages = config.stages or (Stage(mix=config.mixes[0], budget=config.budget),)
    plans: list[StagePlan] = []
    for number, (stage, rule) in enumerate(zip(stages, rules, strict=True)):
        counts = train_counts(real, synthetic if rule.needs_synthetic else None)
        of_epoch = quotas(rule, counts)
        if config.sampling == "balanced":
            of_epoch = with_equal_classes(of_epoch)
        options = StreamOptions(
            batch=config.batch,
            seed=order_seed(config.seed, number),
            rank=dist.rank,
            world_size=dist.world_size,
        )
        stream = Stream(real, synthetic, of_epoch, options)
        steps = budget_steps(
            stage.budget, epoch_images=stream.epoch_images, batch=config.batch, whole=config.budget
        )
        plans.append(
            StagePlan(
                number=number,
                rule=rule,
                quotas=of_epoch,
                stream=stream,
                first=plans[-1].end if plans else 0,
                steps=steps,
                learning_rate=stage.learning_rate or config.learning_rate,
                is_frozen=stage.freeze == "features",
            )
        )
    return plans
